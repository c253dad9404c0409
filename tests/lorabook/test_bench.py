"""`lorabook bench`: each benchmark runs at its small size, and its arms train the same thing."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

pytest.importorskip("trl", reason="needs the extra train")

import nbformat
import torch

from lorabook.benchmarks import bench as benches
from lorabook.benchmarks import grpo_parts, packed_grpo, plain_loops, ray_overhead, step_times
from lorabook.benchmarks.base import base_name, model_of
from lorabook.benchmarks.benchmark import RESULTS, Setting, require_equal, spread, words
from lorabook.benchmarks.outcome import Outcome, until
from lorabook.benchmarks.pack_memory import peak
from lorabook.benchmarks.step_times import ARMS
from lorabook.benchmarks.where_time_goes import profiled
from lorabook.claims.pack_time import PARTS
from lorabook.cli import main
from lorakit.records import Store
from lorakit.specs import LoRASpec, SFTSpec, vary
from lorakit.sweep.worker import run_specs

HERE = SimpleNamespace(starmap=lambda function, given, chunksize: [function(*one) for one in given])
SAYS_NOTHING = Setting(quick=True, say=lambda line: None)


@pytest.fixture(autouse=True)
def registered_apart(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path_factory.getbasetemp() / "bench-cache"))


def test_steps_are_timed_by_goal_and_an_arm_stands_beside_each_other(tmp_path, capsys):
    before = {path: path.stat().st_mtime for path in RESULTS.rglob("*.jsonl")}
    asked = [word for goal in ARMS for word in ("--only", goal)]
    assert main(["bench", "--quick", "--json", *asked, "--results", str(tmp_path)]) == 0
    found = {record["spec"]["goal"]: record for record in json.loads(capsys.readouterr().out)}
    assert found.keys() == ARMS.keys()
    for goal, record in found.items():
        first, *others = ARMS[goal]
        for arm in others:
            (mine,), (other,) = record["curve"][arm], record["curve"][first]
            assert record["metrics"][f"{arm}_over_{first}_median"] == pytest.approx(mine / other, rel=1e-3), goal
        assert record["spec"]["arms"].keys() == record["curve"].keys() - {"round"}
    peaks = [found["P1"]["metrics"][f"{arm}_peak_bytes"] for arm in ("packed_1", "packed")]
    assert 0 < peaks[0] <= peaks[1], "of so small a pack what is made before it counts"
    assert [record.id for record in Store(tmp_path).records("cpu", "step-p1")] == [found["P1"]["id"]]
    assert before == {path: path.stat().st_mtime for path in RESULTS.rglob("*.jsonl")}


def test_the_peak_of_a_pack_holds_the_weights_gradients_and_moments_of_each_run():
    base = SFTSpec(model=base_name("small"), dataset="real-text", learning_rate=1e-3, lora=LoRASpec(rank=64), steps=2,
                   batch_size=1, max_length=16, evaluations=2, evaluation_tokens=1)
    one, nine = (peak(vary(base, seed=range(count)), "cpu") for count in (1, 9))
    layers = [layer for name, layer in model_of(base, "cpu")[0].named_modules() if name.endswith("_proj")]
    assert nine - one > 8 * 4 * 4 * 64 * sum(layer.in_features + layer.out_features for layer in layers)


def stands_still(loss, steps):
    """An arm that trains nothing: each step of a run, or of a pack, ends one second after the one before."""
    def arm(specs, device):
        return Outcome([loss] * len(specs), [[1.0 + step for step in range(steps)]] * len(specs))
    return arm


def test_seconds_are_those_of_a_step_of_one_run_and_arms_that_train_otherwise_are_refused(monkeypatch):
    arms = {"packed": (stands_still(2.0, 3), "lora", 2), "peft_tuned": (stands_still(2.001, 4), "lora", 1)}
    monkeypatch.setitem(ARMS, "P4", arms)
    monkeypatch.setattr(step_times, "product_flops", lambda device, dtype: 1e9)
    record, = benches.bench(["P4"], SAYS_NOTHING)
    assert record.curve == {"round": [1], "packed": [0.5], "peft_tuned": [1.0]}
    assert record.metrics["peft_tuned_over_packed_median"] == 2.0
    done = record.metrics["peft_tuned_reached"] * 1e9
    assert record.metrics["packed_reached"] * 1e9 == pytest.approx(2 * done), "as much in half of the time"
    model = model_of(SFTSpec(model=record.spec["model"], learning_rate=1e-3), "cpu")[0]
    weights = sum(layer.weight.numel() for layer in model.modules() if hasattr(layer, "in_features"))
    assert 4 * 16 * weights < done < 6 * 16 * weights, "two passes through each weight for every token, and a little"
    arms["peft_tuned"] = stands_still(2.1, 4), "lora", 1
    with pytest.raises(RuntimeError, match=r"peft_tuned and packed disagree by 0\.1 nats"):
        list(benches.bench(["P4"], SAYS_NOTHING))


def test_a_sweep_is_timed_against_all_that_trains_the_same(monkeypatch):
    monkeypatch.setattr(benches, "_two_processes", lambda: nullcontext(HERE))
    sweep, rl = benches.bench(["P7"], SAYS_NOTHING)
    assert {"vmap", "time_sliced", "peft_tuned", "peft_default", "trl_tuned", "trl_default"} == {
        name.removesuffix("_over_packed_median") for name in sweep.metrics if name.endswith("_over_packed_median")}
    for arm in ("packed", "time_sliced", "peft_tuned"):
        seen = [sweep.metrics[f"{arm}_until_{share}%"] for share in (25, 50, 75, 100)]
        assert seen == sorted(seen), arm
    (packed,), (trl,) = rl.curve["packed"], rl.curve["trl"]
    assert (ratio := rl.metrics["trl_over_packed_median"]) == pytest.approx(trl / packed, rel=1e-3)
    assert f"trl / packed {ratio:.3g} (" in words(rl)


def test_packs_and_what_they_are_held_against_are_profiled(monkeypatch):
    monkeypatch.setattr(grpo_parts, "profiled", lambda train: {"products": 1e9, "dispatched": 6.0})  # takes a minute
    profile, rl = (record.metrics for record in benches.bench(["profile"], SAYS_NOTHING))
    assert profile["peft_tuned_dispatched"] > profile["packed_dispatched"] > 0
    for arm in ("packed", "trl"):
        parts = [rl[f"{arm}_{part}"] for part in PARTS]
        assert min(parts) > 0, "each part is found in the code that makes it"
        assert sum(parts) == pytest.approx(rl[f"{arm}_whole"])
        assert rl[f"{arm}_operations"] == rl[f"{arm}_whole"], "no more than the clock says"
    assert (rl["packed_dispatched"], rl["trl_dispatched"]) == (3.0, 6.0), "of a run"


def test_a_part_that_calls_another_is_timed_without_it(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(grpo_parts, "clock", lambda: next(now))
    made = SimpleNamespace(inner=lambda: None)
    made.outer = lambda: [made.inner(), made.inner()]
    found = grpo_parts.by_part(lambda: made.outer(), {"sampling": [(made, "inner")], "update": [(made, "outer")]})
    assert found == {"sampling": 2, "update": 3, "rest": 2}


def test_operations_that_another_calls_are_not_counted():
    x = torch.ones(2, 2)
    found = profiled(lambda: torch.nn.functional.linear(x, x) + x)
    assert found["dispatched"] == 2


def test_ray_trains_the_packs_of_the_local_processes_or_is_not_timed(monkeypatch):
    asked = []

    def run(specs, store, **where):
        asked.append(where)
        found = [record for spec in specs for record in run_specs([spec], "packed", "cpu")[0]]
        if "ray_address" in where:
            found[0].metrics["test_loss"] += apart
        return found

    monkeypatch.setattr(ray_overhead, "two_nodes", lambda: nullcontext("host:1"))
    monkeypatch.setattr(ray_overhead.lk, "run", run)
    apart = 0.0
    record, = benches.bench(["Ray"], SAYS_NOTHING)
    assert [where.get("executor", "local") for where in asked] == ["local", "local", "ray"]
    assert {(where["processes"], where["device"]) for where in asked} == {(2, "cpu")}
    (ray,), (local,) = record.curve["ray"], record.curve["local"]
    assert record.metrics["ray_over_local_median"] == pytest.approx(ray / local, rel=1e-3)
    assert record.metrics.keys() >= {"ray_cpu_seconds", "local_cpu_seconds", "shortest_run"}
    apart = 0.1
    with pytest.raises(RuntimeError, match="ray and local disagree"):
        list(benches.bench(["Ray"], SAYS_NOTHING))


def test_a_step_of_grpo_is_timed_where_trl_does_what_packed_seeds_do(monkeypatch):
    asked, now = [], [0.0]

    def arm(reward, seconds):
        def train(specs, device):
            asked.append([(spec.seed, spec.steps) for spec in specs])
            now[0] += 3 + seconds * specs[0].steps
            return [(reward + spec.seed / 100, 9.0) for spec in specs]
        return train

    monkeypatch.setattr(packed_grpo, "clock", lambda: now[0])
    monkeypatch.setattr(packed_grpo, "packed", arm(0.5, 1))
    monkeypatch.setattr(packed_grpo, "trl", arm(0.52, 5))
    record, = benches.bench(["P6"], SAYS_NOTHING)
    assert (record.curve["packed"], record.curve["trl"]) == ([1], [5]), "free of three seconds that are no step's"
    assert record.metrics["trl_over_packed_median"] == 5
    assert asked == [[(0, 1)], [(0, 2)]] * 2 + [[(seed, 2) for seed in range(packed_grpo.BAND)]]
    monkeypatch.setattr(packed_grpo, "trl", arm(0.9, 5))
    with pytest.raises(RuntimeError, match="reward of trl is"):
        list(benches.bench(["P6"], SAYS_NOTHING))


def test_trl_has_to_do_what_the_packed_seeds_do():
    seeds = [(0.5, 9.0), (0.52, 9.5), (0.48, 8.5), (0.51, 9.1)]
    packed_grpo.require_alike(seeds, (0.53, 8.8), "TRL's run")
    for one, what in (((0.9, 9.0), "reward"), ((0.5, 12.0), "length"), ((float("nan"), 9.0), "reward")):
        with pytest.raises(RuntimeError, match=f"{what} of TRL's run"):
            packed_grpo.require_alike(seeds, one, "TRL's run")


def test_turns_over_shards_change_nothing_unless_they_forget_the_moments(monkeypatch):
    base = SFTSpec(model="tiny-w32-s0", dataset="real-text", learning_rate=3e-3, lora=LoRASpec(rank=2), steps=8,
                   batch_size=1, max_length=16, evaluations=2, evaluation_tokens=1)
    specs = vary(base, learning_rate=[3e-3, 1e-2])
    alone, turns = (arm(specs, "cpu") for arm in (plain_loops.peft_tuned, plain_loops.time_sliced))
    assert turns.losses == pytest.approx(alone.losses, abs=1e-5)
    assert [len(ends) for ends in turns.ends] == [8, 8]
    assert turns.ends[1][1] < turns.ends[0][2] < turns.ends[1][2], "a shard of two steps each in turn"
    restore = plain_loops.Loop.restore
    monkeypatch.setattr(plain_loops.Loop, "restore", lambda loop, state: restore(
        loop, (state[0], {**state[1], "state": {}})))
    forgetful = plain_loops.time_sliced(specs, "cpu")
    assert forgetful.losses != pytest.approx(alone.losses, abs=1e-3)


def test_a_refresh_is_timed_where_nothing_prose_or_one_run_changed(monkeypatch):
    def train_here(specs, place, *, profile, experiment, **_):
        for record in run_specs(place.missing(specs), "packed", "cpu")[0]:
            place.append(profile, experiment, record)

    monkeypatch.setattr("lorakit.sweep.sweeps.run", train_here)
    monkeypatch.setattr("lorabook.refresh._execute", lambda root, stem, notebook, passed: nbformat.from_dict(notebook))
    record, = benches.bench(["P8"], SAYS_NOTHING)
    assert record.metrics == {"trained_first": 2, "trained_nothing": 0, "trained_prose": 0, "trained_configuration": 1}


def test_what_is_asked_has_to_exist(capsys):
    assert main(["bench", "--only", "P9"]) == 1
    assert "no benchmark 'P9'; benchmarks: P1, P2" in capsys.readouterr().err


def test_medians_and_the_range_of_ratios_are_taken_round_by_round():
    found = spread({"packed": [1.0, 2.0, 4.0], "loop": [3.0, 4.0, 4.0]})
    assert found == {"packed_seconds_median": 2.0, "loop_seconds_median": 4.0, "loop_over_packed_median": 2.0,
                     "loop_over_packed_low": 1.0, "loop_over_packed_high": 3.0}


def test_unequal_losses_are_refused():
    require_equal({"packed": {"a": 1.0, "b": 2.0}, "loop": {"b": 2.001}}, 2e-3)
    for loss in (2.1, float("nan")):
        with pytest.raises(RuntimeError, match="loop and packed disagree"):
            require_equal({"packed": {"a": 1.0, "b": 2.0}, "loop": {"b": loss}}, 2e-3)


def test_a_run_of_a_pack_takes_its_share_of_a_step_and_a_share_of_the_data_waits_for_the_last_run():
    pack = Outcome([], [[3.0, 4.0, 5.0, 6.0]] * 2)
    loops = Outcome([], [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    assert (pack.step(), loops.step()) == (0.5, 1.0)
    assert [until([pack], share, 1.0) for share in (0.25, 1.0)] == [2.0, 5.0]
    assert [until([loops], share, 0.0) for share in (0.25, 1.0)] == [5.0, 8.0]
