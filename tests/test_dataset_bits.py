"""The bits of a dataset: equal to what a sweep's run pays, never below what is known, and honest about its limits."""

import json
import math

import pytest
import torch

from lorakit.bases.models import load_model
from lorakit.data.datasets import DatasetError
from lorakit.packed.dataset_bits import DatasetBits, measure_dataset_bits

MODEL = "tiny-w32-s0"
ROWS = [{"prompt": f"{i % 7}? ", "completion": "yes it is\n"} for i in range(40)]


def test_what_repeats_itself_is_cheap_and_the_shortest_code_wins():
    found = measure_dataset_bits(MODEL, ROWS, learning_rates=[1e-5, 3e-3])
    worse = measure_dataset_bits(MODEL, ROWS, learning_rates=[1e-5])
    assert found.learning_rate == 3e-3
    assert found.bits < 0.5 * worse.bits
    assert (found.tokens, found.bytes) == (40 * 11, 40 * 10), "ends are learnt, and are no bytes of text"
    assert any("the highest that was tried" in caveat for caveat in found.caveats)
    assert not any("that was tried" in caveat for caveat in worse.caveats)


def test_rows_a_file_and_batches(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    options = {"learning_rates": [1e-3], "rank": 1}
    assert measure_dataset_bits(MODEL, str(path), **options) == measure_dataset_bits(MODEL, ROWS, **options)
    odd = measure_dataset_bits(MODEL, ROWS, batch_size=7, **options)
    assert odd.tokens == 440, "the last, smaller batch counts too"
    assert odd.bits > measure_dataset_bits(MODEL, ROWS, batch_size=1, **options).bits


def test_a_sample_says_that_it_is_one():
    found = measure_dataset_bits(MODEL, "reworded-skills", learning_rates=[1e-3], max_tokens=500)
    assert 50 < found.tokens < 500
    assert any(f"{found.tokens:,} of 31,127 label tokens were coded" in caveat for caveat in found.caveats)


def test_the_base_is_left_as_it_was():
    model, _ = load_model(MODEL)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    measure_dataset_bits(MODEL, ROWS, learning_rates=[1e-2], rank=None)
    assert all(torch.equal(before[name], weight) for name, weight in load_model(MODEL)[0].state_dict().items())


def test_bad_input_is_named():
    with pytest.raises(DatasetError, match="no rows"):
        measure_dataset_bits(MODEL, [])
    with pytest.raises(DatasetError, match=r"max_length=101 holds all.*raise it"):
        measure_dataset_bits(MODEL, [{"text": "word " * 20}], max_length=16)
    with pytest.raises(ValueError, match="every learning rate diverged"):
        measure_dataset_bits(MODEL, ROWS, learning_rates=[1e25], rank=None)
    assert math.isnan(DatasetBits(1.0, 1, 0, 1.0, 1e-3, 1).bits_per_byte)
