"""`lorabook bench` at its full rounds and sizes, with arms that train nothing: no long measurement ends in an error."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

pytest.importorskip("trl", reason="needs the extra train")

import nbformat
from test_bench import HERE

from lorabook.benchmarks import (
    base,
    benchmark,
    grpo_parts,
    packed_grpo,
    packed_sweep,
    ray_overhead,
    refresh_time,
    step_times,
    where_time_goes,
)
from lorabook.benchmarks import bench as benches
from lorabook.benchmarks.benchmark import Setting, words
from lorabook.benchmarks.outcome import Outcome
from lorabook.claims import pack_time, speed_goals
from lorakit.records import Record, Store
from lorakit.sweep import device, worker

GPU = "NVIDIA H100 80GB HBM3"
OPERATIONS = {"products": 2e6, "optimizer": 1e6, "others": 1e6, "dispatched": 800.0}
LOOPS = ("vmap", "time_sliced", "peft_tuned", "peft_default", "trl_tuned", "trl_default")
OTHERS = ("packed-sweep-small", "packed-sweep-tiny", "packed-grpo", "refresh", "profile", "profile-grpo",
          "ray-overhead")
# of each record, how often it comes
STEPS = {f"step-p{number}": 1 for number in range(1, 7)}
RECORDS = {"cpu": STEPS | {"step-p1": 4} | dict.fromkeys(OTHERS, 1), "gpu": STEPS | {"step-p1": 5}}
SWEEP = "packed", dict.fromkeys(LOOPS, 8)
# the first arm, and the others over it: a step of a pack takes a second, and as long one of each run of a loop
RATIOS = {"packed-sweep-small": SWEEP, "packed-sweep-tiny": SWEEP, "packed-grpo": ("packed", {"trl": 8}),
          "ray-overhead": ("local", {"ray": 1.5})}


@pytest.fixture
def untrained(tmp_path_factory, monkeypatch):
    """Arms that train nothing, but move a clock that nothing else moves."""
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path_factory.getbasetemp() / "bench-cache"))
    now = [0.0]

    def supervised(pack):
        def train(specs, device):
            begun = [now[0] + (0 if pack else place * spec.steps) for place, spec in enumerate(specs)]
            now[0] = begun[-1] + specs[-1].steps
            return Outcome([2.0] * len(specs), [[first + step for step in range(1, 1 + spec.steps)]
                                                for first, spec in zip(begun, specs, strict=True)])
        return train

    def policies(pack):
        def train(specs, device):
            now[0] += specs[0].steps * (1 if pack else len(specs))
            return [(0.5 + spec.seed / 100, 9.0) for spec in specs]
        return train

    def run(specs, store, executor="local", **_):
        now[0] += 15 if executor == "ray" else 10
        return [recorded(spec) for spec in specs]

    def recorded(spec):
        return Record.from_run(spec, "ok", {"test_loss": 2.0}, {}, {"seconds": 5.0})

    def refreshed(specs, place, *, profile, experiment, **_):
        for spec in place.missing(specs):
            place.append(profile, experiment, recorded(spec))

    def profiled(train):
        found = train()
        steps = len(found.ends[0]) if isinstance(found, Outcome) else 1
        return {kind: value * steps for kind, value in OPERATIONS.items()}

    packed, loop = supervised(pack=True), supervised(pack=False)
    for arms in step_times.ARMS.values():
        for name, (engine, *given) in arms.items():
            monkeypatch.setitem(arms, name, (packed if engine is step_times.packed else loop, *given))
    for module in (benchmark, packed_grpo, grpo_parts, ray_overhead):
        monkeypatch.setattr(module, "clock", lambda: now[0])
    for module in (step_times, packed_sweep, where_time_goes):
        monkeypatch.setattr(module, "packed", packed)
    for module, names in ((packed_sweep, ("vmapped", *LOOPS[1:])), (where_time_goes, ("peft_tuned",))):
        for name in names:
            monkeypatch.setattr(module, name, loop)
    monkeypatch.setattr(packed_grpo, "packed", policies(pack=True))
    for name in ("trl", "trl_alone"):
        monkeypatch.setattr(packed_grpo, name, policies(pack=False))
    for module in (where_time_goes, grpo_parts):
        monkeypatch.setattr(module, "profiled", profiled)
    monkeypatch.setattr(step_times, "peak", lambda specs, device: 1000 * len(specs))
    monkeypatch.setattr(step_times, "product_flops", lambda device, dtype: 1e12)
    monkeypatch.setattr(ray_overhead.lk, "run", run)
    monkeypatch.setattr(ray_overhead, "_busy", lambda: 2 * now[0])
    monkeypatch.setattr(ray_overhead, "two_nodes", lambda: nullcontext("host:1"))
    monkeypatch.setattr(refresh_time, "CHAPTER_FILES", "01-*.md")
    monkeypatch.setattr("lorakit.sweep.sweeps.run", refreshed)
    monkeypatch.setattr("lorabook.refresh._execute", lambda root, stem, notebook, passed: nbformat.from_dict(notebook))
    monkeypatch.setattr(benches, "_two_processes", lambda: nullcontext(HERE))


@pytest.fixture
def a_gpu(monkeypatch):
    """A machine that says that it has one, and vLLM; its base is a small one, which stays on the CPU."""
    model_of = base.model_of
    monkeypatch.setattr(base, "model_of", lambda spec, device: model_of(spec, "cpu"))
    for module in (step_times, packed_grpo):
        monkeypatch.setattr(module, "base_name", lambda which: "tiny")
    for module in (device, worker):
        monkeypatch.setattr(module, "device_name", {"cuda": GPU, "cpu": "a CPU"}.get)
    monkeypatch.setattr(packed_grpo, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=bool)))


def measured(where, folder):
    """The records of all that is timed on a device, as they were given and as they lie in a folder."""
    names = [name for name in benches.BENCHMARKS if where == "cpu" or name not in benches.ON_A_CPU]
    given = list(benches.bench(names, Setting(where, say=lambda line: None), folder))
    store = Store(folder)
    assert store.problems == []
    assert {record.id: record for file in store.files for record in store.records(*file)} == {
        record.id: record for record in given}
    return given


def ratios_of(record):
    """The first arm of a record, and the others over it."""
    name, arms = record.spec["name"], record.spec.get("arms")
    if name == "step-p6":
        return "packed", dict.fromkeys(record.curve.keys() - {"round", "packed"}, 1)
    if arms:
        first = next(iter(arms))
        return first, {arm: arms[first] / count for arm, count in arms.items() if arm != first}
    return RATIOS.get(name, ("", {}))


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_long_measurements_end_in_records_that_answer_every_goal(untrained, tmp_path, monkeypatch, request, where):
    profile = Setting(where).profile
    if where == "cuda":
        request.getfixturevalue("a_gpu")
    found: dict[str, list[Record]] = {}
    for record in measured(where, tmp_path):
        found.setdefault(record.spec["name"], []).append(record)
    assert {name: len(records) for name, records in found.items()} == RECORDS[profile]
    for name, record in ((name, record) for name, records in found.items() for record in records):
        assert record.provenance["device"] == (GPU if where == "cuda" else device.device_name("cpu"))
        assert words(record).startswith(f"{name}: ")
        first, ratios = ratios_of(record)
        if ratios:
            rounds = ray_overhead.ROUNDS if name == "ray-overhead" else 5
            assert record.curve["round"] == list(range(1, 1 + rounds))
            assert {metric: value for metric, value in record.metrics.items() if "_over_" in metric} == pytest.approx(
                {f"{arm}_over_{first}_{part}": value for arm, value in ratios.items()
                 for part in ("low", "median", "high")})
    most = found["step-p1"][-1]
    assert most.metrics["packed_peak_bytes"] == 1000 * most.spec["arms"]["packed"]
    monkeypatch.setattr(speed_goals, "RESULTS", tmp_path)
    for goal in speed_goals.GOALS:
        assert goal.where != profile or speed_goals.verdict(goal) != speed_goals.NOT_TIMED, goal
    if where == "cpu":
        (sweep,) = found["packed-sweep-small"]
        assert [sweep.metrics[f"packed_until_{share}%"] for share in (25, 100)] == [125, 200]
        assert [sweep.metrics[f"peft_tuned_until_{share}%"] for share in (25, 100)] == [1525, 1600]
        (grpo,) = found["profile-grpo"]
        assert (grpo.metrics["packed_whole"], grpo.metrics["trl_whole"]) == (2500, 20000), "ms of a run"
        assert None not in pack_time.remains(found["profile"]).values()
        assert "1.50 times as long" in speed_goals.ray_words(found["ray-overhead"])
