"""A record is stale when a later epoch of its engine and kind touches its spec, and only then."""

import pytest

from lorakit import epochs
from lorakit.records import Record
from lorakit.specs import LoRASpec, SFTSpec


def record_of(rank=16, engine="packed", status="ok", **made):
    spec = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, lora=None if rank is None else LoRASpec(rank=rank))
    return Record.from_run(spec, status, {}, {}, {"engine": engine, **made})


@pytest.fixture
def second(monkeypatch):
    """A second epoch of packed supervised runs, that touches full fine-tuning alone."""
    first = epochs.EPOCHS["packed", "sft"]
    new = epochs.Epoch(len(first) + 1, "2026-12-01", "masters", lambda spec: spec["lora"] is None)
    monkeypatch.setitem(epochs.EPOCHS, ("packed", "sft"), (*first, new))
    return new.number


def test_a_new_record_is_current_and_an_untouched_one_stays_so(second):
    assert epochs.current("packed", "sft") == second
    new, lora, full = record_of(None, epoch=second), record_of(epoch=second - 1), record_of(None, epoch=second - 1)
    assert epochs.stale([new, lora, full]) == [full]


def test_an_epoch_of_one_engine_or_kind_says_nothing_of_another(second):
    assert epochs.stale([record_of(None, engine="peft", epoch=1)]) == []


def test_the_hash_of_an_old_record_stands_for_its_epoch():
    known = next(iter(epochs.EPOCH_OF_HASH["packed", "sft"]))
    assert epochs.epoch_of(record_of(code=known)) == 1
    unknown = record_of(code="0" * 16)
    assert epochs.epoch_of(unknown) is None
    assert epochs.stale([record_of(code=known), unknown]) == [unknown]
    assert epochs.epoch_of(record_of(code=known, engine="peft")) is None, "a hash belongs to one engine and kind"


def test_failed_records_and_engines_of_ones_own_are_never_stale():
    assert epochs.stale([record_of(status="failed", code="0" * 16), record_of(engine="mine")]) == []
    assert epochs.current("mine", "sft") == 1


def test_every_epoch_says_why_and_numbers_rise():
    for history in epochs.EPOCHS.values():
        assert [e.number for e in history] == list(range(1, len(history) + 1))
        assert all(e.reason and e.opened >= "2026-11" for e in history)
