"""A prediction costs a twentieth of what it predicts, at the most, and leaves the base as it was."""

from __future__ import annotations

import pytest
import torch
from plain_training import data, spec, tiny

from lorakit.sweep import probe


@pytest.mark.parametrize(("steps", "runs", "trained"), [
    (10, 1, 1),  # less than a twentieth of ten steps is less than one: a single step
    (40, 1, 2), (40, 4, 8), (400, 100, 8),
])
def test_a_probe_trains_few_steps(monkeypatch, steps, runs, trained):
    count = []
    accumulate = probe.accumulate
    monkeypatch.setattr(probe, "accumulate", lambda packed, train, chosen, device: count.append(len(chosen))
                        or accumulate(packed, train, chosen, device))
    model, splits = tiny(), data()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    specs = [spec(steps=steps, seed=seed) for seed in range(min(runs, 4))]
    facts = probe.probe_pack(specs, model, splits, runs)
    assert sum(count) == trained
    assert facts["seconds"] > 0
    assert facts["bytes"] > 5 * 4
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_bytes_grow_with_the_batch_and_with_what_is_trained():
    model, train = tiny(), data()["train"]
    one, eight = (probe.sft_bytes(spec(batch_size=size), model, train) for size in (1, 8))
    assert 4 < eight / one < 16  # the layers choose their way by the number of tokens
    assert probe.sft_bytes(spec(rank=None), model, train) > one


def test_every_layer_counts_with_its_activations_whatever_computes_it():
    one, two = (probe.sft_bytes(spec(rank=1, batch_size=8), tiny(layers=layers), data()["train"]) for layers in (1, 2))
    row = 4 * 16 * 32  # a state of each of 16 tokens, in float32
    assert two - one > 8 * 8 * row  # inputs of projections, queries, keys, values, what the MLP makes
