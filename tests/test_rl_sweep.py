"""RL through `lorakit.run`: workers, records, a kill and a restart, tidy frames; with a reward of one's own."""

import importlib.util
import sys
from dataclasses import replace

import pytest
from waiting import killed_behind

import lorakit
from lorakit.analysis.curves import losses_at
from lorakit.analysis.frames import runs, tidy, tidy_rl
from lorakit.data.rl_tasks import register_task
from lorakit.epochs import current
from lorakit.records import Record, Store
from lorakit.rewards import register_reward
from lorakit.rl.episodes import NoRewardWarning
from lorakit.specs import GRPOSpec, LoRASpec, SFTSpec, read_spec, vary
from lorakit.sweep.workers import Worker

REWARD = '''
def capitals(prompts, completions, letters, **columns):
    """The share of capital letters, 1 at most; `letters` is a column of the problems."""
    return [min(1.0, sum(c.isupper() for c in text) / n) for text, n in zip(completions, letters)]


def nothing(prompts, completions, **columns):
    return [None] * len(completions)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A task and a reward of the user's own, in a folder of its own: what the README shows."""
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_rewards.py").write_text(REWARD, encoding="utf-8")
    import my_rewards

    problems = [{"prompt": f"upper {word}\n", "letters": len(word)} for word in
                (a + b + "ne" for a in "bcdfghlmnprst" for b in "aeiou")]
    reward = register_reward(my_rewards.capitals)
    task = register_task("capitals", problems, grader=reward, stop="\n")
    yield GRPOSpec(model="tiny-w32-s0", task=task, reward=reward, learning_rate=3e-3, lora=LoRASpec(rank=4), steps=6,
                   prompts_per_step=4, group_size=4, max_completion_length=6, evaluations=3, evaluation_problems=6)
    sys.modules.pop("my_rewards", None)


def test_a_sweep_with_a_reward_and_a_task_of_ones_own(own, tmp_path):
    specs = vary(own, rank=[1, 4, None], seed=[0, 1])
    records = lorakit.run(specs, tmp_path / "runs", device="cpu", processes=1)
    assert [r.id for r in records] == [s.id for s in specs]
    assert {r.status for r in records} == {"ok"}
    assert {r.provenance["epoch"] for r in records} == {current("packed", "grpo")}
    frame = tidy_rl(records)
    assert frame["step"].tolist() == [1, 2, 6] * 6
    assert (frame["episodes"] == 16 * frame["step"]).all()
    assert (frame["test_loss"] == 1 - frame["test_accuracy"]).all()
    assert set(frame["arm"]) == {"rank 1", "rank 4", "full"}
    assert len(losses_at(frame)) == 6
    table = runs(records)
    assert table["steps"].tolist() == [6] * 6
    assert (table["base_drift"] == 0).all()
    assert tidy(records).equals(frame)
    plain = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3)
    with pytest.raises(ValueError, match="a frame of each kind"):
        tidy([*records, Record.from_run(plain, "ok", {}, {}, {})])
    before = [r.provenance["date"] for r in records]
    assert [r.provenance["date"] for r in lorakit.run(specs, tmp_path / "runs", device="cpu")] == before, "all recorded"
    assert lorakit.plan(specs, tmp_path / "runs").missing == ()


def test_trl_makes_a_record_of_the_same_form_and_silence_is_told(own, tmp_path, recwarn):
    import my_rewards

    silent = register_reward(my_rewards.nothing)
    short = replace(own, steps=2, evaluations=2)
    with pytest.warns(NoRewardWarning, match=r"H\(Adv\) = 0"):
        found = lorakit.run([short, replace(short, reward=silent)], tmp_path / "runs", engine="trl", device="cpu",
                            processes=1)
    packed = lorakit.run([short], tmp_path / "packed", device="cpu", processes=1)
    assert found[0].curve.keys() == packed[0].curve.keys()
    assert found[0].metrics.keys() == packed[0].metrics.keys()
    assert found[1].metrics["groups_with_spread"] == 0


SWEEP = """
import sys
from pathlib import Path
import lorakit
from lorakit.specs import GRPOSpec
from waiting import stay_at_first_record
sys.path.append(sys.argv[2])
stay_at_first_record(Path({there!r}))
lorakit.run([GRPOSpec.from_json(spec) for spec in {specs!r}], sys.argv[1], device="cpu", processes=1)
"""


def test_a_killed_sweep_keeps_what_is_done(own, tmp_path):
    specs = [replace(own, steps=6), replace(own, steps=7)]  # two packs, one after the other
    there, store = tmp_path / "there", Store(tmp_path / "runs")
    script = SWEEP.format(specs=[spec.to_json() for spec in specs], there=str(there))
    with killed_behind(script, str(store.root), str(tmp_path), said=tmp_path / "said") as started:
        started.reach(there)
    (done,) = store.records(None, "runs")
    found = lorakit.run(specs, store, device="cpu", processes=1)
    assert done in found
    assert [r.curve for r in found] == [r.curve for r in lorakit.run(specs, tmp_path / "whole", device="cpu",
                                                                     processes=1)]


def test_both_kinds_in_one_call_are_refused(own, tmp_path):
    with pytest.raises(ValueError, match="two calls"):
        lorakit.run([own, SFTSpec(learning_rate=1e-3)], tmp_path)


def test_runs_that_sample_with_vllm_get_a_process_each(monkeypatch, tmp_path):
    done = []

    def ask(self, request, on_step=None):
        if request["do"] == "probe":
            return {"probe": {"seconds": 1.0, "bytes": 1.0, "free_bytes": 100.0}}
        done.extend(["run"] * len(request["specs"]))
        return {"records": [Record.from_run(read_spec(spec), "ok", {"reward": 1.0}, {"step": [1]}, {}).to_json()
                            for spec in request["specs"]]}

    monkeypatch.setattr(Worker, "ask", ask)
    monkeypatch.setattr(Worker, "stop", lambda self: done.append("stop"))
    monkeypatch.setattr("lorakit.reference.vllm.require_vllm", lambda spec: None)
    spec = GRPOSpec(model="m@1", task="t@1", learning_rate=1e-3, merge_to_sample=True, use_vllm=True)
    for use_vllm, expected in ((True, ["run", "stop"] * 2), (False, ["run"] * 2)):
        done.clear()
        lorakit.run(vary(replace(spec, use_vllm=use_vllm), seed=[0, 1]), tmp_path / "runs", engine="trl", processes=1)
        assert done[: len(expected) + 1] == [*expected, "stop"]


def test_a_missing_vllm_is_found_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(Worker, "ask", lambda *_: pytest.fail("a process was started"))
    spec = GRPOSpec(model="m@1", task="t@1", learning_rate=1e-3, merge_to_sample=True, use_vllm=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package vllm.*Python 3\.13"):
        lorakit.run([spec], tmp_path / "runs")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    with pytest.raises(ValueError, match="merge_to_sample=True"):
        lorakit.run([replace(spec, merge_to_sample=False)], tmp_path / "runs")
    made = {"engine": "trl", "epoch": current("trl", "grpo")}
    Store(tmp_path / "runs").append("cpu", "runs", Record.from_run(spec, "ok", {}, {"step": [1]}, made))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert len(lorakit.run([spec], tmp_path / "runs")) == 1  # recorded: nothing needs vLLM
