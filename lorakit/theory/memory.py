"""Bytes of a training step and of serving: weights, gradients, optimizer, activations, KV cache, checkpoint.

What transformers, PEFT and torch's AdamW keep is counted: base weights and activations in the run's dtype, or the bits
of a quantised base, adapters in float32, two moments a trained weight in that weight's dtype, norms and the loss in
float32. Not counted: the framework's own memory (`CONTEXT_BYTES` on a GPU), the optimizer's step counters, the copies
of autocast, the scores that eager attention keeps (transformers' for Gemma 2 and gpt-oss). A loss that never holds all
logits (chunked, fused) needs less than is said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lorakit.specs import LoRASpec
from lorakit.theory.compute import adapted_matrices
from lorakit.theory.shapes import ModelShape

# What a GPU holds beside the tensors: driver, libraries' workspaces, and what the allocator keeps in rounded-up blocks.
# Chosen on public measurements (`tests/test_peers_memory.py`): 0 to 3 GB a run, 1.7 in the middle, rounded up.
CONTEXT_BYTES = 2_000_000_000
PARTS = ("weights", "masters", "adapter", "gradients", "optimizer", "foreach", "activations", "logits", "recomputed",
         "accumulated", "tied", "dequantised")
DTYPE_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def trained_weights(shape: ModelShape, lora: LoRASpec | None, full_targets: str = "all") -> int:
    """Weights that a run trains; `full_targets` as in `SFTSpec`, for full fine-tuning.

    >>> trained_weights(ModelShape.of("tiny"), LoRASpec(rank=1))  # 2,048 in attention, 2,304 in the MLP
    4352
    """
    if lora is None and full_targets == "all":
        return shape.parameters
    if lora is None:
        return sum(m.d_out * m.d_in * m.count for m in shape.adapted(full_targets))
    sides = [(m.d_out * m.count // m.share_b, m.d_in * m.count // m.share_a, rank)
             for m, rank in adapted_matrices(shape, lora)]
    return sum(rank * (b + (a if lora.train_a else 0)) for b, a, rank in sides)


def training_bytes(shape: ModelShape, lora: LoRASpec | None, batch_size: int, length: int, dtype: str = "float32",
                   recompute: bool = False, *, foreach: bool = False, master_weights: bool = False,
                   full_targets: str = "all", accumulation: int = 1) -> dict[str, int]:
    """Bytes that a training step keeps, by part; `peak_bytes` says how many of them at once.

    Args:
        shape: of the base; a quantised one (`shape.quantization`) keeps the bits of its format.
        lora: the adapter (float32; float64 over a float64 base); None for full fine-tuning.
        batch_size: sequences in one forward pass.
        length: tokens of a sequence.
        dtype: of the base weights and the activations.
        recompute: gradient checkpointing: a layer keeps its input only, and one layer at a time is made again.
        foreach: whether AdamW updates all weights in one call, as torch does by default on CUDA, and not on a CPU.
        master_weights: whether full fine-tuning in half precision trains float32 copies of its weights, with float32
            moments, and float32 copies of the gradients during the update; otherwise everything is in `dtype`.
        full_targets: what full fine-tuning trains, as in `SFTSpec`.
        accumulation: forward passes of a step; from the second on, the gradients of those before are held, too.

    Returns:
        `weights` (of the base), `masters`, `adapter`, `gradients`, `optimizer`, `foreach` (the root of the second
        moment of all weights), `activations` (saved for the backward pass), `logits` (two more float32 copies while
        the loss is differentiated, and a half-precision model's own logits, which many loops still hold),
        `recomputed` (what the first layer that is made again adds, less the loss that is gone by then),
        `accumulated` (the gradients that are there while a later forward pass runs), `tied` (two more copies of the
        embedding's gradient while it is added to that of a head with the same weights), `dequantised` (the largest
        matrix of a quantised base in `dtype`, while it is multiplied by).

    Raises:
        ValueError: full fine-tuning of a quantised base, whose weights cannot take a gradient.

    >>> parts = training_bytes(ModelShape.of("tiny"), None, 1, 1)
    >>> parts["weights"], parts["optimizer"]  # 393,856 weights of 4 bytes; two moments each
    (1575424, 3150848)
    """
    if lora is None and shape.quantization:
        raise ValueError(f"{shape.name} is quantised ({shape.quantization}): its weights take no gradient; "
                         "train an adapter, or give the config of the base in half precision")
    wide = DTYPE_BYTES[dtype]
    masters = lora is None and master_weights and wide < 4
    own = max(4, wide) if lora or masters else wide
    trained = trained_weights(shape, lora, full_targets)
    adapter = trained_weights(shape, replace(lora, train_a=True)) if lora else 0
    vocabulary, hidden = next((m.d_out, m.d_in) for m in shape.matrices if m.component == "head")
    tokens = batch_size * length
    saved, loss, layer = _saved(shape, lora, tokens, length, wide, recompute)
    packed = [m for m in shape.matrices if shape.quantization and m.component in shape.quantization.components]
    return {"weights": shape.weight_bytes(wide), "masters": trained * 4 if masters else 0,
            "adapter": adapter * own, "gradients": trained * (own + (wide if masters else 0)),
            "optimizer": 2 * trained * own, "foreach": trained * own if foreach else 0, "activations": saved,
            "logits": tokens * vocabulary * (2 * max(4, wide) + (wide if wide < 4 else 0)),
            "recomputed": max(0, layer - loss),
            "accumulated": trained * (wide if masters else own) if accumulation > 1 else 0,
            "tied": 0 if lora or not shape.tied or full_targets != "all" else 2 * vocabulary * hidden * own,
            "dequantised": max((m.d_out * m.d_in * wide for m in packed), default=0)}


def peak_bytes(parts: Mapping[str, int]) -> int:
    """The most that is held at once: activations leave during the backward pass while gradients come.

    Three moments: the loss is differentiated; the backward pass ends; the weights are updated.

    >>> peak_bytes(training_bytes(ModelShape.of("tiny"), None, 1, 1))  # weights, moments, gradients of 393,856
    6301696
    """
    of = {name: parts.get(name, 0) for name in PARTS}
    standing = of["weights"] + of["masters"] + of["adapter"] + of["optimizer"] + of["dequantised"]
    return standing + max(of["gradients"] + max(of["tied"], of["foreach"], of["recomputed"]),
                          of["accumulated"] + of["activations"] + max(of["logits"], of["recomputed"]))


def kv_cache_bytes(shape: ModelShape, tokens: int, dtype: str = "bfloat16") -> int:
    """Bytes of the keys and values of `tokens` cached positions, over all layers.

    >>> kv_cache_bytes(ModelShape.of("llama-3.1-8b"), 1)  # 2 · 32 layers · 1,024 · 2 bytes
    131072
    """
    return tokens * 2 * shape.key_size * shape.layers * DTYPE_BYTES[dtype]


def checkpoint_bytes(shape: ModelShape, lora: LoRASpec | None, dtype: str = "bfloat16") -> int:
    """Bytes of what has to be stored to keep the result of a run: the adapter, or all weights.

    >>> checkpoint_bytes(ModelShape.of("llama-3.1-8b"), None)
    16060522496
    >>> checkpoint_bytes(ModelShape.of("llama-3.1-8b"), LoRASpec(rank=1))  # 2,621,440 weights
    5242880
    """
    weights = trained_weights(shape, replace(lora, train_a=True) if lora else None)
    return weights * DTYPE_BYTES[dtype]


def adapters_that_fit(shape: ModelShape, lora: LoRASpec, free_bytes: float, dtype: str = "bfloat16") -> int:
    """How many adapters fit beside one copy of the base in so many bytes (0 if the base alone does not fit).

    >>> adapters_that_fit(ModelShape.of("llama-3.1-8b"), LoRASpec(rank=16), 80e9)  # (80e9 - 16.06e9) / 83,886,080
    762
    """
    left = free_bytes - shape.weight_bytes(DTYPE_BYTES[dtype])
    return max(0, int(left // checkpoint_bytes(shape, lora, dtype)))


def _saved(shape: ModelShape, lora: LoRASpec | None, tokens: int, length: int, wide: int,
           recompute: bool) -> tuple[int, int, int]:
    """Bytes that autograd saves in a forward pass, how many of them are the loss's, and those of a layer made again.

    Exact for Llama-type models with fused attention; the last, 0 without `recompute`, has the gradients inside it.
    """
    touched = {m.name: rank for m, rank in adapted_matrices(shape, lora)} if lora else {}
    inner = lora is None or recompute or bool(touched.keys() - {"lm_head"})
    width, layers = shape.hidden_size, shape.layers
    vocabulary = next(m.d_out for m in shape.matrices if m.component == "head")
    # the loss keeps log-probabilities and labels; before it come the last norm and the head
    end = vocabulary * max(4, wide) + 8 + _input(lora, touched, wide, width, "lm_head")
    end += _norm(width, wide, lora) if inner else 0
    if lora is None:
        end += 8  # the embedding keeps the token ids
    elif "lm_head" in touched:
        end += 4 * touched["lm_head"]
    later = _layer(shape, lora, touched, wide, reached=True)
    if recompute:
        working = later + (3 * shape.inner_size + width) * wide  # gradients of the product, of both its factors
        return tokens * (layers * width * wide + end) + 4, tokens * end, tokens * working
    first = _layer(shape, lora, touched, wide, reached=lora is None)
    # cosine and sine of the positions serve all layers and sequences
    rotary = 2 * length * shape.head_dim * wide if inner else 0
    return tokens * (first + (layers - 1) * (later if inner else 0) + end) + rotary + 4, tokens * end, 0


def _layer(shape: ModelShape, lora: LoRASpec | None, touched: dict[str, int], wide: int, reached: bool) -> int:
    """Bytes a token that one decoder layer saves; `reached`: its input depends on a trained weight."""
    width, queries, keys = shape.hidden_size, shape.query_size, shape.key_size
    norms = shape.norms // 2  # of attention, and as many of the MLP
    saved = norms * _norm(width, wide, lora) if reached else 0
    saved += _input(lora, touched, wide, width, "q_proj", "k_proj", "v_proj", "qkv_proj")
    attends = reached or touched.keys() & {"q_proj", "k_proj", "v_proj", "qkv_proj"}
    if attends:  # queries, keys, values, output, and the log of each row's sum
        saved += (2 * queries + 2 * keys) * wide + queries // shape.head_dim * max(4, wide)
        if any(m.name == "qkv_proj" for m in shape.matrices):  # the fused product stays beside what was rotated
            saved += (queries + keys) * wide
        if shape.head_norms:  # of each head, as in Qwen 3, or of all at once, as in OLMo 2
            size = {"head": (shape.head_dim, shape.head_dim), "whole": (queries, keys)}[shape.head_norms]
            saved += sum(_norm(n, wide, lora) * side // n for n, side in zip(size, (queries, keys), strict=True))
    if not (attends and lora and wide >= 4):
        saved += _input(lora, touched, wide, queries, "o_proj") if lora else 0
    reached = bool(attends or "o_proj" in touched)
    saved += norms * _norm(width, wide, lora) if reached else 0
    saved += _input(lora, touched, wide, width, "gate_proj", "up_proj", "gate_up_proj")
    gate, up = (reached or bool({name, "gate_up_proj"} & touched.keys()) for name in ("gate_proj", "up_proj"))
    saved += shape.inner_size * wide * (2 * gate + up)  # the gate before its activation, the other factor of each
    saved += _input(lora, touched, wide, shape.inner_size, "down_proj")
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
