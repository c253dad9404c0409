"""C6 and C7 on records whose answer is known."""

from dataclasses import replace

import pandas
import pytest
from synthetic_records import BASE, METRICS, RATES, STEPS, curve_loss, jitter

from lorabook.benchmarks.gradient_shares import Shares
from lorabook.claims.evidence import Evidence
from lorabook.claims.layers import (
    _same_ratio,
    contrasts,
    expert_ratios,
    kernel_shares,
    mlp_carries_it,
    pairs,
    same_ratio,
)
from lorakit.analysis.frames import runs, tidy
from lorakit.records import Record, Store
from lorakit.specs import LoRASpec, SFTSpec
from lorakit.theory.configs import known_config
from lorakit.theory.shapes import ModelShape

WEIGHTS = {"attention": 2048, "mlp": 2304, "all-linear": 4352, "experts": 5120, "attention+experts": 6144}
DENSE = (None, LoRASpec(rank=18, targets="attention"), LoRASpec(rank=16, targets="mlp"), LoRASpec(rank=16))
BOTH = LoRASpec(rank=16, targets="attention+experts")
MIXED = (None, LoRASpec(rank=20, targets="attention"), LoRASpec(rank=8, targets="experts"),
         replace(BOTH, expert_rank=8), replace(BOTH, expert_rank=2),
         replace(BOTH, shared_outer=True))
GAIN = 1.5  # of `curve_loss`, as every arm makes it without a shift


def evidence(shift, arms=DENSE, dataset="real-text@1"):
    """Runs of every arm, its loss raised by `shift(targets, seed)` times the improvement."""
    records = []
    for lora in arms:
        targets = lora.targets if lora else "full"
        weights = 393_856 if lora is None else (lora.expert_rank or lora.rank) * WEIGHTS[targets]
        for rate in RATES:
            for seed in range(5):
                spec = SFTSpec(learning_rate=rate, lora=lora, model="base@1", dataset=dataset, steps=STEPS[-1],
                               seed=seed)
                more = GAIN * shift(targets, seed) + 0.002 * jitter(len(targets), seed)
                losses = [BASE, *(curve_loss(16, rate, seed, step) + more for step in STEPS)]
                records.append(Record.from_run(
                    spec, "ok", {**METRICS, "base_test_loss": BASE, "parameters": weights},
                    {"step": [0, *STEPS], "tokens": [256 * s for s in (0, *STEPS)], "train_loss": losses,
                     "validation_loss": losses, "test_loss": losses}, {"date": "2026-01-01"}))
    return Evidence("cpu", "base@1", tidy(records), runs(records), peak_learning_rate=1e-2)


def at(**shifts):
    return lambda targets, seed: shifts.get(targets.split("-")[0].replace("+", "_"), 0.0)


@pytest.mark.parametrize(("shift", "outcome", "words"), [
    (at(attention=0.2), "holds", "rank 18, attention − rank 16, mlp +20"),
    (at(attention=0.2, all=0.03), "holds", "rank 16, mlp − rank 16"),
    (at(), "does not hold", "attention"),  # as good as the MLP
    (at(attention=-0.2, all=-0.04), "does not hold", "attention"),
    (at(attention=0.2, all=-0.2), "does not hold", "rank 16, mlp − rank 16 +20"),
    (lambda targets, seed: 0.2 * (seed - 2) if targets == "attention" else 0.0, "inconclusive", "attention"),
])
def test_c6_outcomes(shift, outcome, words):
    found = mlp_carries_it(evidence(shift))
    assert found.outcome == outcome
    assert words in found.reason
    assert found.regime.startswith("real-text: post-training")


def test_c6_takes_experts_for_the_mlp_and_pairs_equal_expert_ranks():
    good = evidence(at(attention=0.2), MIXED)
    assert mlp_carries_it(good).outcome == "holds"
    named = list(pairs(good.metrics))
    assert ("apart", "rank 20, attention", "rank 8, experts") in named
    assert ("added", "rank 8, experts", "rank 16, attention+experts, expert rank 8") in named
    assert not [pair for pair in named if "shared" in pair[2] or "expert rank 2" in pair[2]]
    assert mlp_carries_it(evidence(at(attention=0.2, attention_experts=-0.2), MIXED)).outcome == "does not hold"


def test_c6_compares_only_equally_large_arms_and_needs_both_questions():
    unmatched = tuple(replace(a, rank=24) if a and a.targets == "attention" else a for a in DENSE)
    assert mlp_carries_it(evidence(at(), unmatched)).outcome == "not tested"
    assert mlp_carries_it(evidence(at(), DENSE[:3])).outcome == "not tested"


def test_c6_needs_an_improvement_to_compare_with():
    assert mlp_carries_it(evidence(lambda targets, seed: 1.5)).outcome == "inconclusive"


def together(*pieces):
    return replace(pieces[0], curves=pandas.concat([piece.curves for piece in pieces]),
                   metrics=pandas.concat([piece.metrics for piece in pieces]))


SKILLS = "reworded-skills-replay@1"
WORSE, ALIKE = at(attention=0.2), at()


def unsettled(targets, seed):
    return 0.2 * (seed - 2) if targets == "attention" else 0.0


@pytest.mark.parametrize(("natural", "skills", "outcome", "shown"), [
    (WORSE, ALIKE, "depends on the data", 20),  # (a) holds on one and is refuted on the other
    (ALIKE, WORSE, "depends on the data", 0),
    (WORSE, unsettled, "holds", None), (unsettled, ALIKE, "inconclusive", None),
    (ALIKE, ALIKE, "does not hold", None),
])
def test_c6_each_dataset_has_a_verdict_and_natural_text_goes_first(natural, skills, outcome, shown):
    found = mlp_carries_it(together(evidence(natural), evidence(skills, dataset=SKILLS)))
    assert found.outcome == outcome
    assert "On real-text (" in found.reason
    assert "On reworded-skills-replay (" in found.reason
    if shown is not None:
        assert found.effect.startswith("rank 18, attention − rank 16, mlp"), "the quantity that differs"
        assert found.interval.mean == pytest.approx(shown, abs=1), "on the natural text"


def test_c6_on_made_up_skills_alone_they_decide():
    assert mlp_carries_it(evidence(ALIKE, dataset=SKILLS)).outcome == "does not hold"


def test_c6_two_natural_datasets_can_disagree():
    both = together(evidence(ALIKE), evidence(WORSE, dataset="other@1"))
    assert mlp_carries_it(both).outcome == "depends on the data"


def test_contrasts_are_differences_by_seed():
    found, gain = contrasts(evidence(at(attention=0.2)).curves, evidence(at(attention=0.2)).metrics)
    assert list(found) == [("apart", "rank 18, attention − rank 16, mlp"), ("added", "rank 16, mlp − rank 16")]
    assert found["apart", "rank 18, attention − rank 16, mlp"].span.mean == pytest.approx(20, abs=1)
    assert gain.mean == pytest.approx(GAIN, abs=0.05)


def test_shares_of_the_kernel_are_means_over_draws_and_an_adapter_has_a_column_of_its_own(tmp_path):
    records = Store(tmp_path)
    for seed, rank, trace in ((0, None, 0.4), (1, None, 0.6), (0, 16, 0.9)):
        one = Shares("base@1", "text@1", 64, 16, seed, targets=rank and "all-linear", rank=rank)
        metrics = {"mlp parameters": 9.0, "mlp parameter_share": 0.7, "mlp kernel_share": trace,
                   "mlp gradient_share": 0.2}
        records.append("cpu", "gradient-shares", Record.from_run(one, "ok", metrics, {}, {}))
    found = kernel_shares(records).loc[("base", "text", "mlp")]
    assert found.to_dict() == pytest.approx({"weights": 0.7, "trace": 0.5, "sum": 0.2, "adapter": 0.9})


def test_c7_is_arithmetic():
    (scale, qwen), (_, tiny) = same_ratio(None)
    assert qwen.outcome == tiny.outcome == "does not hold"
    assert scale.parameters == 30_532_122_624
    found = expert_ratios(ModelShape.of("qwen3-30b-a3b"), 1 / 8)
    per_rank = (2 * (2048 + 4096) + 2 * (2048 + 512)) / (2 * 2048 * 4096 + 2 * 2048 * 512)
    assert found["attention"] == pytest.approx((2048 + 768) / (2048 * 768) / 8 / per_rank)
    assert "0.24 of that of attention and 0.34 of that of a dense MLP" in qwen.reason


def test_c7_holds_where_experts_are_narrow():
    narrow = known_config("qwen3-30b-a3b") | {"hidden_size": 16384, "moe_intermediate_size": 64}
    shape = ModelShape.from_config(narrow)
    assert expert_ratios(shape, 1 / 8)["a dense MLP"] == pytest.approx((16384 + 64) / (16384 + 8 * 64))
    assert _same_ratio("paper", shape)[1].outcome == "holds"
    with pytest.raises(ValueError, match="has no experts"):
        expert_ratios(ModelShape.of("tiny"), 1)
