"""What is left of alpha once the rate is tuned, and whether high rank collapses in RL, on runs with known answers."""

import math
from types import SimpleNamespace

import pytest
from scipy.special import stdtrit

from lorabook.claims import alpha
from lorabook.claims.alpha import MARGIN, alpha_verdict, high_rank_verdicts
from lorabook.experiments.alpha import RANKS, SETTINGS
from lorabook.page import alphas
from lorakit.analysis.sweep import Sweep
from lorakit.grpo_spec import GRPOSpec
from lorakit.records import Record
from lorakit.specs import LoRASpec, SFTSpec

BASE, GAIN = 3.0, 1.0
RATES = [10 ** (k / 4) for k in range(-16, -7)]


def swept(cost=lambda rank, alpha: 0.0, rates=RATES, noise=0.0):
    """Runs of every rank and alpha, the best rate going with 1 / √alpha; `cost` in % of the gain is left at it.

    `noise` is the standard deviation over seeds of what is left of alpha 8.
    """
    records = []
    for rank in RANKS:
        for value in (8, 32, 128):
            for rate in rates:
                for seed in range(5):
                    spec = SFTSpec(model="base@1", dataset="data@1", lora=LoRASpec(rank=rank, alpha=value), steps=9,
                                   learning_rate=rate, seed=seed)
                    off = noise * (seed - 2) / math.sqrt(2.5) * (value == 8)
                    loss = (BASE - GAIN + 0.01 * (cost(rank, value) + off) + 0.003 * seed
                            + 0.2 * math.log10(rate / 1e-3 * math.sqrt(value / 32)) ** 2)
                    records.append(Record.from_run(spec, "ok", {"base_test_loss": BASE, "parameters": rank}, {
                        "step": [0, 9], "tokens": [0, 9], "train_loss": [BASE, loss], "validation_loss": [BASE, loss],
                        "test_loss": [BASE, loss]}, {"date": "2026-01-01"}))
    return Sweep(records, strict=True)


def every(sweep):
    return dict.fromkeys(SETTINGS, sweep)


def test_nothing_is_left_of_alpha_where_each_has_its_own_rate():
    found = alpha_verdict(every(swept()))
    assert found.outcome == "holds"
    assert len(found.limits) == 4 * 3 * 2
    assert "no epsilon (1e-30), rank 128, alpha 8 − 32" in {limit.label for limit in found.limits}


def test_what_the_rate_cannot_do_is_seen_in_one_setting():
    found = alpha_verdict(every(swept()) | {"clip": swept(lambda rank, value: 20.0 * (rank == 4 and value == 128))})
    assert found.outcome == "does not hold"
    assert found.effect.startswith("clipping at 1, rank 4, alpha 128 − 32")


def test_a_setting_that_was_not_run_is_said_and_only_a_refutation_stands():
    missing = every(swept()) | {"decay": None}
    found = alpha_verdict(missing)
    assert found.outcome == "not tested"
    assert "Not run in full: weight decay 0.1." in found.reason
    worse = alpha_verdict(missing | {"plain": swept(lambda rank, value: 20.0 * (value == 8))})
    assert worse.outcome == "does not hold"
    assert alpha_verdict(dict.fromkeys(SETTINGS)).outcome == "not tested"


def test_the_correction_counts_every_limit_of_the_rule_while_settings_are_missing():
    """Beyond the margin at one in 12, not at one in 24: with two of four settings that refutes nothing yet."""
    error = 1 / math.sqrt(5)
    beyond = [MARGIN * 100 + error * stdtrit(4, 1 - 0.025 / count) for count in (12, 24)]
    for cost, outcome in ((sum(beyond) / 2, "not tested"), (beyond[1] + 0.1, "does not hold")):
        left = swept(lambda rank, value, cost=cost: cost * (rank == 4 and value == 8), noise=1.0)
        assert alpha_verdict(dict.fromkeys(SETTINGS) | {"plain": left, "epsilon": swept()}).outcome == outcome


def test_a_best_rate_at_the_end_of_its_grid_decides_nothing():
    assert alpha_verdict(every(swept(rates=RATES[:4]))).outcome == "inconclusive"


def test_the_table_of_the_chapter_says_where_a_grid_ends():
    rows = alphas.left_table(every(swept(lambda rank, value: 3.0 * (value == 8)))
                             | {"clip": swept(rates=RATES[:4])}).rows
    assert [row["alpha 8"] for row in rows if row["setting"].startswith("clipping at 1, ")] == [
        "best rate at the end of its grid"] * 3
    assert rows[0]["alpha 8"].startswith("+3")
    drawn = swept().only(rank=[16]).plot.u_curve(title="by alpha").to_dict()
    assert "alpha 128" in str(drawn["datasets"])


def policies(top, problems):
    """GRPO runs: `top` gives the final accuracy of (rank, alpha) at the best rate."""
    records = []
    for rank, value in ((8, 32), (64, 32), (128, 32), (64, 256), (128, 512)):
        for rate in (1e-4, 1e-3, 1e-2):
            for seed in range(3):
                spec = GRPOSpec(model="base@1", task="copy@1", lora=LoRASpec(rank=rank, alpha=value), steps=20,
                                learning_rate=rate, seed=seed, prompts_per_step=problems)
                ends = [0.2, top(rank, value) - 0.1 * math.log10(rate / 1e-3) ** 2 + 0.002 * seed]
                records.append(Record.from_run(spec, "ok", {"base_test_accuracy": 0.2, "parameters": rank}, {
                    "step": [1, 20], "tokens": [1, 20], "validation_accuracy": ends, "test_accuracy": ends,
                    "episodes": [1, 20]}, {"date": "2026-01-01"}))
    return Sweep(records, strict=True)


@pytest.mark.parametrize(("top", "fixed", "growing"), [
    (lambda rank, value: 0.9, "holds", "does not hold"),
    (lambda rank, value: 0.9 if value == 32 else 0.3, "holds", "holds"),
    (lambda rank, value: 0.9 if rank == 8 else 0.3, "does not hold", "does not hold"),
])
def test_high_rank(top, fixed, growing):
    found = high_rank_verdicts({problems: policies(top, problems) for problems in (8, 32)})
    assert [one.outcome for one in found] == [fixed, growing]


def test_runs_of_high_rank_count_where_they_are_whole():
    made = Sweep([*policies(lambda rank, value: 0.9, 8), *policies(lambda rank, value: 0.3, 32)], strict=True)
    specs = [GRPOSpec.from_json(record.spec) for record in made]
    ran = SimpleNamespace(missing=0, specs=specs, only=made.only)
    assert [one.outcome for one in high_rank_verdicts(alpha.high_rank_runs(ran))] == ["holds", "does not hold"]
    part = Sweep(list(made)[:-1], strict=True)
    found = alpha.high_rank_runs(SimpleNamespace(missing=1, specs=specs, only=part.only))
    assert [one is None for one in found.values()] == [False, True]
    assert alpha.high_rank_runs(SimpleNamespace(missing=len(specs), specs=specs)) == {8: None, 32: None}


def test_high_rank_collapses_at_one_batch_size_or_both_and_what_is_missing_is_said():
    falls, stays = (policies(lambda rank, value, low=low: 0.9 if value == 32 else low, 8) for low in (0.3, 0.9))
    assert high_rank_verdicts({8: stays, 32: falls})[1].outcome == "holds"
    fixed, growing = high_rank_verdicts({8: stays, 32: None})
    assert (fixed.outcome, growing.outcome) == ("not tested", "not tested")
    assert "Not run in full: 32 problems a step." in growing.reason
    assert alpha.high_rank_verdicts({8: None, 32: None})[0].outcome == "not tested"
