"""The bits of the book's random strings: what a sweep's run pays, and never below what is known."""

import math

import pytest

from lorakit.bases.models import load_model
from lorakit.data.datasets import load_dataset
from lorakit.data.tokens import tokenize
from lorakit.packed.dataset_bits import measure_dataset_bits
from lorakit.packed.engine import train_pack
from lorakit.specs import LoRASpec, SFTSpec

MODEL = "tiny-w32-s0"


def test_it_is_what_the_first_pass_of_a_run_pays():
    found = measure_dataset_bits(MODEL, "random-strings-24", rank=2, learning_rates=[1e-3], max_length=64, seed=3)
    model, tokenizer = load_model(MODEL)
    spec = SFTSpec(model=MODEL, dataset="random-strings-24", learning_rate=1e-3, lora=LoRASpec(rank=2), steps=6,
                   batch_size=4, seed=3, evaluations=2)
    (run,) = train_pack([spec], model, tokenize(load_dataset("random-strings-24"), tokenizer, 64))
    assert found.tokens == run.tokens == 24 * 63
    assert found.bits * math.log(2) == pytest.approx(run.metrics["train_nats"], rel=1e-5)
    base = (run.metrics["base_validation_loss"] + run.metrics["base_test_loss"]) / 2
    assert found.base_bits * math.log(2) == pytest.approx(base * 24 * 63, rel=1e-5)


def test_random_strings_never_cost_less_than_their_bits():
    found = measure_dataset_bits(MODEL, "random-strings-96", rank=None, max_length=64)
    known = load_dataset("random-strings-96").bits
    assert known <= found.bits < found.base_bits
    assert found.bits_per_token == found.bits_per_byte == found.bits / (96 * 63)
