"""FLOPs of a training step: what each matrix product of forward, backward and recompute costs, full and LoRA.

Counted: matrix products (2 FLOPs a multiply-add), all positions of a sequence, the whole square of attention scores (as
the usual counters do; a causal kernel may skip half). Not counted: norms, activations, softmax, the optimizer: less
than 1 % of the FLOPs, though not of the time. Experts count for the tokens that visit them.
"""

from __future__ import annotations

from lorakit.specs import LoRASpec
from lorakit.theory.shapes import Matrix, ModelShape

INTO_ATTENTION = ("q_proj", "k_proj", "v_proj")


def lora_over_full(d_out: int, d_in: int, rank: int, recompute: bool = False) -> float:
    """FLOPs of training one (d_out, d_in) matrix with LoRA divided by full fine-tuning's.

    Multiply-adds a token: full 3 · d_in · d_out (forward, input gradient, weight gradient), LoRA 2 · d_in · d_out +
    3 · rank · (d_in + d_out). For N × N that is (2 N² + 6 N R) / 3 N² (Schulman et al. 2025). Recompute adds a forward
    pass to both.

    >>> round(lora_over_full(4096, 4096, 256), 4)  # 2/3 + 2 · 256 / 4096
    0.7917
    >>> lora_over_full(600, 600, 100)  # at N / 6 nothing is saved
    1.0
    """
    passes = 4 if recompute else 3
    square, sides = d_in * d_out, rank * (d_in + d_out)
    return ((passes - 1) * square + passes * sides) / (passes * square)


def break_even_rank(d_out: int, d_in: int) -> float:
    """The rank at which LoRA's matrix products cost as much as full fine-tuning's: d_in · d_out / 3 (d_in + d_out).

    >>> break_even_rank(4096, 4096)  # N / 6
    682.6666666666666
    """
    return d_in * d_out / (3 * (d_in + d_out))


def training_flops(shape: ModelShape, lora: LoRASpec | None, length: int, recompute: bool = False,
                   label_share: float = 1.0) -> dict[str, float]:
    """FLOPs of one training step per token, by part; their sum is the step's cost per token.

    What transformers and PEFT really do is counted. LoRA's input embedding is frozen, so the first layer has no input
    gradient (nor a backward pass before its first adapter), unless `recompute` is on, which makes transformers ask for
    it. Recompute stops at the last value that the backward pass needs, so a layer's last product (`down_proj`, or its
    B) is not made again. Attention's backward pass makes the scores once more, as fused kernels do.

    Args:
        shape: of the base.
        lora: the adapter; None for full fine-tuning.
        length: tokens of a sequence.
        recompute: gradient checkpointing, a decoder layer at a time.
        label_share: share of the positions that go through the head: 1 in transformers and TRL; the packed engine
            sends only positions with a label.

    >>> tiny = ModelShape.of("tiny")
    >>> full = training_flops(tiny, None, length=32)
    >>> full["matrices"]  # 6 FLOPs a token for each of the 327,680 weights of linear layers
    1966080.0
    >>> full["head"]  # 6 · 128 · 256
    196608.0
    """
    adapted = {(m.component, m.name): m for m in shape.adapted(lora.targets)} if lora else {}
    touched = {name for _, name in adapted}
    everywhere = lora is None or recompute  # gradients flow down to the embedding's output
    inner = everywhere or bool(touched - {"lm_head"})  # else only the head learns, and no gradient leaves it
    reached = _reached(touched)
    parts = dict.fromkeys(("matrices", "adapters", "scores", "head", "recompute"), 0.0)
    for m in shape.matrices:
        if m.component == "embedding":
            continue
        head = m.component == "head"
        visits = _visits(shape, m) * (label_share if head else 1.0)
        first = 0.0 if head or everywhere or m.name in reached else visits / _layers(shape, m)
        with_input_gradient = visits - first if inner else 0.0
        product = 2.0 * m.d_in * m.d_out
        learned = adapted.get((m.component, m.name))
        parts["head" if head else "matrices"] += product * (visits + with_input_gradient + (0 if lora else visits))
        again = product * visits
        if lora and learned:
            down, up = (2.0 * lora.rank * learned.rank_factor * side for side in (m.d_in, m.d_out))
            learning = visits if lora.train_a else 0.0
            parts["adapters"] += (down * (visits + learning + with_input_gradient)
                                  + up * (2 * visits + (visits if lora.train_a else with_input_gradient)))
            again += (down + (0 if m.name == "down_proj" else up)) * visits
        elif m.name == "down_proj":
            again = 0.0
        if recompute and not head:
            parts["recompute"] += again
    queries = next(m for m in shape.matrices if m.name == "q_proj")
    first = 0 if everywhere or touched & set(INTO_ATTENTION) else 1
    score, layers = 2.0 * length * queries.d_out, queries.count
    parts["scores"] = score * (2 * layers + (5 * (layers - first) if inner else 0))
    if recompute:
        parts["recompute"] += 2 * score * layers
    return parts


def forward_flops(shape: ModelShape, lora: LoRASpec | None, length: int) -> float:
    """FLOPs of a forward pass per token: an evaluation's.

    >>> forward_flops(ModelShape.of("tiny"), None, 32)  # 2 · 360,448 weights, scores 2 · 2 layers · 2 · 32 · 128
    753664.0
    """
    matrices = [m for m in shape.matrices if m.component != "embedding"]
    products = sum(2.0 * m.d_in * m.d_out * _visits(shape, m) for m in matrices)
    rank = lora.rank if lora else 0
    adapters = sum(2.0 * rank * m.rank_factor * (m.d_in + m.d_out) * _visits(shape, m)
                   for m in (shape.adapted(lora.targets) if lora else []))
    queries = next(m for m in shape.matrices if m.name == "q_proj")
    return products + adapters + 4.0 * length * queries.d_out * queries.count


def _visits(shape: ModelShape, m: Matrix) -> float:
    """How many matrices of this kind one token goes through."""
    if m.component == "experts":
        return m.count * (shape.active_experts or 1) / (shape.experts or 1)
    return float(m.count)


def _layers(shape: ModelShape, m: Matrix) -> float:
    return m.count / (shape.experts or 1) if m.component == "experts" else m.count


def _reached(touched: set[str]) -> set[str]:
    """Matrices of the first layer whose input depends on an adapter before them, so that they owe an input gradient."""
    attention = touched & set(INTO_ATTENTION)
    found = {"o_proj"} if attention else set()
    if attention or "o_proj" in touched:
        found |= {"gate_proj", "up_proj", "gate_up_proj", "gate", "down_proj"}
    elif touched & {"gate_proj", "up_proj", "gate_up_proj", "gate"}:
        found |= {"down_proj"}
    return found
