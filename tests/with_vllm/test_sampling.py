"""GRPO that samples with vLLM, through `lorakit.run` as a user calls it, against TRL's arm without vLLM."""

import math
from dataclasses import replace

import pytest
from stop_rewards import STOP, ends_once

import lorakit as lk
from lorakit.data.rl_tasks import register_task
from lorakit.rewards import register_reward

SEEDS = 5


@pytest.fixture(scope="module")
def without(spec, tmp_path_factory):
    return lk.run(lk.vary(spec, seed=range(SEEDS)), tmp_path_factory.mktemp("without"), engine="trl", processes=1)


def test_two_runs_in_a_row_are_recorded_as_asked(sampled):
    sampled, _ = sampled
    assert [r.status for r in sampled] == ["ok", "ok"]
    assert [(r.spec["use_vllm"], r.spec.get("seed", 0), r.provenance["engine"]) for r in sampled] == [
        (True, 0, "trl"), (True, 1, "trl")]
    assert {r.provenance["vllm"].partition("+")[0] for r in sampled} == {"0.31.0"}
    assert sampled[0].curve["reward"] != sampled[1].curve["reward"]


def test_completions_stop_where_the_task_says(sampled, without):
    for record in sampled[0]:
        assert max(record.curve["length"]) < record.spec["max_completion_length"]
        assert max(record.curve["truncated"]) <= max(max(r.curve["truncated"]) for r in without) + 0.1


def test_rewards_lie_in_the_seed_band_of_the_arm_without(sampled, without):
    """At every point from the middle on, with as much again as the seeds differ on each side."""
    for record in sampled[0]:
        for place in range(len(record.curve["step"]) // 2, len(record.curve["step"])):
            band = [r.curve["reward"][place] for r in without]
            margin = max(band) - min(band)
            assert min(band) - margin <= record.curve["reward"][place] <= max(band) + margin, (place, band)
    assert min(r.curve["reward"][-1] for r in sampled[0]) > 0.7


def test_learner_and_sampler_agree_while_the_adapter_learns(sampled):
    """In float32 throughout: at step 0 the base, at the end a policy far from it, so vLLM does hold the adapter."""
    for record in sampled[0]:
        found = record.metrics
        print({name: value for name, value in found.items() if "gap" in name})
        assert found["sampler_base_gap_first"] <= 1e-3
        assert found["sampler_gap_mean"] <= found["sampler_gap_max"] <= 1e-3
        assert found["sampler_base_gap_last"] > 1
        assert found["base_drift"] < 1e-6


def test_full_fine_tuning_with_a_reference(spec, vllm_loads, tmp_path):
    """The KL's reference is loaded by the path that vLLM takes, too."""
    full = replace(spec, lora=None, learning_rate=1e-4, kl_coefficient=0.1, use_vllm=True, steps=6)
    (record,) = lk.run([full], tmp_path, engine="trl", processes=1)
    assert record.status == "ok"
    assert record.metrics["sampler_gap_max"] <= 1e-3 < record.metrics["sampler_base_gap_last"]
    assert math.isfinite(record.curve["kl"][-1])


def test_a_stop_of_several_tokens_and_sixteen_bits(spec, vllm_loads, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    reward = register_reward(ends_once)
    task = register_task("stories", [{"prompt": f"The {a}{b}n "} for a in "bcdfghlmnprst" for b in "aeiou"],
                         grader=reward, stop=STOP)
    run = replace(spec, task=task, reward=reward, dtype="bfloat16", use_vllm=True, steps=2, evaluations=2,
                  evaluation_problems=4, max_completion_length=24)
    (record,) = lk.run([run], tmp_path / "runs", engine="trl", processes=1)
    assert set(record.curve["reward"]) == {1.0}
    assert all(0 < share < 0.8 for share in record.curve["truncated"])
    print({name: value for name, value in record.metrics.items() if "gap" in name})
    assert 1e-3 < record.metrics["sampler_gap_max"] < 1  # sixteen bits, as asked: not the 1e-5 of float32
