"""What a step costs, from records: shares of full fine-tuning, bytes, peaks and times."""

import pytest

from lorabook.claims import step_cost
from lorakit.records import Record
from lorakit.specs import LoRASpec
from lorakit.theory.compute import training_flops
from lorakit.theory.memory import peak_bytes, training_bytes
from lorakit.theory.shapes import ModelShape

TINY = ModelShape.of("tiny")


def counted(rank, recompute=False, flops=1.0, **metrics):
    spec = {"shape": "tiny", "rank": rank, "recompute": recompute, "batch_size": 2, "length": 64}
    adapter = rank and LoRASpec(rank=rank)
    work = sum(training_flops(TINY, adapter, 64, recompute).values()) * 128 * flops
    held = training_bytes(TINY, adapter, 2, 64)
    return Record(id="x", spec=spec, status="ok", curve={}, provenance={}, metrics={
        "flops": work, **{part: held[part] for part in step_cost.PARTS}, **metrics})


def timed(rank, seconds, rounds=5):
    spec = {"model": "tiny@1", "rank": rank, "batch_size": 2, "length": 64, "engine": "plain", "rounds": rounds}
    return Record(id="x", spec=spec, status="ok", curve={"forward": [0.001, 0.003, 0.002]}, provenance={},
                  metrics={"seconds": seconds, "low": seconds, "high": seconds, "operations": 5})


def test_shares_are_of_full_fine_tuning_and_break_even_is_where_they_reach_one():
    assert step_cost.share("llama-3.1-8b", 1) == pytest.approx(0.667, abs=0.02)
    rank = step_cost.break_even("tiny")
    assert step_cost.share("tiny", rank - 1) < 1 <= step_cost.share("tiny", rank)


def test_counts_stand_beside_the_computed_operations():
    frame = step_cost.counts([counted(None), counted(8, flops=1.02), counted(8, True)]).set_index(["arm", "recompute"])
    assert frame["off"].tolist() == pytest.approx([0, 0.02, 0])
    assert frame.loc[("rank 8", False), "share"] == pytest.approx(1.02 * step_cost.share("tiny", 8, length=64))
    assert frame.loc[("rank 8", True), "share"] > frame.loc[("rank 8", False), "share"]


def test_a_byte_that_differs_is_counted_and_peaks_are_megabytes():
    held = training_bytes(TINY, LoRASpec(rank=8), 2, 64)
    records = [counted(None), counted(8, gradients=held["gradients"] + 1, peak_bytes=3e6, peak_bytes_given_back=2e6)]
    assert step_cost.wrong_bytes(records) == 1
    assert step_cost.peaks(records).loc["rank 8"].tolist() == pytest.approx([peak_bytes(held) / 1e6, 3, 2])


def test_the_clock_takes_the_records_of_most_rounds_as_shares_of_full():
    frame = step_cost.clock([timed(None, 2.0), timed(8, 1.0), timed(8, 9.0, rounds=1)])
    assert frame["case"].unique().tolist() == ["tiny, 128 tokens, plain"]
    assert frame.set_index("arm")["share"].to_dict() == {"full": 1.0, "rank 8": 0.5}
    assert frame["forward"].tolist() == pytest.approx([2.0, 2.0]), "milliseconds, the median"
    assert "rank 8" in repr(step_cost.table(frame.set_index("arm")[["share"]], "arm", ".2f"))
