import pytest

from lorakit.specs import LoRASpec
from lorakit.theory.compute import adapted_matrices, forward_flops, training_flops
from lorakit.theory.shapes import ModelShape

LLAMA = ModelShape.of("llama-3.1-8b")


@pytest.mark.parametrize("rank", [1, 16, 256, 683])
def test_a_square_matrix_with_an_adapter_costs_six_products_of_it_a_rank(rank):
    """2 N² + 6 N R multiply-adds (Schulman et al. 2025); the first adapter of all owes no gradient of its input."""
    n, adapters = 4096, 2 * 32
    parts = training_flops(LLAMA, LoRASpec(rank=rank, targets=("q_proj", "o_proj")), 1024)
    assert parts["adapters"] == 2 * (6 * adapters - 1) * n * rank


def test_full_fine_tuning_costs_six_flops_a_weight_and_the_scores():
    parts = training_flops(LLAMA, None, length=1024)
    linear = LLAMA.parameters - LLAMA.parameters_by_component["norms"] - 2 * 128256 * 4096
    assert parts["matrices"] == 6 * linear
    assert parts["head"] == 6 * 128256 * 4096
    assert parts["scores"] == 7 * 2 * 1024 * 4096 * 32  # two products forward, five backward
    assert parts["adapters"] == parts["recompute"] == 0


def test_lora_needs_no_input_gradient_below_its_first_adapter():
    low, high = (training_flops(LLAMA, LoRASpec(targets=(name,)), 1024) for name in ("q_proj", "down_proj"))
    first_o, first_mlp = 2 * 4096**2, 2 * 3 * 4096 * 14336
    assert low["matrices"] - high["matrices"] == first_o + first_mlp
    assert low["scores"] - high["scores"] == 5 * 2 * 1024 * 4096


def test_an_adapter_on_the_head_alone_has_no_backward_pass_below():
    parts = training_flops(LLAMA, LoRASpec(rank=4, targets=("lm_head",)), 1024)
    assert parts["matrices"] + parts["head"] + parts["scores"] == forward_flops(LLAMA, None, 1024)
    assert parts["adapters"] == 2 * 4 * (2 * 4096 + 3 * 128256)


def test_only_labels_need_the_head():
    whole, half = (training_flops(LLAMA, None, 64, label_share=share)["head"] for share in (1.0, 0.5))
    assert half == whole / 2


def test_a_token_pays_for_the_experts_it_visits():
    moe = ModelShape.of("qwen3-30b-a3b")
    experts = sum(m.d_in * m.d_out * m.count for m in moe.matrices if m.component == "experts")
    dense = sum(m.d_in * m.d_out * m.count for m in moe.matrices if m.component in ("attention", "router"))
    assert training_flops(moe, None, 64)["matrices"] == pytest.approx(6 * (dense + experts * 8 / 128))


@pytest.mark.parametrize(("lora", "ranks"), [
    (LoRASpec(rank=4, targets="attention+experts", expert_rank=2), {"q_proj": 4, "gate_up_proj": 2, "down_proj": 2}),
    (LoRASpec(rank=4, targets="attention+experts", shared_outer=True), {"q_proj": 4, "gate_proj": 4, "up_proj": 4}),
    (LoRASpec(rank=4, targets="experts"), {"gate_up_proj": 4}),
    (LoRASpec(rank=4), {"gate_up_proj": 8, "down_proj": 4, "gate": 4}),
])
def test_experts_have_ranks_of_their_own(lora, ranks):
    found = {m.name: rank for m, rank in adapted_matrices(ModelShape.of("qwen3-30b-a3b"), lora)}
    assert ranks.items() <= found.items()
    assert ("q_proj" in found) == (lora.targets != "experts")


def test_groups_with_the_head_reach_it():
    for targets in ("attention+head", "mlp+head", "all-linear+head"):
        names = {m.name for m, _ in adapted_matrices(LLAMA, LoRASpec(targets=targets))}
        assert "lm_head" in names
        assert ("q_proj" in names) == (targets != "mlp+head")
