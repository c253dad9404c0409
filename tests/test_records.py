"""Records and their store: what goes in comes out, and what is not a record is reported, never lost."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from lorakit.records import CURVE_POINTS, Record, RecordError, SchemaError, Store
from lorakit.specs import LoRASpec, SFTSpec


def spec_of(seed=0, **fields):
    return SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, seed=seed, **fields)


def record_of(seed=0, status="ok", loss=1.5, date="2026-01-01T00:00:00+00:00"):
    curve = {"step": [0, 300], "test_loss": [2.0, loss]}
    return Record.from_run(spec_of(seed), status, {"test_loss": loss}, curve, {"date": date, "code": "c1"})


def test_a_record_survives_its_line():
    spec = spec_of(lora=LoRASpec(rank=4, targets=("q_proj", "v_proj")))
    record = Record.from_run(spec, "diverged", {"test_loss": None}, {}, {"versions": ("1", "2")})
    line = record.to_line()
    assert "\n" not in line
    assert json.loads(line)["schema"] == 1
    assert Record.from_line(line) == record
    assert SFTSpec.from_json(Record.from_line(line).spec) == spec


def test_numbers_are_plain_rounded_in_the_curve_and_none_where_not_finite():
    curve = {"step": np.array([0, 123456]).tolist(), "tokens": [np.int64(0), np.int64(1234567)],
             "train_loss": [math.nan, np.float32(1.2345678)], "test_loss": [math.inf, 0.000123456789]}
    metrics = {"test_loss": 1.23456789, "train_loss": -math.inf}
    record = Record.from_run(spec_of(), "ok", metrics, curve, {"x": math.nan})
    assert record.curve == {"step": [0, 123456], "tokens": [0, 1234567], "train_loss": [None, 1.2346],
                            "test_loss": [None, 0.00012346]}
    assert record.metrics == {"test_loss": 1.23456789, "train_loss": None}
    assert record.provenance["x"] is None
    assert Record.from_line(record.to_line()) == record


@pytest.mark.parametrize(("change", "word"), [
    ({"status": "done"}, "ok, diverged, failed"),
    ({"curve": {"step": [1, 2], "test_loss": [1.0]}}, "one length"),
    ({"curve": {"step": list(range(CURVE_POINTS + 1))}}, "at most 20"),
    ({"curve": {"step": 3}}, "lists"),
    ({"metrics": {"test_loss": "1.5"}}, "no number"),
    ({"metrics": {"test_loss": True}}, "no number"),
    ({"metrics": [1.5]}, "JSON object"),
    ({"spec": None}, "JSON object"),
    ({"id": "0" * 16}, "edited by hand"),
    ({"id": ["x"]}, "a string"),
    ({"spec": spec_of().to_json() | {"learning_rat": 1.0}}, "learning_rate"),
    ({"spec": spec_of().to_json() | {"steps": "many"}}, "steps"),
    ({"spec": spec_of().to_json() | {"beta1": "x"}}, "cannot be read"),
    ({"speck": {}}, "speck"),
])
def test_what_is_no_record_is_an_error_that_says_why(change, word):
    with pytest.raises(RecordError, match=word):
        Record.from_json(record_of().to_json() | change)


def test_a_provenance_that_json_cannot_hold_is_an_error():
    record = Record.from_run(spec_of(), "ok", {}, {}, {"device": object()})
    with pytest.raises(RecordError, match="JSON"):
        record.to_line()


def test_an_unknown_schema_names_both_and_says_upgrade(tmp_path):
    line = json.dumps(record_of().to_json() | {"schema": 7, "new_field": 1})
    with pytest.raises(SchemaError, match=r"schema 7.*reads 1.*update"):
        Record.from_line(line)
    store = Store(tmp_path)
    store.append("cpu", "rank", record_of())
    path = store.path("cpu", "rank")
    with path.open("a") as file:
        file.write(line + "\n")
    before = path.read_bytes()
    for read in (lambda: store.records("cpu", "rank"), lambda: store.find(["x"]), lambda: store.problems):
        with pytest.raises(SchemaError, match=r"rank\.jsonl:2"):
            read()
    assert path.read_bytes() == before


def test_what_is_appended_is_found_in_any_file(tmp_path):
    store = Store(tmp_path / "results")
    assert store.find(["x"]) == {}
    assert store.problems == []
    store.append("cpu", "rank", record_of(0))
    store.append("cpu", "batch", record_of(1))
    store.append("gpu", "rank", record_of(2))
    ids = [spec_of(seed).id for seed in range(4)]
    assert list(store.find(ids)) == ids[:3]
    assert store.missing([spec_of(3), spec_of(0), spec_of(3)]) == [spec_of(3)]
    assert store.records("cpu", "rank") == [record_of(0)]
    assert store.records("cpu", "unheard-of") == []
    with pytest.raises(TypeError, match="list of ids"):
        store.find(ids[0])


def test_the_newest_that_did_not_fail_wins(tmp_path):
    store = Store(tmp_path)
    store.append("cpu", "a", record_of(loss=3.0, date="2026-03-01T00:00:00+00:00"))
    store.append("cpu", "b", record_of(loss=2.0, date="2026-02-01T00:00:00+00:00"))
    store.append("cpu", "b", record_of(loss=2.5, date="2026-02-01T00:00:00+00:00"))
    store.append("cpu", "b", record_of(loss=9.0, status="failed", date="2026-04-01T00:00:00+00:00"))
    assert store.find([spec_of().id])[spec_of().id].metrics["test_loss"] == 3.0
    assert [r.metrics["test_loss"] for r in store.records("cpu", "b")] == [2.5]


def test_a_failed_run_is_kept_but_missing_and_a_diverged_one_is_a_result(tmp_path):
    store = Store(tmp_path)
    store.append("cpu", "rank", record_of(0, status="failed"))
    store.append("cpu", "rank", record_of(1, status="diverged"))
    assert store.missing([spec_of(0), spec_of(1)]) == [spec_of(0)]
    assert [r.status for r in store.records("cpu", "rank")] == ["failed", "diverged"]


def test_a_corrupt_line_is_reported_with_its_number_and_the_rest_is_read(tmp_path):
    store = Store(tmp_path)
    path = store.path("cpu", "rank")
    path.parent.mkdir()
    other = record_of(1).to_line()
    edited = other.replace('"seed":1', '"seed":2')
    assert edited != other
    path.write_bytes(b"\n".join([record_of(0).to_line().encode(), b"<<<<<<< HEAD", b"\xff\x00", edited.encode(), b"{}",
                                 other.encode(), b""]))
    assert store.records("cpu", "rank") == [record_of(0), record_of(1)]
    assert [problem.split("rank.jsonl:")[1].split(":")[0] for problem in store.problems] == ["2", "3", "4", "5"]
    assert "edited by hand" in store.problems[2]


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.append("cpu", "rank", record_of(0))
    assert len(store.records("cpu", "rank")) == 1
    Store(tmp_path).append("cpu", "rank", record_of(1))
    assert len(store.records("cpu", "rank")) == 2
    monkeypatch.setattr(Record, "from_line", lambda line: pytest.fail("read an unchanged file again"))
    assert len(store.records("cpu", "rank")) == 2


@pytest.mark.parametrize("name", ["", "..", "a/b", "../a", ".hidden", "a.b", "a\n", "-a", "x" * 101, 1])
def test_names_stay_inside_the_store(tmp_path, name):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="profile="):
        store.append(name, "rank", record_of())
    with pytest.raises(ValueError, match="experiment="):
        store.records("cpu", name)
    assert list(tmp_path.iterdir()) == []


def test_two_thousand_records_are_parsed_once_each_however_often_they_are_asked_for(tmp_path, monkeypatch):
    store = Store(tmp_path)
    path = store.path("cpu", "rank")
    path.parent.mkdir()
    losses = [1.0 + i / 7 for i in range(CURVE_POINTS)]
    curve = {"step": list(range(CURVE_POINTS)), "train_loss": losses, "validation_loss": losses, "test_loss": losses}
    lines = [Record.from_run(spec_of(seed), "ok", {"test_loss": 1.5}, curve, {}).to_line() for seed in range(2000)]
    path.write_text("\n".join(lines) + "\n")
    parsed, parse = [], Record.from_line
    monkeypatch.setattr(Record, "from_line", lambda line: parsed.append(1) or parse(line))
    for _ in range(3):
        assert len(store.records("cpu", "rank")) == 2000
        assert len(store.find(spec_of(seed).id for seed in range(10))) == 10
    assert len(parsed) == 2000


def test_importing_records_brings_nothing_heavy():
    heavy = "{'torch', 'transformers', 'peft', 'trl', 'pandas', 'numpy', 'altair'}"
    code = f"import sys, lorakit.records, lorakit.codehash, lorakit.epochs; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def line_of(**change) -> str:
    return json.dumps(record_of(1).to_json() | change)


@pytest.mark.parametrize("bad", [
    line_of(spec=spec_of(1).to_json() | {"learning_rate": 10**400}),
    line_of(spec=spec_of(1).to_json() | {"steps": 10**400}),
    line_of(spec=spec_of(1).to_json() | {"model": ["m"]}),
    line_of(spec=spec_of(1).to_json() | {"lora": "rank 4"}),
    line_of(spec={"kind": ["sft"]}),
    line_of(metrics={"test_loss": 10**400}),
    line_of(curve={"step": [-10**30]}),
    line_of(schema=10**400), line_of(schema=[1]), line_of(schema=0), line_of(schema="2"),
    "[" * 100_000, '{"schema":' * 50_000, "9" * 5000, "null", "1", "\x00", "\ufeff{}",
    line_of()[:-1] + ',"provenance":' + "[" * 900 + "]" * 900 + "}",
], ids=lambda line: line[:40])
def test_one_bad_line_takes_no_other(tmp_path, bad):
    store = Store(tmp_path)
    store.append("cpu", "rank", record_of(0))
    with store.path("cpu", "rank").open("a") as file:
        file.write(bad + "\n")
    store.append("cpu", "rank", record_of(2))
    assert [r.id for r in store.records("cpu", "rank") if r.id != record_of(1).id] == [spec_of(0).id, spec_of(2).id]
    assert store.missing([spec_of(0), spec_of(2)]) == []
    assert len(store.problems) <= 1


def test_an_engine_that_is_named_must_have_made_the_record(tmp_path):
    store = Store(tmp_path)
    for seed, engine, loss, day in ((0, "packed", 1.0, 1), (1, "packed", 2.0, 1), (0, "trl", 3.0, 2)):
        made = {"engine": engine, "date": f"2026-01-0{day}"}
        store.append("cpu", "x", Record.from_run(spec_of(seed), "ok", {"test_loss": loss}, {}, made))
    both = [spec_of(0), spec_of(1)]
    assert store.missing(both) == store.missing(both, "packed") == []
    assert store.missing(both, "trl") == [spec_of(1)]
    ids = [spec.id for spec in both]
    assert [r.metrics["test_loss"] for r in store.find(ids).values()] == [3.0, 2.0]
    assert [r.metrics["test_loss"] for r in store.find(ids, "packed").values()] == [1.0, 2.0]
    assert [r.metrics["test_loss"] for r in store.find(ids, "trl").values()] == [3.0]


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "README.md").write_text("text")
    with pytest.raises(NotADirectoryError, match="a store of records is a folder"):
        Store(tmp_path / "README.md")


def test_a_file_of_no_profile_lies_in_the_store_itself_beside_those_of_profiles(tmp_path):
    store = Store(tmp_path)
    store.append(None, "mine", record_of())
    store.append("cpu", "rank", record_of(1))
    assert store.files == [("cpu", "rank"), (None, "mine")]
    assert (tmp_path / "mine.jsonl").exists()
    assert len(store.find([record_of().id, record_of(1).id])) == 2
