"""The embedded mixture of experts."""

import pytest
from plain_training import data, spec
from test_moe import mixture, trained

from lorakit.adapters.peft_layers import attach
from lorakit.bases.models import embedded_record, load_model
from lorakit.reference.peft_loop import probe_peft
from lorakit.specs import LoRASpec
from lorakit.sweep.worker import run_specs
from lorakit.theory.shapes import ModelShape


@pytest.mark.parametrize(("lora", "layout", "rank"), [
    (LoRASpec(rank=16, targets="attention+experts", expert_rank=8), "fused", 8),
    (LoRASpec(rank=16, targets="attention+experts", expert_rank=2), "fused", 2),
    (LoRASpec(rank=16, targets="attention+experts", shared_outer=True), "shared-outer", 16),
    (LoRASpec(rank=16, targets="attention+experts", shared_outer=True, expert_rank=12), "shared-outer", 12),
])
def test_each_convention_has_the_weights_that_paper_says(lora, layout, rank):
    model = attach(load_model("tiny-moe")[0], lora, seed=0)
    expected = ModelShape.of("tiny-moe").lora_parameters(16, "attention", experts=layout, expert_rank=rank)
    assert trained(model) == sum(expected.values())


def test_the_arms_that_are_compared_are_equally_large():
    counts = [trained(attach(load_model("tiny-moe")[0], LoRASpec(rank=rank, targets=targets), seed=0))
              for rank, targets in ((40, "attention"), (8, "experts"))]
    assert counts == [40_960, 40_960]


def test_the_worker_runs_it_and_says_so():
    run = spec(steps=2, evaluations=2, lora={"targets": "experts"})
    run = type(run)(**{**run.__dict__, "model": "tiny-moe", "dataset": "reworded-skills", "max_length": 40})
    (record,), _ = run_specs([run], "peft", "cpu")
    assert (record.status, record.provenance["engine"], record.provenance["pack"]) == ("ok", "peft", 1)
    assert probe_peft(spec(lora={"targets": "experts"}), mixture(), data())["seconds"] > 0


def test_the_embedded_mixture_says_what_a_token_meets():
    record = embedded_record("tiny-moe")
    shape = ModelShape.of("tiny-moe")
    experts = shape.parameters_by_component["experts"]
    assert record["parameters"] == shape.parameters == 263_616
    assert record["active_parameters"] == shape.parameters - experts + experts * 2 // 8
    assert all(sum(layer) == pytest.approx(1, abs=1e-3) for layer in record["pretraining"]["expert_shares"])
