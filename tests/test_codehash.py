"""The code hash sees what code does and nothing else; stale records stand again only after a check."""

from dataclasses import replace

import pytest

from lorakit.codehash import HORIZON, CertificationError, certification_sample, certify, code_hash, stale
from lorakit.records import Record, Store
from lorakit.specs import SFTSpec

SOURCE = '''
"""What the module is for."""
import math


class Layer:
    """What the class is for."""

    size: int = 3

    def scale(self, x, *, by=2.0):
        """What the method does."""
        # why it does so
        return {"x": math.sqrt(x * by), **{}}[f"{'x'!s:>{1}}"]


async def empty():
    """Nothing but a docstring."""
'''

SAME = {
    "comments": SOURCE.replace("# why it does so", "# another reason\n        # of two lines"),
    "no comments": SOURCE.replace("        # why it does so\n", ""),
    "docstrings": SOURCE.replace("What the", "A word on what the").replace("Nothing but", "Only"),
    "no class docstring": SOURCE.replace('    """What the class is for."""\n\n', ""),
    "a docstring of an attribute": SOURCE.replace("size: int = 3\n", 'size: int = 3\n    """In units."""\n'),
    "layout": SOURCE.replace("math.sqrt(x * by)", "(math.sqrt(\n            x*by,\n        ))").replace('"x"', "'x'"),
    "line ends": SOURCE.replace("\n", "\r\n"),
}
OTHER = {
    "a number": SOURCE.replace("2.0", "2"),
    "a string": SOURCE.replace('{"x"', '{"y"'),
    "a format": SOURCE.replace(":>", ":<"),
    "an operator": SOURCE.replace("x * by", "x + by"),
    "a keyword-only mark": SOURCE.replace("*, by", "by"),
    "an annotation": SOURCE.replace("size: int", "size: float"),
    "a name": SOURCE.replace("by", "times"),
    "a literal in quotes": SOURCE.replace("2.0", '"2.0"'),
    "the order": SOURCE.replace("class Layer", "import json\nclass Layer"),
}


def hash_of(folder, source, name="module.py"):
    path = folder / name
    path.write_bytes(source.encode())
    return code_hash([path])


@pytest.mark.parametrize("edit", SAME)
def test_an_edit_that_changes_no_behaviour_keeps_the_hash(tmp_path, edit):
    assert SAME[edit] != SOURCE
    assert hash_of(tmp_path, SAME[edit]) == hash_of(tmp_path, SOURCE)


@pytest.mark.parametrize("edit", OTHER)
def test_an_edit_that_changes_behaviour_changes_the_hash(tmp_path, edit):
    assert OTHER[edit] != SOURCE
    assert hash_of(tmp_path, OTHER[edit]) != hash_of(tmp_path, SOURCE)


EVERY_SYNTAX = '''
from __future__ import annotations
from . import a as b
import c.d
x: int = -1; y = z = 1e-9, 0x10, 1j, b"\\xff", "é\\u2028\\U0001f600", u"u", None, True, ...
def f(a, /, b: int = 1, *args, c=2, d, **kw) -> list[int]:
    global x
    nonlocal_ = [i async for i in g() if i if x]
    return a if b else lambda *q: (yield)
@decorator(1)
class K(B, metaclass=M):
    try:
        with open(p) as h, j: pass
    except* (E, F) as e:
        raise E from None
    else:
        del x[1:2, ::3], y.z
    finally:
        assert 1 < 2 <= 3, "m"
async def m(v):
    match v:
        case {"k": [1, *rest], **others} | K(n=None) if rest: pass
        case -1 | 2.5 | "s" as t: pass
        case _: await v
    while not (w := v[0]) in (u, *t): break
    else:
        for i, *j in {**v, "a": {1, 2}}: continue
s = f"a{x}b" "c" f"{x!r:>{y}.2f}{{}}" f"" f"{x=}" + f"{'d'}" f'{x:%Y-{y}:}' rf"\\d{x}\\n" f"""{
x}"""
t = x @ y // 2 ** -3 << 1 & ~4 | 5 ^ 6; t @= not x or y and z is not None
'''


def test_the_hash_is_the_same_on_every_python(tmp_path):
    assert hash_of(tmp_path, EVERY_SYNTAX) == "0a50e4724828a5b9"


def test_names_paths_and_order_do_not_enter_but_every_file_does(tmp_path):
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("x = 1\n")
    two.write_text("x = 2\n")
    both = code_hash([one, two])
    assert both == code_hash([two, one, one]) == code_hash([tmp_path])
    assert len({both, code_hash([one]), code_hash([two])}) == 3
    assert hash_of(tmp_path, "x = 1\n", "renamed.py") == code_hash([one])


def test_modules_are_found_by_name_without_importing_them(tmp_path, monkeypatch):
    package = tmp_path / "some_package" / "inner"
    package.mkdir(parents=True)
    for file in (package.parent / "__init__.py", package / "__init__.py"):
        file.write_text("raise RuntimeError('imported')\n")
    (package / "leaf.py").write_text("x = 1\n")
    (tmp_path / "single.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert code_hash(["some_package.inner.leaf"]) == code_hash([package / "leaf.py"]) == code_hash(["single"])
    assert code_hash(["some_package.inner"]) == code_hash([package])


@pytest.mark.parametrize("name", ["no_such_module", "lorakit.no_such_module", "no/such/file.py", ""])
def test_a_module_without_source_is_an_error(name):
    with pytest.raises(ModuleNotFoundError, match="dotted module name or a path"):
        code_hash(["lorakit.specs", name])


@pytest.mark.parametrize("modules", [[], "lorakit.specs"])
def test_no_list_of_modules_is_an_error(modules):
    with pytest.raises(ValueError, match="non-empty list"):
        code_hash(modules)


def record_of(seed, code="old", status="ok", loss=1.0, **metrics):
    spec = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, seed=seed)
    metrics = {"validation_loss": loss, "test_loss": loss} | metrics
    return Record.from_run(spec, status, metrics, {}, {"date": "2026-01-01", "code": code})


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    for seed in range(8):
        store.append("cpu", "rank", record_of(seed))
    store.append("cpu", "rank", record_of(8, code="new"))
    store.append("cpu", "rank", record_of(9, status="failed"))
    return store


def retrained(store, loss=1.0, **metrics):
    sample = certification_sample(stale(store.records("cpu", "rank"), "new"))
    return [record_of(record.spec.get("seed", 0), "new", loss=loss, **metrics)
            for record in sample]


def test_stale_are_the_results_of_other_code(store):
    records = store.records("cpu", "rank")
    assert stale(records, "new") == records[:8]
    assert stale(records, "old") == [records[8]]


def test_the_sample_is_of_three_by_hash_and_prefers_runs_that_did_not_diverge():
    records = [record_of(seed, status="ok" if seed < 4 else "diverged") for seed in range(20)]
    sample = certification_sample(records)
    assert sample == certification_sample(records[::-1])
    assert len(sample) == 3
    assert {record.status for record in sample} == {"ok"}
    assert len(certification_sample(records, count=5)) == 5
    assert sample != certification_sample([r for r in records if r != sample[0]])
    assert certification_sample([record_of(0, status="failed")]) == []


def test_certified_records_stand_for_the_new_code(store):
    before = store.records("cpu", "rank")
    runs = retrained(store, loss=1.00009)
    done = certify(store, "cpu", "rank", runs, "new")
    after = store.records("cpu", "rank")
    assert done == after[:8]
    assert stale(after, "new") == []
    assert after[8:] == before[8:]
    assert [(r.id, r.metrics) for r in after] == [(r.id, r.metrics) for r in before]
    (entry,) = after[0].provenance["certified"]
    assert entry["old_code"] == "old"
    assert entry["sample"] == [record.id for record in runs]
    assert entry["date"] > "2026"
    assert certify(store, "cpu", "rank", [], "new") == []


def test_each_certification_is_kept(store):
    certify(store, "cpu", "rank", retrained(store), "new")
    third = [replace(r, provenance=r.provenance | {"code": "third"}) for r in store.records("cpu", "rank")]
    certify(store, "cpu", "rank", third, "third")
    assert [e["old_code"] for e in store.records("cpu", "rank")[0].provenance["certified"]] == ["old", "new"]


@pytest.mark.parametrize("change", [{"loss": 1.0002}, {"test_loss": 1.0002}, {"validation_loss": 0.9998},
                                    {"test_loss": None}])
def test_a_run_that_disagrees_certifies_nothing(store, change):
    path = store.path("cpu", "rank")
    before = path.read_bytes()
    runs = retrained(store)[:2] + retrained(store, **change)[2:]
    with pytest.raises(CertificationError, match=rf"{runs[2].id}: .*_loss 1\.0 before, ") as caught:
        certify(store, "cpu", "rank", runs, "new")
    assert runs[0].id not in str(caught.value)
    assert path.read_bytes() == before
    if change != {"test_loss": None}:
        certify(store, "cpu", "rank", runs, "new", tolerance=1e-3)


def test_the_tolerance_is_relative_above_a_loss_of_one(tmp_path):
    store = Store(tmp_path)
    store.append("cpu", "rank", record_of(0, loss=5.0))
    with pytest.raises(CertificationError):
        certify(store, "cpu", "rank", [record_of(0, "new", loss=5.0006)], "new")
    assert len(certify(store, "cpu", "rank", [record_of(0, "new", loss=5.0004)], "new")) == 1


def test_a_run_that_diverges_now_disagrees_and_one_that_diverged_before_agrees(tmp_path):
    store = Store(tmp_path)
    store.append("cpu", "rank", record_of(0))
    with pytest.raises(CertificationError, match="status ok before, diverged now"):
        certify(store, "cpu", "rank", [record_of(0, "new", status="diverged")], "new")
    store.append("cpu", "diverged", record_of(1, status="diverged", loss=None))
    assert len(certify(store, "cpu", "diverged", [record_of(1, "new", status="diverged", loss=None)], "new")) == 1


def test_a_sampled_run_that_was_not_retrained_is_named(store):
    runs = retrained(store)
    old = replace(runs[1], provenance={"code": "old"})
    with pytest.raises(CertificationError, match=f"not retrained with code new: {runs[1].id}, {runs[2].id};"):
        certify(store, "cpu", "rank", [runs[0], old], "new")


def test_a_curve_is_compared_up_to_the_horizon_and_no_further(tmp_path):
    def with_curve(losses, code):
        curve = {"step": [1, HORIZON, HORIZON + 1]} | {f"{split}_loss": losses for split in ("validation", "test")}
        return replace(record_of(0, code, loss=losses[-1]), curve=curve)

    store = Store(tmp_path)
    store.append("cpu", "rank", with_curve([3.0, 2.0, 1.0], "old"))
    with pytest.raises(CertificationError, match=f"test_loss at step {HORIZON} 2.0 before, 2.01 now"):
        certify(store, "cpu", "rank", [with_curve([3.0, 2.01, 1.0], "new")], "new")
    assert len(certify(store, "cpu", "rank", [with_curve([3.0, 2.0, 1.5], "new")], "new")) == 1
