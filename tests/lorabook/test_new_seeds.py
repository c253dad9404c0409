"""RL claims on new seeds: what the runs are, and what the pages say of none, a part or all of them."""

import math
import shutil
from pathlib import Path

import pytest

from lorabook.claims.ledger import verdict
from lorabook.experiments import EXPERIMENTS
from lorabook.experiments.fresh import COPY_FULL, COPY_LORA
from lorabook.page.new_seeds import beside_the_first_runs, equal_again, rank_one_with_room
from lorakit.data.rl_tasks import load_task
from lorakit.records import Record, Store

RESULTS = Path(__file__).parents[2] / "book" / "results"
SHORT, WHOLE = "grpo-fresh-short", "grpo-fresh"
BASE, GAIN = 0.27, 0.15
BEST = {None: 1.2e-4, 1: 5e-4, 8: 6e-4, 64: 8e-4}
LACKS = {None: 0.0, 1: 0.04, 8: 0.0, 64: -0.04}


def made_up(spec):
    """A run that ends where a parabola in the rate says, 1 point more or less by seed, told 0.8 bits an episode."""
    rank = None if spec.lora is None else spec.lora.rank
    end = BASE + GAIN - LACKS[rank] - 0.2 * math.log10(spec.learning_rate / BEST[rank]) ** 2 + 0.01 * (spec.seed % 3)
    right = {f"{split}_accuracy": end for split in ("validation", "test")}
    episodes = 64 * spec.steps
    return Record.from_run(
        spec, "ok", {"base_test_accuracy": BASE, "parameters": 4352 * (rank or 100), **right},
        {"step": [1, spec.steps], "tokens": [400, 7 * episodes], "episodes": [64, episodes],
         "reward_entropy": [0.8, 0.8], "advantage_entropy": [1.0, 1.0],
         **{name: [BASE, value] for name, value in right.items()}},
        {"date": "2026-11-26T13:30:00+00:00", "engine": "packed", "seconds": 6.0, "peak_bytes": 1})


def specs_of(name):
    return EXPERIMENTS[name].specs("cpu", "record")


def store(tmp_path, **counts):
    (tmp_path / "cpu").mkdir(parents=True)
    for name in ("grpo", "grpo-form"):
        shutil.copy(RESULTS / "cpu" / f"{name}.jsonl", tmp_path / "cpu")
    filled = Store(tmp_path)
    for name, count in counts.items():
        for spec in specs_of(name.replace("_", "-"))[:count]:
            filled.append("cpu", name.replace("_", "-"), made_up(spec))
    return filled


def test_new_seeds_are_those_of_no_other_rl_run_and_rates_allow_every_comparison():
    others = {spec.seed for name, one in EXPERIMENTS.items() if name.startswith("grpo") and "fresh" not in name
              for spec in one.specs("cpu", "record")}
    for name in (SHORT, WHOLE):
        assert not {spec.seed for spec in specs_of(name)} & others
        assert {spec.learning_rate for spec in specs_of(name) if spec.lora is None} == set(COPY_FULL)
    assert [min(abs(10 * rate / other - 1) for other in COPY_LORA) < 0.02 for rate in COPY_FULL[:-1]] == [True] * 3
    assert COPY_FULL[1] == 1e-4
    assert (len(specs_of(SHORT)), len(specs_of(WHOLE))) == (240, 96)


def test_more_problems_begin_with_those_of_copy():
    more, few = load_task("copy-1024"), load_task("copy")
    assert {split: len(rows) for split, rows in more.splits.items()} == {"train": 2048, "validation": 512, "test": 1024}
    assert all(rows[: len(few.splits[split])] == few.splits[split] for split, rows in more.splits.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return store(tmp_path_factory.mktemp("whole"), grpo_fresh_short=None, grpo_fresh=None)


@pytest.mark.parametrize(("claim", "outcome", "words"), [
    ("C8", "does not hold", "rank 1 2.27, rank 64"), ("T1", "does not hold", "rank 1 at 0.001 − full at 0.0001"),
    ("P1", "holds", "rank 1 − rank 64 −"), ("C3-RL", "does not hold", "best rate of rank 1 / full 4.")])
def test_new_seeds_are_judged_alone_and_the_first_runs_stand_beside_them(whole, claim, outcome, words):
    found = verdict(claim, whole)
    (short,) = [one for one in (found, *found.others) if one.claim.experiments == (SHORT,)]
    assert (short.outcome, short.seeds, short.after_records) == (outcome, 20, False)
    assert words in short.reason
    assert short.claim.rule_text.startswith("Runs on new seeds, defined on 2026-11-26 at 12:40 UTC")
    assert found.claim.again, "new seeds head the claim"
    listed = beside_the_first_runs([found]).splitlines()
    assert listed[0].startswith(f"- **{claim}**, first runs: ")
    again = next(i for i, line in enumerate(listed) if line.startswith(f"- **{claim}**, new seeds, `{SHORT}`: "))
    assert any(words in line for line in listed[again:] if line.startswith(("  - ", listed[again])))
    if claim == "C8":
        assert "on 20 new seeds, rank 1 is behind: −2" in rank_one_with_room(found)
        assert "They stop at 75 steps, after which no arm has finished" in rank_one_with_room(found)
        assert equal_again(found).startswith("On 8 new seeds, in % of full fine-tuning's gain, rank 8 is")
        assert "; rank 64 is ahead: +2" in equal_again(found)


def test_with_none_or_a_part_of_them_the_first_runs_head_the_claim(tmp_path):
    none, part = store(tmp_path / "none"), store(tmp_path / "part", grpo_fresh_short=100)
    for records, said, sentence in ((none, "not run.", "none is made."), (
            part, "inconclusive. Needs every run of its experiments; 140 have no", "the records say: Needs every run")):
        found = verdict("C8", records)
        assert not found.claim.again
        first, short, rest = beside_the_first_runs([found]).splitlines()
        assert first.startswith("- **C8**, first runs: inconclusive. rank ")
        assert said in short
        assert sentence in rank_one_with_room(found)
        assert rest == f"- **C8**, new seeds, `{WHOLE}`: not run."
