"""Rows to arrays: what counts, what is refused, in which order a run sees it; the byte tokenizer."""

import pytest
import torch

from lorakit.bases.models import byte_tokenizer
from lorakit.data.datasets import DatasetError, TextData, load_dataset
from lorakit.data.tokens import IGNORE, TokenSplit, order, tokenize

TOKENIZER = byte_tokenizer()


def data(*rows, stream=False):
    return TextData("mine", {"train": list(rows)}, stream)


EVERY = "".join(map(chr, range(1, 256)))


@pytest.mark.parametrize("text", ["plain", "naïve café – 数学 🙂\n\ttab", EVERY, " two  spaces"])
def test_bytes_go_in_and_come_out(text):
    ids = TOKENIZER(text)["input_ids"]
    assert ids == list(text.encode())
    assert TOKENIZER.decode(ids) == text


def test_special_tokens_are_bytes_that_text_never_contains():
    assert (TOKENIZER.pad_token_id, TOKENIZER.bos_token_id, TOKENIZER.eos_token_id) == (253, 254, 255)
    assert len(TOKENIZER) == 256
    assert TOKENIZER("<|nothing special|>")["input_ids"] == list(b"<|nothing special|>")


def test_the_loss_counts_the_completion_and_the_end():
    split = tokenize(data([("ab", False), ("cd", True)], [("e", False), ("f\n", True)]), TOKENIZER, 6)["train"]
    assert split.input_ids.tolist() == [[97, 98, 99, 100, 255, 253], [101, 102, 10, 255, 253, 253]]
    assert split.labels.tolist() == [[IGNORE, IGNORE, 99, 100, 255, IGNORE], [IGNORE, 102, 10, 255, *[IGNORE] * 2]]
    assert split.label_tokens == 6


def test_several_learnt_stretches_in_one_row():
    split = tokenize(data([("k=", False), ("v", True), ("\n", False), ("q=", False), ("w", True), ("\n", False)]),
                     TOKENIZER, 8)["train"]
    assert [chr(i) for i in split.labels[split.labels != IGNORE].tolist()] == ["v", "w"]
    assert split.input_ids[0].tolist() == list(b"k=v\nq=w\n")


def test_a_row_that_does_not_fit_is_refused_by_number():
    rows = [[("a", False), ("b\n", True)], [("long prompt ", False), ("b\n", True)]]
    with pytest.raises(DatasetError, match=r"mine: 1 of 2 rows .* max_length=8 .*train row 2 with 15"):
        tokenize(data(*rows), TOKENIZER, 8)
    assert len(tokenize(data(*rows), TOKENIZER, 15)["train"]) == 2
    with pytest.raises(DatasetError, match="row 1 has no token to learn"):
        tokenize(data([("a", False), ("", True), ("\n", False)]), TOKENIZER, 8)


def test_running_text_becomes_windows():
    split = tokenize(data([("abcd", True)], [("efgh", True)], stream=True), TOKENIZER, 3)["train"]
    assert split.input_ids.tolist() == [[97, 98, 99], [100, 255, 101], [102, 103, 104]]
    assert torch.equal(split.labels, split.input_ids)
    assert split.label_tokens == 6
    with pytest.raises(DatasetError, match="has 3 tokens, fewer than max_length=8"):
        tokenize(data([("ab", True)], stream=True), TOKENIZER, 8)


def test_the_head_of_a_split_counts_prompts_but_no_padding():
    split = TokenSplit(torch.arange(12).view(3, 4), torch.tensor(
        [[-100, 1, -100, -100], [-100, -100, 6, -100], [-100, 9, 10, 11]]))
    for tokens, rows, length in ((1, 1, 2), (2, 1, 2), (3, 2, 3), (5, 2, 3), (6, 3, 4), (10**6, 3, 4)):
        assert split.head(tokens).input_ids.shape == (rows, length), tokens
    assert torch.equal(split.head(3).labels, split.labels[:2, :3])


@pytest.mark.parametrize("name", ["reworded-skills", "new-skills"])
def test_shipped_rows_fit_into_the_default_length(name):
    splits = tokenize(load_dataset(name), TOKENIZER, 64)
    assert all(split.input_ids.max() < 256 for split in splits.values())


def test_every_epoch_is_a_permutation_and_another_one():
    epochs = order(3, 10, 30).view(3, 10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3


def test_the_seed_decides_the_order_and_shorter_runs_are_prefixes():
    assert torch.equal(order(1, 50, 40), order(1, 50, 40))
    assert not torch.equal(order(1, 50, 40), order(2, 50, 40))
    assert torch.equal(order(1, 50, 140)[:75], order(1, 50, 75))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    order(1, 50, 40)
    assert torch.equal(torch.get_rng_state(), before)
