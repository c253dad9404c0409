"""Recompute and micro-batches: less memory, the same numbers, the same ids."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_rollout import drawn, keep_float64, model

from lorakit.bases.memory_saving import fitted, recomputed, smaller
from lorakit.bases.models import load_model
from lorakit.packed.packing import pack_key
from lorakit.records import Record
from lorakit.rl.rollout import log_probs
from lorakit.specs import GRPOSpec, LoRASpec, SFTSpec, SpecError, read_spec
from lorakit.sweep.worker import answer

# Rows of this dataset differ in their number of label tokens.
SFT = SFTSpec(model="tiny-w32-s0", dataset="reworded-skills", learning_rate=1e-3, steps=3, batch_size=4,
              accumulation=2, max_length=40, evaluations=2, evaluation_tokens=64, lora=LoRASpec(rank=2),
              dtype="float64")
RL = GRPOSpec(model="tiny-w32-s0", task="copy", learning_rate=1e-3, steps=2, prompts_per_step=3, group_size=4,
              max_completion_length=4, evaluations=2, evaluation_problems=4, lora=LoRASpec(rank=2), dtype="float64")
CASES = {"sft-packed": (SFT, "packed"), "sft-trl": (SFT, "trl"), "sft-peft": (SFT, "peft"),
         "rl-packed": (RL, "packed"), "rl-trl": (RL, "trl")}


def run(spec, engine: str) -> Record:
    events: list = []
    answer({"do": "run", "engine": engine, "specs": [spec.to_json()], "device": "cpu"}, events.append)
    assert "error" not in events[-1], events[-1]
    return Record.from_json(events[-1]["records"][0])


@pytest.mark.filterwarnings("ignore::lorakit.rl.episodes.NoRewardWarning")
@pytest.mark.parametrize("lora", [LoRASpec(rank=2), None], ids=["lora", "full"])
@pytest.mark.parametrize(("base", "engine"), CASES.values(), ids=CASES)
def test_every_engine_gives_the_same_numbers_with_less_memory(base, engine, lora):
    plain = replace(base, lora=lora)
    expected, saving = run(plain, engine), run(replace(plain, recompute=True, micro_batch=1), engine)
    assert saving.spec["recompute"] is True
    assert saving.spec["micro_batch"] == 1
    assert saving.id == expected.id
    bound = 1e-7 if engine == "trl" else 1e-9  # TRL adds up a part of its loss in float32
    for name, value in expected.metrics.items():
        assert saving.metrics[name] == pytest.approx(value, rel=bound, abs=1e-12, nan_ok=True), name


def test_recomputed_layers_keep_less_and_give_the_same_gradients():
    ids = torch.arange(60).view(2, 30)
    kept, gradients = [], []
    for wanted in (False, True):
        network, saved = load_model("tiny-w32-s0", dtype=torch.float64)[0], {}
        own = {p.untyped_storage().data_ptr() for p in network.parameters()}

        def keep(tensor, saved=saved, own=own):
            if tensor.untyped_storage().data_ptr() not in own:
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with recomputed(network, wanted):
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = network(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
        kept.append(sum(saved.values()))
        gradients.append([p.grad for p in network.parameters()])
        assert not any("forward" in vars(module) for module in network.modules()), "the model is as it was"
    assert kept[1] < 0.5 * kept[0]
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(*gradients, strict=True))


def test_log_probabilities_without_a_cache_are_those_with_one(monkeypatch):
    keep_float64(monkeypatch)
    found, heat = drawn()
    shared, alone = (log_probs(model(torch.float64), found, heat, recompute) for recompute in (False, True))
    assert torch.allclose(shared[found.mask], alone[found.mask], rtol=0, atol=1e-12)


def test_they_are_part_of_the_spec_but_not_of_its_id():
    for base in (SFT, RL):
        saving = replace(base, recompute=True, micro_batch=2)
        assert saving.id == base.id
        assert read_spec(saving.to_json()) == saving != base
        assert pack_key(saving) != pack_key(base)
        assert base.to_json().keys().isdisjoint(("recompute", "micro_batch"))


@pytest.mark.parametrize(("base", "field", "value", "words"), [
    (SFT, "micro_batch", 3, r"a divisor of batch_size=4"), (SFT, "micro_batch", 0, "a divisor"),
    (RL, "micro_batch", 5, "a divisor of the step's 12 completions"), (SFT, "recompute", 1, "True or False"),
])
def test_values_that_cannot_be_run_are_refused(base, field, value, words):
    with pytest.raises(SpecError, match=words):
        replace(base, **{field: value})


def test_a_run_that_finds_no_memory_gets_smaller_until_it_fits():
    tried = []

    def train(specs):
        tried.append((specs[0].micro_batch, specs[0].recompute))
        if specs[0].recompute:
            return "done"
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert fitted([SFT], train) == "done"
    assert tried == [(None, False), (2, False), (1, False), (1, True)]
    with pytest.raises(torch.OutOfMemoryError, match="no smaller micro-batch is left, and recompute is on"):
        fitted([smaller(smaller(smaller(SFT)))], lambda specs: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    tried.clear()
    with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory$"):
        fitted([SFT, SFT], train)
    assert len(tried) == 1, "a pack is halved before its runs are"
