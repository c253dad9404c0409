"""Bits of the associations from losses, and full fine-tuning cut to a rank against LoRA trained at it."""

import math
from dataclasses import replace

import pytest
from synthetic_records import BASE, make

from lorabook.claims.associations import BITS, NOTHING_STORED, smallest_that_stored_all, stored
from lorabook.claims.cutting import cut_minus_trained, energy, of_the_other_weights
from lorabook.data.datasets import random_associations
from lorakit.analysis.sweep import Sweep


def associations(left):
    """Runs whose loss is a share of `NOTHING_STORED`: `left[rank]` at the end, all of it before step 64."""
    def loss(rank, rate, seed, step):
        wide = 0.01 * math.log10(rate / 1e-3) ** 2
        return NOTHING_STORED * ((left[rank] if step > 64 else 0.75 if step == 64 else 1) + wide)

    return Sweep(make(loss, ranks=tuple(left), dataset="random-associations@1"), strict=True)


def test_the_bits_are_those_of_the_dataset():
    data = random_associations()
    assert data.bits == BITS
    letters = {letter for row in data.splits["train"] for text, learnt in row if learnt for letter in text}
    assert math.log(len(letters)) == NOTHING_STORED


def test_what_a_pair_no_longer_costs_is_stored():
    found = stored(associations({None: 0.0, 1: 0.75, 8: 0.001}))
    assert found["rank 1"].bits.mean == pytest.approx(BITS / 4, rel=1e-3)
    assert found["full"].bits.mean == pytest.approx(BITS, rel=1e-3)
    assert found["rank 1"].per_weight == pytest.approx(BITS / 4 / 360_000, rel=1e-3)
    assert smallest_that_stored_all(found) == "rank 8"
    assert smallest_that_stored_all(stored(associations({None: 0.0, 1: 0.75}))) == "none"


def test_half_of_the_bits_lies_between_two_evaluations_in_log_steps():
    found = stored(associations({None: 0.0, 1: 0.75, 8: 0.25}))
    assert found["full"].half.mean == pytest.approx(64 * 2 ** (1 / 3), rel=1e-3)  # a quarter at 64, all at 128
    assert found["rank 8"].half.mean == pytest.approx(64 * 2 ** (1 / 2), rel=1e-3)
    assert found["rank 1"].half.mean == math.inf
    assert "not reached" in repr(found)


def test_cutting_is_compared_with_lora_of_the_same_rank_in_per_cent_of_the_improvement():
    records = make()
    rows = Sweep(records, strict=True).ends().set_index(["arm", "seed"])["test_loss"]
    ends = {arm: rows[arm].to_dict() for arm in ("full", "rank 16", "rank 64")}
    gain = BASE - float(rows["full"].mean())
    cut = [replace(r, metrics=r.metrics | {"truncated_test_loss_r0": BASE - gain / 10, "delta_energy_r16": 0.7,
                                           "truncated_test_loss_r16": ends["rank 16"][r.spec.get("seed", 0)] + gain / 5,
                                           "truncated_test_loss_r64": ends["rank 64"][r.spec.get("seed", 0)]})
           if r.spec["lora"] is None else r for r in records]
    found = cut_minus_trained(Sweep(cut, strict=True))
    assert list(found) == ["rank 16", "rank 64"], "rank 1 has no cut"
    assert found["rank 16"].mean == pytest.approx(20, rel=1e-3)
    assert (found["rank 16"].word, found["rank 64"].word) == ("worse", "equal")
    assert energy(Sweep(cut), 16).mean == pytest.approx(0.7)
    assert of_the_other_weights(Sweep(cut)) == pytest.approx(0.1, rel=1e-3)
