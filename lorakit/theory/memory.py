"""Bytes of a training step and of serving: weights, gradients, optimizer, activations, KV cache, checkpoint.

What transformers, PEFT and torch's AdamW keep is counted: base weights and activations in the run's dtype, adapters in
float32, two moments a trained weight in that weight's dtype, norms and the loss in float32. Not counted: the
framework's own memory, fragmentation, the optimizer's step counters. Autocast and 4-bit bases keep other copies.
"""

from __future__ import annotations

from dataclasses import replace

from lorakit.specs import LoRASpec
from lorakit.theory.compute import adapted_matrices
from lorakit.theory.shapes import ModelShape

DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def trained_weights(shape: ModelShape, lora: LoRASpec | None) -> int:
    """Weights that a run trains.

    >>> trained_weights(ModelShape.of("tiny"), LoRASpec(rank=1))  # 2,048 in attention, 2,304 in the MLP
    4352
    """
    if lora is None:
        return shape.parameters
    sides = [(m.d_out * m.count // m.share_b, m.d_in * m.count // m.share_a, rank)
             for m, rank in adapted_matrices(shape, lora)]
    return sum(rank * (b + (a if lora.train_a else 0)) for b, a, rank in sides)


def training_bytes(shape: ModelShape, lora: LoRASpec | None, batch_size: int, length: int, dtype: str = "float32",
                   recompute: bool = False) -> dict[str, int]:
    """Bytes that a training step keeps, by part; `peak_bytes` says how many of them at once.

    Args:
        shape: of the base.
        lora: the adapter (float32; float64 over a float64 base); None for full fine-tuning in `dtype` throughout.
        batch_size: sequences in one forward pass.
        length: tokens of a sequence.
        dtype: of the base weights and the activations.
        recompute: gradient checkpointing: a layer keeps its input only, and one layer at a time is made again.

    Returns:
        `weights` (of the base), `adapter`, `gradients`, `optimizer`, `activations` (saved for the backward pass),
        `logits` (two more float32 copies while the loss is differentiated), `tied` (two more copies of the embedding's
        gradient while it is added to that of a head with the same weights).

    >>> parts = training_bytes(ModelShape.of("tiny"), None, 1, 1)
    >>> parts["weights"], parts["optimizer"]  # 393,856 weights of 4 bytes; two moments each
    (1575424, 3150848)
    """
    wide = DTYPE_BYTES[dtype]
    own = wide if lora is None else max(4, wide)
    trained = trained_weights(shape, lora)
    adapter = trained_weights(shape, replace(lora, train_a=True)) if lora else 0
    vocabulary, hidden = next((m.d_out, m.d_in) for m in shape.matrices if m.component == "head")
    return {"weights": shape.parameters * wide, "adapter": adapter * own, "gradients": trained * own,
            "optimizer": 2 * trained * own,
            "activations": _saved(shape, lora, batch_size * length, length, wide, recompute),
            "logits": 2 * batch_size * length * vocabulary * max(4, wide),
            "tied": 0 if lora or not shape.tied else 2 * vocabulary * hidden * wide}


def peak_bytes(parts: dict[str, int]) -> int:
    """The most that is held at once: activations leave during the backward pass while gradients come.

    >>> peak_bytes(training_bytes(ModelShape.of("tiny"), None, 1, 1))  # weights, moments, gradients of 393,856
    6301696
    """
    standing = parts["weights"] + parts["adapter"] + parts["optimizer"]
    return standing + max(parts["gradients"] + parts["tied"], parts["activations"] + parts["logits"])


def kv_cache_bytes(shape: ModelShape, tokens: int, dtype: str = "bfloat16") -> int:
    """Bytes of the keys and values of `tokens` cached positions, over all layers.

    >>> kv_cache_bytes(ModelShape.of("llama-3.1-8b"), 1)  # 2 · 32 layers · 1,024 · 2 bytes
    131072
    """
    keys = [m for m in shape.matrices if m.name in ("k_proj", "v_proj")]
    return tokens * sum(m.d_out * m.count for m in keys) * DTYPE_BYTES[dtype]


def checkpoint_bytes(shape: ModelShape, lora: LoRASpec | None, dtype: str = "bfloat16") -> int:
    """Bytes of what has to be stored to keep the result of a run: the adapter, or all weights.

    >>> checkpoint_bytes(ModelShape.of("llama-3.1-8b"), None)
    16060522496
    >>> checkpoint_bytes(ModelShape.of("llama-3.1-8b"), LoRASpec(rank=1))  # 2,621,440 weights
    5242880
    """
    weights = trained_weights(shape, replace(lora, train_a=True) if lora else None)
    return weights * DTYPE_BYTES[dtype]


def adapters_that_fit(shape: ModelShape, lora: LoRASpec, room: float, dtype: str = "bfloat16") -> int:
    """How many adapters fit beside one copy of the base in `room` bytes (0 if the base alone does not fit).

    >>> adapters_that_fit(ModelShape.of("llama-3.1-8b"), LoRASpec(rank=16), 80e9)  # (80e9 - 16.06e9) / 83,886,080
    762
    """
    left = room - checkpoint_bytes(shape, None, dtype)
    return max(0, int(left // checkpoint_bytes(shape, lora, dtype)))


def _saved(shape: ModelShape, lora: LoRASpec | None, tokens: int, length: int, wide: int, recompute: bool) -> int:
    """Bytes that autograd saves in a forward pass: exact for Llama-type models with fused attention."""
    touched = {m.name: rank for m, rank in adapted_matrices(shape, lora)} if lora else {}
    inner = lora is None or recompute or bool(touched.keys() - {"lm_head"})
    size = {m.name: m for m in shape.matrices}
    width, layers, vocabulary = size["q_proj"].d_in, size["q_proj"].count, size["lm_head"].d_out
    # the loss keeps log-probabilities and labels; before it come the last norm and the head
    end = vocabulary * max(4, wide) + 8 + _input(lora, touched, wide, width, "lm_head")
    end += _norm(width, wide, lora) if inner else 0
    if lora is None:
        end += 8  # the embedding keeps the token ids
    elif "lm_head" in touched:
        end += 4 * touched["lm_head"]
    later = _layer(shape, lora, touched, wide, reached=True)
    if recompute:
        return tokens * (layers * width * wide + end + later) + 4
    first = _layer(shape, lora, touched, wide, reached=lora is None)
    # cosine and sine of the positions serve all layers and sequences
    rotary = 2 * length * shape.head_dim * wide if inner else 0
    return tokens * (first + (layers - 1) * (later if inner else 0) + end) + rotary + 4


def _layer(shape: ModelShape, lora: LoRASpec | None, touched: dict[str, int], wide: int, reached: bool) -> int:
    """Bytes a token that one decoder layer saves; `reached`: its input depends on a trained weight."""
    size = {m.name: m for m in shape.matrices}
    width, queries, keys = size["q_proj"].d_in, size["q_proj"].d_out, size["k_proj"].d_out
    inner = (shape.active_experts or 1) * size["gate_up_proj"].d_out // 2 if shape.experts else size["gate_proj"].d_out
    saved = _norm(width, wide, lora) if reached else 0
    saved += _input(lora, touched, wide, width, "q_proj", "k_proj", "v_proj")
    attends = reached or touched.keys() & {"q_proj", "k_proj", "v_proj"}
    if attends:  # queries, keys, values, output, and the log of each row's sum
        saved += (2 * queries + 2 * keys) * wide + queries // shape.head_dim * max(4, wide)
        if shape.vectors["norms"] > width * (2 * size["q_proj"].count + 1):  # norms of heads, as in Qwen3
            saved += sum(_norm(shape.head_dim, wide, lora) * side // shape.head_dim for side in (queries, keys))
    if not (attends and lora and wide >= 4):
        saved += _input(lora, touched, wide, queries, "o_proj") if lora else 0
    reached = bool(attends or "o_proj" in touched)
    saved += _norm(width, wide, lora) if reached else 0
    saved += _input(lora, touched, wide, width, "gate_proj", "up_proj")
    gate, up = (reached or name in touched for name in ("gate_proj", "up_proj"))
    saved += inner * wide * (2 * gate + up)  # the gate before its activation, the other factor of each
    saved += _input(lora, touched, wide, inner, "down_proj")
    return saved + sum(4 * rank for name, rank in touched.items() if name != "lm_head")  # what lies between A and B


def _norm(width: int, wide: int, lora: LoRASpec | None) -> int:
    """Input and scale in float32; the normed row too where the norm's own weights learn."""
    return (width + 1) * max(4, wide) + (0 if lora else width * wide)


def _input(lora: LoRASpec | None, touched: dict[str, int], wide: int, width: int, *names: str) -> int:
    """What matrices that share an input keep of it: one copy; over a half-precision base a float32 copy an adapter."""
    if lora is None:
        return width * wide
    adapters = len(touched.keys() & set(names)) if lora.train_a else 0
    return width * (4 * adapters if wide < 4 else wide * bool(adapters))
