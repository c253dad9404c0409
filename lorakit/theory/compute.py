"""FLOPs of a training step: what each matrix product of forward, backward and recompute costs, full and LoRA.

Counted: matrix products (2 FLOPs a multiply-add), all positions of a sequence, the whole square of attention scores (as
the usual counters do; a causal kernel may skip half). Not counted: norms, activations, softmax, the optimizer: less
than 1 % of the FLOPs, though not of the time. Experts count for the tokens that visit them.
"""

from __future__ import annotations

from lorakit.specs import LoRASpec
from lorakit.theory.matrices import Matrix
from lorakit.theory.shapes import ModelShape

INTO_ATTENTION = ("q_proj", "k_proj", "v_proj", "qkv_proj")


def adapted_matrices(shape: ModelShape, lora: LoRASpec) -> list[tuple[Matrix, int]]:
    """The matrices that an adapter sits on, each with its rank there; experts as PEFT lays them out, or shared-outer.

    >>> [(m.name, rank) for m, rank in adapted_matrices(ModelShape.of("tiny"), LoRASpec(rank=2, targets="mlp"))]
    [('gate_proj', 2), ('up_proj', 2), ('down_proj', 2)]
    """
    group, experts = lora.targets, "peft"
    head = isinstance(group, str) and group.endswith("+head")
    if isinstance(group, str):
        group = group.removesuffix("+head")
        if "experts" in group:
            experts = "shared-outer" if lora.shared_outer else "fused"
            group = "attention" if group == "attention+experts" else ()
    return [(m, (lora.expert_rank or lora.rank if m.component == "experts" else lora.rank) * m.rank_factor)
            for m in shape.adapted(group, head, experts)]


def training_flops(shape: ModelShape, lora: LoRASpec | None, length: int, recompute: bool = False,
                   label_share: float = 1.0, full_targets: str = "all") -> dict[str, float]:
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
        full_targets: what full fine-tuning trains, as in `SFTSpec`.

    >>> tiny = ModelShape.of("tiny")
    >>> full = training_flops(tiny, None, length=32)
    >>> full["matrices"]  # 6 FLOPs a token for each of the 327,680 weights of linear layers
    1966080.0
    >>> full["head"]  # 6 · 128 · 256
    196608.0
    """
    adapters = adapted_matrices(shape, lora) if lora else []
    touched = {m.name for m, _ in adapters}
    learning = shape.matrices if full_targets == "all" else shape.adapted(full_targets)
    trained = {(m.component, m.name) for m in learning}
    everywhere = lora is None or recompute  # gradients flow down to the embedding's output
    inner = everywhere or bool(touched - {"lm_head"})  # else only the head learns, and no gradient leaves it
    reached = _reached(touched)

    def passes(m: Matrix) -> tuple[float, float]:
        """How many of these matrices a token is multiplied by, and how many of those owe a gradient of their input."""
        visits = m.count * (label_share if m.component == "head" else 1.0)
        visits *= (shape.active_experts or 1) / (shape.experts or 1) if m.component == "experts" else 1.0
        here = everywhere or m.component == "head" or m.name in reached
        return visits, (visits * (1 if here else 1 - 1 / layers)) if inner else 0.0

    layers = shape.layers
    parts = dict.fromkeys(("matrices", "adapters", "scores", "head", "recompute"), 0.0)
    for m in (m for m in shape.matrices if m.component != "embedding"):
        product, (visits, upstream) = 2.0 * m.d_in * m.d_out, passes(m)
        own = 0.0 if lora or (m.component, m.name) not in trained else visits
        parts["head" if m.component == "head" else "matrices"] += product * (visits + upstream + own)
        if recompute and m.component != "head" and (m.name != "down_proj" or m.name in touched):
            parts["recompute"] += product * visits
    for m, rank in adapters:
        down, up, (visits, upstream) = 2.0 * rank * m.d_in, 2.0 * rank * m.d_out, passes(m)
        to_a = visits if lora and lora.train_a else 0.0
        parts["adapters"] += (down + up) * visits  # forward
        parts["adapters"] += up * visits + down * to_a  # gradients of B and A
        parts["adapters"] += up * max(to_a, upstream) + down * upstream  # of what lies between them, and of the input
        if recompute and m.component != "head":
            parts["recompute"] += (down + (0 if m.name == "down_proj" else up)) * visits
    first = 0 if everywhere or touched & set(INTO_ATTENTION) else 1
    score = 2.0 * length * shape.query_size
    parts["scores"] = score * (2 * layers + (5 * (layers - first) if inner else 0))
    if recompute:
        parts["recompute"] += 2 * score * layers
    return parts


def forward_flops(shape: ModelShape, lora: LoRASpec | None, length: int) -> float:
    """FLOPs of a forward pass per token: an evaluation's.

    >>> forward_flops(ModelShape.of("tiny"), None, 32)  # 2 · 360,448 weights, scores 2 · 2 layers · 2 · 32 · 128
    753664.0
    """
    seldom = (shape.active_experts or 1) / (shape.experts or 1)
    products = [(m, m.count * (seldom if m.component == "experts" else 1.0), m.d_in * m.d_out)
                for m in shape.matrices if m.component != "embedding"]
    products += [(m, m.count * (seldom if m.component == "experts" else 1.0), rank * (m.d_in + m.d_out))
                 for m, rank in (adapted_matrices(shape, lora) if lora else [])]
    return sum(2.0 * size * visits for _, visits, size in products) + 4.0 * length * shape.query_size * shape.layers


def _reached(touched: set[str]) -> set[str]:
    """Matrices of the first layer whose input depends on an adapter before them, so that they owe an input gradient."""
    attention = touched & set(INTO_ATTENTION)
    found = {"o_proj"} if attention else set()
    if attention or "o_proj" in touched:
        found |= {"gate_proj", "up_proj", "gate_up_proj", "gate", "down_proj"}
    elif touched & {"gate_proj", "up_proj", "gate_up_proj", "gate"}:
        found |= {"down_proj"}
    return found
