"""What a chapter gets: records, a clear refusal, or a warning; and what is committed is whole and current."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from lorabook import experiments
from lorabook.experiments.results import MissingRecordsError, Results, StaleRecordsWarning, recorded, results
from lorakit import epochs
from lorakit.records import Record, Store
from lorakit.specs import SFTSpec
from lorakit.sweep import sweeps

BOOK = Path(__file__).parents[2] / "book"
COMMITTED = Store(BOOK / "results")  # read once


@pytest.fixture
def small(monkeypatch, tmp_path):
    """An experiment of two runs, and an empty folder for its records."""
    base = SFTSpec(learning_rate=1e-3, steps=2, evaluations=2)
    specs = [base, SFTSpec(learning_rate=1e-3, steps=2, evaluations=2, seed=1)]
    experiment = experiments.Experiment("small", "?", {("cpu", "record"): lambda: specs})
    monkeypatch.setitem(experiments.EXPERIMENTS, "small", experiment)
    monkeypatch.setenv("LORAKIT_RESULTS", str(tmp_path / "results"))
    monkeypatch.delenv("LORAKIT_MISSING", raising=False)
    return specs


def write(specs, **made) -> None:
    import os

    store = Store(os.environ["LORAKIT_RESULTS"])
    for spec in specs:
        losses = {f"{split}_loss": [2.0, 1.0] for split in ("train", "validation", "test")}
        curve = {"step": [1, 2], "tokens": [9, 18], **losses}
        store.append("cpu", "small", Record.from_run(spec, "ok", {"test_loss": 1.0}, curve,
                                                     {"engine": "packed", **made}))


def test_missing_records_are_an_error_with_the_command(small):
    write(small[:1], epoch=1)
    with pytest.raises(MissingRecordsError, match=r"1 of 2 runs .* `lorabook run small --profile cpu --size record`"):
        results("small")
    assert results("small", optional=True).missing == 1


def test_what_is_recorded_is_read_whatever_the_size_of_the_build_even_in_part(small, monkeypatch):
    write(small[:1], epoch=1)
    monkeypatch.setenv("LORAKIT_SIZE", "live")
    monkeypatch.setattr(sweeps, "run", lambda *a, **k: pytest.fail("trained"))
    found = recorded("small")
    assert (found.size, len(found), found.missing) == ("record", 1, 1)


def test_records_are_read_and_nothing_is_trained(small, monkeypatch):
    write(small, epoch=1)
    monkeypatch.setattr(sweeps, "run", lambda *a, **k: pytest.fail("trained"))
    found = results("small")
    assert (found.missing, found.note, len(found.curves), len(found.runs)) == (0, "records: 2 seeds", 4, 2)
    assert found.only("reworded-skills").records == found.records
    assert found.only("real-text").specs == ()


def test_a_refresh_trains_what_is_missing(small, monkeypatch):
    monkeypatch.setenv("LORAKIT_MISSING", "train")
    monkeypatch.setattr(sweeps, "run", lambda specs, store, **k: write(specs, epoch=1))
    assert results("small").missing == 0


def test_records_of_unknown_code_warn(small):
    write(small, code="0" * 16)
    with pytest.warns(StaleRecordsWarning, match="2 of 2 records"):
        results("small")


def test_an_undefined_combination_lists_the_defined_ones(small):
    with pytest.raises(ValueError, match="defined: cpu/record"):
        results("small", "gpu")
    with pytest.raises(ValueError, match="allowed: cpu, gpu, paper"):
        results("small", "tpu")


def test_grids_are_equally_dense_for_every_arm():
    """On one dataset, that is: arms on different data are never compared."""
    for experiment in experiments.EXPERIMENTS.values():
        for profile, size in experiment.runs:
            rates: dict[object, set[float]] = {}
            for spec in experiment.specs(profile, size):
                rates.setdefault(dataclasses.replace(spec, learning_rate=1.0, seed=0), set()).add(spec.learning_rate)
            steps: dict[object, set[float]] = {}
            for arm, grid in rates.items():
                ratios = {round(b / a, 1) for a, b in zip(sorted(grid), sorted(grid)[1:], strict=False)}
                steps.setdefault((arm.model, getattr(arm, "dataset", None)), set()).update(ratios)
            for found in steps.values():
                assert max(found, default=1) - min(found, default=1) < 0.35, (experiment.name, profile, size, steps)


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_an_experiment_is_recorded_whole_or_not_at_all(name):
    """A record may lie in the file of another experiment that names the same spec."""
    for profile in experiments.PROFILES:
        specs = experiments.get(name).specs(profile, "record")
        if (BOOK / "results" / profile / f"{name}.jsonl").exists() and not experiments.get(name).under_way:
            assert COMMITTED.missing(specs) == []
    assert COMMITTED.problems == []


@pytest.mark.parametrize("name", [n for n, e in experiments.EXPERIMENTS.items() if e.under_way])
def test_what_is_under_way_is_read_as_what_may_be_missing(name, monkeypatch):
    stem = name.rpartition("-")[0]  # of `learning-rate-alpha-{setting}`; where it names an experiment, others are read
    named = re.escape(name) + (r"|" + re.escape(stem) + r"-\{\w+\}" if stem not in experiments.EXPERIMENTS else "")
    reads = re.compile(r"\b(?:sweep|results)\(\s*f?\"(?:" + named + r")\"[^)]*\)")
    calls = [call for page in BOOK.glob("*.md") for call in reads.findall(page.read_text(encoding="utf-8"))]
    assert [call for call in calls if "optional=True" not in call] == []
    monkeypatch.setenv("LORAKIT_RESULTS", str(BOOK / "results"))
    monkeypatch.delenv("LORAKIT_MISSING", raising=False)
    if COMMITTED.missing(experiments.get(name).specs("cpu", "record")):
        with pytest.raises(MissingRecordsError, match="have no record"):
            results(name)


@pytest.mark.parametrize("path", sorted(BOOK.glob("results/*/*.jsonl")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_committed_records_belong_to_their_experiment_and_to_this_epoch(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    trained = [line for line in lines if line["spec"]["kind"] in ("sft", "grpo")]
    named = {s.id for s in experiments.get(path.stem).specs(path.parent.name, "record")} if trained else set()
    assert epochs.stale(COMMITTED.records(path.parent.name, path.stem)) == []
    for line in trained:
        assert line["id"] in named
        assert "certified" not in line["provenance"]
        assert line["metrics"].get("grad_norm_first") is None or line["metrics"]["grad_norm_first"] > 0 \
            or line["spec"]["kind"] == "grpo"  # of the first batch, which may have earned nothing


def test_results_of_one_size_add_up_and_others_do_not():
    one, other = (Results(name, "cpu", "record", (name,), ()) for name in "ab")
    assert (one + other).specs == ("a", "b")
    with pytest.raises(ValueError, match="a is of cpu, record, c of gpu, record"):
        one + Results("c", "gpu", "record", (), ())
