"""Capacity arithmetic against numbers worked out by hand."""

import pytest

from lorakit.theory.capacity import (
    CapacityError,
    adapter_bits,
    association_bits,
    smallest_rank_that_holds,
    text_bits,
)
from lorakit.theory.shapes import ModelShape

TINY = ModelShape.of("tiny")


def test_bits_by_hand():
    assert adapter_bits(4352) == 8704
    assert adapter_bits(4352, 3.6) == pytest.approx(15667.2)
    assert association_bits(pairs=10, symbols=2, length=3) == 30
    assert association_bits(pairs=7, symbols=26, length=1) == pytest.approx(7 * 4.70044, rel=1e-6)
    assert text_bits(1000) == 1000


@pytest.mark.parametrize(("bits", "rank"), [(0, 1), (1, 1), (8704, 1), (8705, 2), (128 * 8704, 128)])
def test_the_smallest_rank_holds_and_one_less_does_not(bits, rank):
    assert smallest_rank_that_holds(TINY, bits) == rank


def test_the_head_and_the_targets_count():
    assert smallest_rank_that_holds(TINY, 2 * (4352 + 384), head=True) == 1
    assert smallest_rank_that_holds(TINY, 2 * 2048 + 1, targets="attention") == 2


def test_weights_above_the_rank_of_a_matrix_hold_nothing():
    # Llama's k and v have 1024 rows: above rank 1024 they add nothing, so the answer exceeds bits / unit
    shape = ModelShape.of("llama-3.1-8b")
    unit = sum(shape.lora_parameters(1, "attention").values())
    useful_at_1024 = 2 * 1024 * unit
    assert smallest_rank_that_holds(shape, useful_at_1024, targets="attention") == 1024
    only_q_and_o = 2 * 32 * 2 * (4096 + 4096)
    assert smallest_rank_that_holds(shape, useful_at_1024 + 10 * only_q_and_o, targets="attention") == 1034


def test_more_than_any_rank_holds_is_an_error_that_says_how_much_fits():
    with pytest.raises(CapacityError, match=r"1,114,112.*adapt more"):
        smallest_rank_that_holds(TINY, 128 * 8704 + 1)
    moe = ModelShape.of("qwen3-30b-a3b")
    with pytest.raises(CapacityError, match=r"adapt nothing"):
        smallest_rank_that_holds(moe, 1, targets="mlp")
    assert smallest_rank_that_holds(moe, 1, targets="mlp", experts="fused") == 1


@pytest.mark.parametrize("call", [
    lambda: adapter_bits(-1), lambda: adapter_bits(1, 0), lambda: association_bits(0, 2, 1),
    lambda: association_bits(1, 1, 1), lambda: association_bits(1, 2, 0), lambda: text_bits(-1),
    lambda: text_bits(1, -1), lambda: smallest_rank_that_holds(TINY, float("nan")),
    lambda: smallest_rank_that_holds(TINY, -1),
])
def test_bad_input_says_what_is_allowed(call):
    with pytest.raises(CapacityError, match=r"allowed"):
        call()
