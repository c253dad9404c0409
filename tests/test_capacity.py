"""Capacity arithmetic against numbers worked out by hand."""


import pytest

from lorakit.theory.capacity import (
    CapacityError,
    adapter_bits,
    association_bits,
    episode_bits,
    recommend_rank,
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
    lambda: episode_bits(-1), lambda: episode_bits(1, success_rate=1.5), lambda: episode_bits(1, values=1),
    lambda: adapter_bits(-1), lambda: adapter_bits(1, 0), lambda: association_bits(0, 2, 1),
    lambda: association_bits(1, 1, 1), lambda: association_bits(1, 2, 0), lambda: text_bits(-1),
    lambda: text_bits(1, -1), lambda: smallest_rank_that_holds(TINY, float("nan")),
    lambda: smallest_rank_that_holds(TINY, -1),
])
def test_bad_input_says_what_is_allowed(call):
    with pytest.raises(CapacityError, match=r"allowed"):
        call()


def test_episodes_tell_the_entropy_of_their_rewards():
    assert episode_bits(5_324_800) == 5_324_800
    assert episode_bits(100, success_rate=0.5) == 100
    assert episode_bits(1, success_rate=0.01) == pytest.approx(0.080793, abs=1e-6)
    assert episode_bits(7, success_rate=0) == episode_bits(7, success_rate=1) == 0
    assert episode_bits(10, values=8) == 30


def test_advice_by_hand():
    advice = recommend_rank("tiny", tokens=10_000)  # 4,352 weights a unit of rank, 2 bits each
    assert (advice.rank, advice.bits_needed, advice.bits_held) == (2, 10_000, 17_408)
    assert advice.margin == pytest.approx(1.7408)
    assert "10,000 label tokens of 1 bit carry 10,000 bits; rank 2 of tiny has 8,704 weights" in advice.reason
    assert recommend_rank(TINY, tokens=10_000, bits_per_token=0.5).rank == 1
    assert recommend_rank(TINY, tokens=10_000, bits_per_parameter=1).rank == 3, "the primer: weights >= tokens"
    assert recommend_rank(TINY, bits=8704).rank == 1
    assert recommend_rank(TINY, bits=2 * 2048 + 1, targets="attention").rank == 2
    assert recommend_rank(TINY, bits=0).margin == float("inf")


def test_four_to_eight_times_the_floor_is_advised_beside_always_rank_8():
    advice = recommend_rank("tiny", tokens=10_000)
    assert advice.advised == (8, 16)
    assert advice.baseline_held == 8 * 8704
    assert str(advice).startswith("take rank 8 to 16, four to eight times the smallest that holds them\n10,000 label")
    assert "always rank 8, which would hold 6.96 times the bits needed" in str(advice)
    assert recommend_rank("tiny", bits=100 * 8704).advised == (128, 128), "no rank above a matrix's side"
    assert "take rank 128," in str(recommend_rank("tiny", bits=100 * 8704))


def test_the_articles_examples():
    math_problems = recommend_rank("llama-3.1-8b", episodes=10_000 * 32)
    assert math_problems.rank == 1
    assert math_problems.margin == pytest.approx(2 * 2_621_440 / 320_000)
    assert recommend_rank("llama-3.1-8b", episodes=10_400 * 32 * 16).rank == 2, "5,324,800 bits, rank 1 holds 5,242,880"
    assert recommend_rank("llama-3.1-8b", episodes=10_400 * 32 * 16, head=True).rank == 1
    assert recommend_rank("llama-3.1-8b", episodes=10_400 * 32 * 16, success_rate=0.1).rank == 1


def test_advice_takes_a_config_and_wants_exactly_one_quantity():
    config = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
              "num_attention_heads": 4, "vocab_size": 256, "tie_word_embeddings": False}
    assert recommend_rank(config, bits=8705).rank == 2
    with pytest.raises(CapacityError, match="given: none of bits, tokens and episodes; give exactly one"):
        recommend_rank("tiny")
    with pytest.raises(CapacityError, match="given: bits, episodes of bits"):
        recommend_rank("tiny", bits=1, episodes=1)
    with pytest.raises(CapacityError, match="fit into no LoRA"):
        recommend_rank("tiny", tokens=10**9)


def test_a_notebook_shows_advice_as_text_that_wraps():
    page = recommend_rank("tiny", tokens=10_000)._repr_html_()
    assert page.startswith("<p class='lorakit-words'>take rank 8 to 16, four to eight times")
    assert page.count("<br>") == 2
