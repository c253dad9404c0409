"""The rules of what a reward tells, on records that never ran."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from synthetic_records import jitter, make

from lorabook import experiments
from lorabook.claims import reward
from lorabook.claims.reward import (
    after_a_wait,
    at_best_rate,
    at_chosen_rate,
    bits_of_episodes_and_tokens,
    calm_costs,
    episodes_against_examples,
    first_pass_bits,
    learnt_by_example,
    learnt_by_reward,
    power,
    surprise,
    told,
    told_by_spread,
)
from lorabook.experiments import Experiment
from lorakit.analysis.frames import runs, tidy
from lorakit.grpo_spec import GRPOSpec
from lorakit.records import Record, Store
from lorakit.specs import LoRASpec, SFTSpec

COUNTS = (10, 100, 10_000)


def rl(rank=1, rate=1e-3, seed=0, *, task="copy@1", episodes=(16, 64, 256), rewards=(0.1, 0.4, 0.9),
       entropy=(0.5, 1.0, 0.5), accuracy=0.5):
    """One RL run, its curve given outright; 4 tokens an episode."""
    spec = GRPOSpec(model="tiny@1", task=task, learning_rate=rate, lora=rank and LoRASpec(rank=rank), seed=seed,
                    steps=len(episodes))
    flat = [accuracy] * len(episodes)
    return Record.from_run(spec, "ok", {}, {
        "step": list(range(1, len(episodes) + 1)), "episodes": list(episodes), "tokens": [4 * n for n in episodes],
        "reward": list(rewards), "reward_entropy": list(entropy), "advantage_entropy": [3.0] * len(episodes),
        "validation_accuracy": flat, "test_accuracy": flat}, {"date": "2026-01-01"})


def example(count, rank=1, rate=1e-2, seed=0, *, learnt_at=3, steps=5):
    """One supervised run on a secret of two label tokens, whose probability reaches 1/2 at a step."""
    spec = SFTSpec(model="tiny@1", dataset=f"secret-{count}@1", learning_rate=rate, lora=rank and LoRASpec(rank=rank),
                   seed=seed, steps=steps, batch_size=1)
    losses = [math.log(2) / 2 if step >= learnt_at else 2.0 for step in range(1, steps + 1)]
    return Record.from_run(spec, "ok", {"base_validation_loss": math.log(count) / 2}, {
        "step": list(range(1, steps + 1)), "tokens": [2 * n for n in range(1, steps + 1)], "train_loss": losses,
        "validation_loss": losses, "test_loss": losses}, {"date": "2026-01-01"})


def secret_runs(count, needed, *, budget=100_000, rates=(3e-4, 1e-3), seeds=range(5)):
    """Runs by reward that learn after `needed(rank, rate, seed)` episodes; None never learns."""
    records = []
    for rank in (1, None):
        for rate in rates:
            for seed in seeds:
                at = needed(rank, rate, seed)
                steps = (at / 2, at, budget) if at else (16, 32, budget)
                paid = (0.1, 0.5, 1.0) if at else (0.0, 0.0, 0.1)
                records.append(rl(rank, rate, seed, task=f"secret-{count}@1", episodes=steps, rewards=paid))
    return records


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Judge records, which are all that their experiments name."""
    def judged(rule, **records):
        store, found = Store(tmp_path), {}
        for key, several in records.items():
            name = key.replace("_", "-")
            for record in several:
                store.append("cpu", name, record)
            found[name] = [read(record) for record in several]
        monkeypatch.setattr(experiments, "get", lambda name: Experiment(name, "?", {
            ("cpu", "record"): lambda: found[name]}))
        monkeypatch.setattr(reward, "pretraining_facts", lambda model: {"parameters": 362_000})
        ((scale, finding),) = rule(store)
        return scale, finding

    return judged


def read(record):
    kind = GRPOSpec if record.spec["kind"] == "grpo" else SFTSpec
    return kind.from_json(record.spec)


def test_what_a_run_was_told_by_hand():
    (row,) = told(tidy([rl()])).to_dict("records")
    assert row["bits"] == 16 * 0.5 + 48 * 1.0 + 192 * 0.5
    assert row["marginal_bits"] == 256 * 3
    assert row["per_episode"] == row["bits"] / 256
    assert row["per_token"] == row["per_episode"] / 4


def test_what_groups_with_spread_told_by_hand():
    """Two completions at even odds tell 1.5 bits a group, as in `spread_bits`; groups without spread nothing."""
    curves = tidy([rl()]).assign(zero_spread=[0.5, 1.0, 1.0])
    assert told_by_spread(curves, 2).tolist() == [pytest.approx(16 / 2 * 1.5)]


def test_runs_after_a_wait_are_counted_by_arm_rate_and_beta2():
    def part(beta2, count, groups, rewards):
        record = rl(task=f"secret-{count}@1", rewards=rewards, rate=1e-3)
        spec = replace(GRPOSpec.from_json(record.spec), beta2=beta2)
        record = replace(record, spec=spec.to_json(), id=spec.id, metrics={
            "groups_with_spread": groups, "base_text_loss_before": 1.0, "base_text_loss_after": 2.0})
        return SimpleNamespace(curves=tidy([record]), runs=runs([record]), specs=[spec])

    parts = [part(0.999, 10_000, 1, (0.0, 0.0, 0.1)), part(0.9, 10_000, 3, (0.0, 0.5, 0.9)),
             part(0.999, 10, 5, (1.0, 1.0, 1.0))]
    found = after_a_wait(parts)
    columns = ["runs", "with a success", "and never another", "learnt", "after"]
    assert found.loc[("rank 1", 1e-3, 0.999), columns].tolist() == [1, 1, 1, 0, 2.0]
    assert found.loc[("rank 1", 1e-3, 0.9), columns].tolist() == [1, 1, 0, 1, 2.0]
    assert len(found) == 2, "the largest secret alone"
    assert calm_costs(parts)["secrets"].tolist() == [10, 10_000], "without the run of another beta2"


def test_the_best_rate_is_chosen_arm_by_arm_even_at_an_end():
    several = [rl(rank, rate, seed, accuracy=0.9 if (rank, rate) in {(1, 1e-3), (None, 1e-4)} else 0.3)
            for rank in (1, None) for rate in (1e-4, 3e-4, 1e-3) for seed in range(2)]
    chosen = at_best_rate(tidy(several))
    assert set(zip(chosen["arm"], chosen["learning_rate"], strict=True)) == {("rank 1", 1e-3), ("full", 1e-4)}


def test_a_first_pass_by_hand():
    def loss(rank, rate, seed, step):
        return math.log(2) * (1.5 if rank else 1.2) * (1 if rate == 1e-3 else 2)

    found = first_pass_bits(tidy(make(loss)))
    assert found.mean == pytest.approx(1.2, rel=1e-4)


@pytest.mark.parametrize(("bits", "outcome"), [
    (1.0, "holds"), (0.5, "holds"), (0.01, "does not hold"), (8.0, "does not hold"), (0.0, "inconclusive")])
def test_c10_rl(judge, bits, outcome):
    shown = make(lambda *_: math.log(2), ranks=(None,), seeds=range(2))
    paid = [rl(rank, rate, seed, entropy=(bits * (1 + jitter(seed + 1, size=0.02)),) * 3, accuracy=0.5 + (rate == 1e-3))
            for rank in (1, None) for rate in (1e-4, 1e-3) for seed in range(5)]
    scale, finding = judge(bits_of_episodes_and_tokens, rank=shown, grpo=paid, grpo_form=[
        rl(1, 1e-3, seed, task="form@1", entropy=(1.0,) * 3) for seed in range(5)])
    assert finding.outcome == outcome
    assert (scale.model, finding.seeds) == ("tiny", 5)
    assert "copy, rank 1" in finding.reason
    assert "form, rank 1 1.00" in finding.reason


def test_c10_rl_needs_every_run(judge, monkeypatch):
    monkeypatch.setattr(Store, "find", lambda self, ids: {})
    scale, finding = judge(bits_of_episodes_and_tokens, rank=make(ranks=(None,), seeds=[0]), grpo=[rl()],
                           grpo_form=[rl(task="form@1")])
    assert scale is None
    assert (finding.outcome, "have no record" in finding.reason) == ("not tested", True)


def test_learnt_by_reward_by_hand():
    learnt = learnt_by_reward(tidy([rl(task="secret-10@1", rewards=(0.1, 0.6, 0.4))]))
    assert learnt[["learnt", "cost", "secrets", "bits"]].values.tolist() == [[True, 64, 10, 16 * 0.5 + 48]]
    never = learnt_by_reward(tidy([rl(task="secret-10@1", rewards=(0.1, 0.2, 0.4))]))
    assert never[["learnt", "cost"]].values.tolist() == [[False, 256]]


def test_learnt_by_example_by_hand():
    learnt = learnt_by_example(tidy([example(100)]))
    assert learnt[["learnt", "cost", "secrets"]].values.tolist() == [[True, 3, 100]]
    assert surprise(tidy([example(100)]), runs([example(100)])) == {100: pytest.approx(math.log2(100))}
    assert not learnt_by_example(tidy([example(100, learnt_at=9)]))["learnt"].any()


def test_a_rate_at_which_more_seeds_learn_goes_before_a_faster_one():
    def needed(rank, rate, seed):
        return 500 if rate == 3e-4 else 20 if seed else None

    chosen = at_chosen_rate(learnt_by_reward(tidy(secret_runs(10, needed))))
    assert chosen["learning_rate"].unique().tolist() == [3e-4]
    both = secret_runs(10, lambda rank, rate, seed: 500 if rate == 3e-4 else 20)
    quick = at_chosen_rate(learnt_by_reward(tidy(both)))
    assert quick["learning_rate"].unique().tolist() == [1e-3]
    assert len(quick) == 10


def cost(k):
    return lambda count: lambda rank, rate, seed: 20 * count**k * (1 + jitter(count, seed + 1, size=0.05))


@pytest.mark.parametrize(("k", "steps", "never", "outcome"), [
    (0.9, (2, 2, 2), 0, "holds"),
    (0.5, (2, 2, 2), 0, "does not hold"),
    (1.4, (2, 2, 2), 0, "does not hold"),
    (0.9, (1, 2, 4), 0, "does not hold"),  # examples grow with N
    (0.9, (2, 2, 2), 10_000, "inconclusive"),  # the largest never learns: a lower bound
])
def test_m1(judge, k, steps, never, outcome):
    rewarded = [record for n in COUNTS
                for record in secret_runs(n, (lambda *_: None) if n == never else cost(k)(n), budget=10_000)]
    shown = [example(n, rank, 1e-2, seed, learnt_at=at) for n, at in zip(COUNTS, steps, strict=True)
             for rank in (1, None) for seed in range(5)]
    _, finding = judge(episodes_against_examples, secret_reward=rewarded, secret_example=shown)
    assert finding.outcome == outcome
    assert finding.seeds == 5
    if not never:
        assert finding.interval.mean == pytest.approx(k if steps == (2, 2, 2) else 0.194, abs=0.02)
    assert ("never learnt" in finding.reason) == bool(never)


def test_the_power_of_n_by_hand():
    learnt = learnt_by_reward(tidy([rl(1, 1e-3, s, task=f"secret-{n}@1", episodes=(n, 3 * n), rewards=(0, 1),
                                       entropy=(0, 0)) for n in COUNTS for s in range(2)]))
    assert power(learnt).mean == pytest.approx(1)
