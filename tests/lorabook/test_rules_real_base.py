"""The rules for SmolLM2-135M on records whose answer is known, in every direction."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_records import jitter

from lorabook.claims import CLAIMS, smollm2
from lorabook.claims.evidence import Evidence
from lorabook.claims.ledger import evaluate, first_record, verdict
from lorabook.experiments.smollm2 import FRESH, FRESH_RL
from lorakit.analysis.frames import runs, tidy
from lorakit.analysis.statistics import ratio_interval
from lorakit.grpo_spec import GRPOSpec
from lorakit.records import Record, Store
from lorakit.specs import LoRASpec, SFTSpec

RESULTS = Path(__file__).parents[2] / "book" / "results"
BASE, GAIN = 3.0, 1.0
FULL_GRID = [10 ** (k / 3) * 1e-4 for k in range(-3, 2)]  # the middle one but one is best
LORA_GRID = [10 * rate for rate in FULL_GRID]
BEST = FULL_GRID[2]
STEPS, EARLY = (1, 50, 100, 400), tuple(range(1, 11))
FULL, LINEAR = (None, "all"), (None, "all-linear")
ARMS = {"full": FULL, "linear": LINEAR, **{f"rank {r}": (LoRASpec(rank=r), "all") for r in (1, 4, 16, 64)},
        "attention": (LoRASpec(rank=26, targets="attention"), "all"), "mlp": (LoRASpec(rank=16, targets="mlp"), "all")}
E1_ARMS = ("full", "linear", "rank 1", "rank 4", "rank 16", "rank 64")
ON_SMOLLM2 = {claim.id: claim.twins[0] for claim in CLAIMS if claim.twins and not claim.twins[0].again}


def record(arm, rate, seed, steps=STEPS, *, loss, dataset="real-text@1", batch=2, norm_b=2.0):
    lora, targets = ARMS[arm]
    spec = SFTSpec(model="smollm2@1", dataset=dataset, learning_rate=rate, lora=lora, full_targets=targets, seed=seed,
                   steps=steps[-1], batch_size=batch)
    losses = [loss(arm, rate, seed, step) for step in steps]
    return Record.from_run(spec, "ok", {"base_test_loss": BASE, "parameters": 1000}, {
        "step": list(steps), "tokens": [10 * s for s in steps], "train_loss": losses, "validation_loss": losses,
        "test_loss": losses, "norm_a": [1.0] * len(steps), "norm_b": [norm_b] * len(steps)}, {"date": "2026-01-01"})


def u_curve(shift=None, ratio=None, early=1.0):
    """A U around each arm's best rate: full fine-tuning's `BEST`, LoRA's ten times that unless `ratio` has another."""
    def loss(arm, rate, seed, step):
        times = 1.0 if ARMS[arm][0] is None else (ratio or {}).get(arm, 10.0)
        times *= early if times != 1 and step <= 100 else 1.0
        best = BEST * times * (1 + jitter(len(arm), seed, size=0.02))
        progress = math.log(1 + step) / math.log(401)
        more = (shift or {}).get(arm, lambda seed: 0.0)(seed) * progress
        return BASE - GAIN * progress * (1 - 0.1 * math.log10(rate / best) ** 2) + more + jitter(len(arm), seed, 3) / 9
    return loss


def e1(loss, arms=E1_ARMS, fresh=FRESH, early=True, **more):
    """E1's runs: rates screened, the best of them on fresh seeds, and the first steps at one rate."""
    found = []
    for arm in arms:
        grid = FULL_GRID if ARMS[arm][0] is None else LORA_GRID
        seeds = range(5) if arm in ("full", "rank 1", "rank 16") else range(2)
        found += [record(arm, rate, seed, loss=loss, **more) for rate in grid for seed in seeds]
        mean = {rate: sum(loss(arm, rate, seed, 400) for seed in seeds) for rate in grid}
        found += [record(arm, min(mean, key=mean.get), seed, loss=loss, **more) for seed in fresh]
        if early and ARMS[arm][0] is not None:
            found += [record(arm, LORA_GRID[2], seed, EARLY, loss=loss, **more) for seed in FRESH]
    return found


def judge(claim_id, records):
    evidence = Evidence("gpu", "smollm2@1", tidy(records), runs(records))
    return evaluate(ON_SMOLLM2[claim_id], [evidence])


def by(value):
    return lambda seed: value


def spread(value):
    return lambda seed: value * (seed % 3 - 1)


@pytest.mark.parametrize(("shift", "outcome"), [
    ({}, "holds"), ({"rank 16": by(0.03)}, "holds"), ({"rank 16": by(0.07)}, "does not hold"),
    ({"rank 64": by(-0.07)}, "does not hold"), ({"rank 1": by(0.3)}, "holds"),
    ({"rank 16": spread(0.1)}, "inconclusive"),
])
def test_e1_c1(shift, outcome):
    found = judge("C1", e1(u_curve(shift)))
    assert found.outcome == outcome, found.reason
    assert found.seeds == 8
    assert "deciding nothing, against the linear layers alone: rank 16 − full, all-linear" in found.reason


def test_e1_c1_says_what_is_missing():
    assert "Needs 8 fresh seeds of full at its chosen rate, 4.64159e-05; there are 7." in judge(
        "C1", e1(u_curve(), fresh=range(100, 107))).reason
    assert judge("C1", e1(u_curve(), arms=("full", "rank 1"))).outcome == "not tested"
    without = judge("C1", e1(u_curve(), arms=[arm for arm in E1_ARMS if arm != "linear"]))
    assert without.outcome == "holds"
    assert "Rates are not screened yet for full, all-linear." in without.reason
    no_gain = judge("C1", e1(lambda arm, rate, seed, step: BASE + abs(math.log(rate / BEST) - (
        0 if ARMS[arm][0] is None else math.log(10)))))
    assert (no_gain.outcome, "did not clearly improve" in no_gain.reason) == ("not tested", True)


@pytest.mark.parametrize(("ratio", "outcome", "words"), [
    ({"rank 1": 7}, "holds", "(both seeds' ratios below 2) 1.0"),
    ({"rank 1": 7, "rank 16": 4, "rank 64": 4, "rank 4": 4}, "does not hold", "rank 16 / full 4.0"),
    ({"rank 1": 14}, "does not hold", "rank 1 / rank 16 1.4"),
    ({"rank 1": 7, "rank 64": 22}, "inconclusive", "rank 64 / rank 4 2.2"),  # two seeds refute nothing
    ({}, "inconclusive", "rank 1 / rank 16 1.0"),
])
def test_e1_c3(ratio, outcome, words):
    found = judge("C3", e1(u_curve(ratio=ratio), fresh=()))
    assert found.outcome == outcome, found.reason
    assert words in found.reason


def test_e1_c3_reads_one_parabola_through_three_rates():
    """The centre is the vertex of the mean losses, whatever the seeds do."""
    from lorakit.analysis.curves import optima

    curves = tidy(e1(u_curve(), arms=("full", "rank 16"), fresh=(), early=False))
    best = optima(curves)
    assert ratio_interval(best["rank 16"], best["full"]).mean == pytest.approx(10, rel=0.05)
    shifted = curves.assign(validation_loss=curves["validation_loss"] + curves["seed"] * 0.1)
    assert optima(shifted)["full"].learning_rate == pytest.approx(best["full"].learning_rate)


@pytest.mark.parametrize(("shift", "outcome"), [
    ({}, "holds"), ({"rank 1": by(0.2)}, "does not hold"), ({"rank 1": spread(0.4)}, "inconclusive")])
def test_e1_c4(shift, outcome):
    assert judge("C4", e1(u_curve(shift), fresh=())).outcome == outcome


def test_e1_c4_needs_the_first_steps():
    assert "fresh seeds of the first steps" in judge("C4", e1(u_curve(), early=False)).reason


@pytest.mark.parametrize(("early", "outcome"), [(2.0, "holds"), (0.5, "does not hold"), (1.0, "inconclusive")])
def test_e1_c14(early, outcome):
    found = judge("C14", e1(u_curve(early=early), fresh=()))
    assert found.outcome == outcome, found.reason
    assert "ratio at step 100 / ratio at step 400" in found.reason


@pytest.mark.parametrize(("steps", "norm", "outcome"), [
    (STEPS, 2.0, "not tested"), ((1, 100, 1000), 2.0, "holds"), ((1, 100, 1000), 0.5, "does not hold")])
def test_e1_c14_b_is_judged_apart_on_long_runs(steps, norm, outcome):
    records = [record("rank 16", rate, seed, steps, loss=u_curve(), norm_b=norm * (1 + 0.01 * seed))
               for rate in LORA_GRID for seed in range(5)]
    assert judge("C14-B", records).outcome == outcome


E2_ARMS = ("full", "rank 16", "attention", "mlp")


@pytest.mark.parametrize(("text", "answers", "outcome"), [
    ({"attention": by(0.2)}, {"attention": by(0.2)}, "holds"),
    ({}, {}, "does not hold"),  # attention is as good
    ({"attention": by(0.2), "mlp": by(0.08)}, {"attention": by(0.2), "mlp": by(0.08)}, "does not hold"),
    ({"attention": by(0.2)}, {}, "depends on the data"),
    ({"attention": spread(0.3)}, {"attention": by(0.2)}, "inconclusive"),
])
def test_e2_c6(text, answers, outcome):
    records = [r for name, shift in (("real-text@1", text), ("gsm8k-answers@1", answers))
               for r in e1(u_curve(shift), arms=E2_ARMS, early=False, dataset=name)]
    found = judge("C6", records)
    assert found.outcome == outcome, found.reason
    assert "On gsm8k-answers (" in found.reason


def test_e2_c6_judges_what_is_there():
    records = e1(u_curve({"attention": by(0.2)}), arms=E2_ARMS, early=False) + e1(
        u_curve(), arms=("full",), early=False, dataset="gsm8k-answers@1")
    found = judge("C6", records)
    assert found.outcome == "holds"
    assert "On gsm8k-answers (not tested): Rates are not screened yet for rank 26, attention." in found.reason


def test_a_dataset_that_is_whole_is_judged_while_another_misses_runs(tmp_path):
    text, answers = (e1(u_curve({"attention": by(0.2)}), arms=E2_ARMS, early=False, dataset=name)
                     for name in ("real-text@1", "gsm8k-answers@1"))
    specs = [SFTSpec.from_json(one.spec) for one in (*text, *answers)]

    def found(folder, records, **changes):
        store = Store(tmp_path / folder)
        for one in records:
            store.append("gpu", "e2", one)
        claim = replace(ON_SMOLLM2["C6"], experiments=("e2",), **changes)
        return verdict("C6", store, [claim], specs_of=lambda name, profile: specs if profile == "gpu" else [],
                       facts=lambda model: {})

    part = found("part", [*text, answers[0]])
    assert part.outcome == "holds"
    said = f"On gsm8k-answers (not tested): Needs every run of its experiments; {len(answers) - 1} have no record."
    assert said in part.reason
    assert all(limit.label.startswith("real-text, rank ") for limit in (part.limit, *part.limits)), "and so in tables"
    none = found("none", [*text[1:], *answers[1:]])
    assert (none.outcome, none.reason) == ("inconclusive", "Needs every run of its experiments; 2 have no record.")
    assert found("part", [], by_dataset=False).outcome == "inconclusive"


def test_a_best_rate_at_the_end_of_its_grid_is_open_and_asks_for_a_wider_grid():
    found = judge("C8", e3(hill(ratio={"rank 1": 1.0})))
    assert found.outcome == "inconclusive"
    assert "rank 1: the best learning rate" in found.reason
    assert found.reason.endswith("The grid is to be widened for every arm first.")


def test_an_end_of_the_grid_on_one_dataset_is_not_outvoted_by_another():
    text = e1(u_curve({"attention": by(0.2)}), arms=E2_ARMS, early=False)
    answers = e1(u_curve(ratio={"attention": 0.5}), arms=E2_ARMS, early=False, dataset="gsm8k-answers@1")
    found = judge("C6", text + answers)
    assert found.outcome == "inconclusive"
    assert "On gsm8k-answers (inconclusive): rank 26, attention: the best learning rate" in found.reason


def test_t1_needs_its_fresh_seeds():
    records = e3(hill(), arms=("full", "rank 16")) + e3(hill(), arms=("rank 1",), fresh=())
    found = judge("T1", records)
    assert (found.outcome, "Needs 5 fresh seeds of rank 1 at" in found.reason) == ("not tested", True)


@pytest.mark.parametrize(("growth", "outcome", "apart"), [
    ({"rank 16": by(0.1), "rank 64": by(0.1)}, "holds", "Rank, apart (holds)"),
    ({"rank 16": by(0.2), "rank 64": by(0.1)}, "holds", "Rank, apart (does not hold)"),
    ({"rank 16": by(-0.1), "rank 64": by(0.1)}, "does not hold", "Rank, apart (inconclusive)"),
    ({"rank 16": spread(0.01), "rank 64": spread(0.01)}, "does not hold", "the larger batch adds nothing"),
    ({"rank 16": spread(0.3), "rank 64": by(0.1)}, "inconclusive", "Rank, apart"),
])
def test_e5_c5(growth, outcome, apart):
    arms = ("full", "rank 16", "rank 64")
    records = e1(u_curve(), arms=arms, early=False, batch=32) + e1(u_curve(growth), arms=arms, early=False, batch=256)
    found = judge("C5", records)
    assert found.outcome == outcome, found.reason
    assert apart in found.reason


WORDS = {f"v {rank}": (LoRASpec(rank=rank, targets=("v_proj",)), "all") for rank in (1, 2, 4, 16)}
ARMS |= WORDS
E4_STEPS = tuple(sorted({round(1.5**n) for n in range(1, 18)}))
ALL = 12 * math.log(2)  # nats of a token before anything is learnt


def remembered(share, leaves=None, slower=0.4):
    """Losses that fall to a share of the bits; an arm learns more slowly from the step at which it leaves."""
    def loss(arm, rate, seed, step):
        grid = FULL_GRID if ARMS[arm][0] is None else LORA_GRID
        done = share.get(arm, 0.9) * math.log(1 + step) / math.log(1 + E4_STEPS[-1])
        at = (leaves or {}).get(arm, math.inf)
        late = max(0.0, math.log((1 + step) / (1 + at))) / math.log(1 + E4_STEPS[-1]) * slower if step > at else 0.0
        off = 0.05 * math.log10(rate / grid[2]) ** 2
        return ALL * (1 - done + late + off) + jitter(len(arm), seed, step)
    return loss


def e4(loss, fresh=range(100, 103)):
    found = []
    for arm in ("full", *WORDS):
        grid = FULL_GRID if ARMS[arm][0] is None else LORA_GRID
        found += [record(arm, rate, 0, E4_STEPS, loss=loss, dataset="random-words-122@1") for rate in grid]
        found += [record(arm, grid[2], seed, E4_STEPS, loss=loss, dataset="random-words-122@1") for seed in fresh]
    return [replace(one, metrics={**one.metrics, "base_test_loss": ALL, "parameters": 23_040}) for one in found]


@pytest.mark.parametrize(("share", "outcome"), [(0.5, "holds"), (0.7, "does not hold"), (0.3, "does not hold")])
def test_e4_bits_a_weight(share, outcome):
    found = judge("C10-W", e4(remembered({"v 1": share})))  # 4 bits are offered to each weight of rank 1
    assert found.outcome == outcome
    assert found.interval.mean == pytest.approx(4 * share, abs=0.05)
    assert judge("C10-W", e4(remembered({"v 1": share}), fresh=[100, 101])).outcome == "not tested"


@pytest.mark.parametrize(("leaves", "share", "outcome"), [
    ({"v 1": 10, "v 2": 40, "v 4": 120}, 0.9, "holds"),
    ({"v 1": 120, "v 2": 40, "v 4": 10}, 0.9, "does not hold"),
    ({"v 1": 10, "v 2": 40}, 0.9, "inconclusive"), ({"v 1": 40, "v 2": 40, "v 4": 40}, 0.9, "inconclusive"),
    ({"v 1": 10, "v 2": 40, "v 4": 120}, 1.0, "inconclusive"),  # the best arm learns all
])
def test_e4_departures(leaves, share, outcome):
    found = judge("C2", e4(remembered(dict.fromkeys(("full", *WORDS), share), leaves)))
    assert found.outcome == outcome, found.reason
    assert found.seeds == 3


RL_BASE, RL_TOP = 0.2, 0.8


def rl(arm, rate, seed, *, accuracy, task="ordered-sums@1", told=100):
    lora, targets = ARMS[arm]
    spec = GRPOSpec(model="smollm2@1", task=task, learning_rate=rate, lora=lora, full_targets=targets, seed=seed,
                    steps=150, final_evaluation_problems=1024)
    value = max(0.0, accuracy(arm, rate, seed))
    column = [RL_BASE, value]
    return Record.from_run(spec, "ok", {"base_test_accuracy": RL_BASE, "parameters": 500, "test_accuracy": value,
                                        "validation_accuracy": value}, {
        "step": [1, 150], "episodes": [32, 4800], "tokens": [100, 9000], "validation_accuracy": column,
        "test_accuracy": column, "reward_entropy": [told / 4800] * 2, "advantage_entropy": [0.0] * 2},
        {"date": "2026-01-01"})


def hill(top=None, ratio=None, width=None):
    """Accuracy by rate: a hill around each arm's best rate."""
    def accuracy(arm, rate, seed):
        lora = ARMS[arm][0] is not None
        best = BEST * ((ratio or {}).get(arm, 10.0) if lora else 1.0) * (1 + jitter(len(arm), seed, size=0.02))
        peak = RL_TOP + (top or {}).get(arm, by(0.0))(seed) + jitter(len(arm), seed)
        return peak - (width or {}).get(arm, 0.1 if lora else 0.9) * math.log10(rate / best) ** 2
    return accuracy


def e3(accuracy, arms=("full", "rank 1", "rank 16"), seeds=range(3), fresh=FRESH_RL, **more):
    found = []
    for arm in arms:
        grid = FULL_GRID if ARMS[arm][0] is None else LORA_GRID
        found += [rl(arm, rate, seed, accuracy=accuracy, **more) for rate in grid for seed in seeds]
        mean = {rate: sum(accuracy(arm, rate, seed) for seed in seeds) for rate in grid}
        found += [rl(arm, max(mean, key=mean.get), seed, accuracy=accuracy, **more) for seed in fresh]
    return found


@pytest.mark.parametrize(("change", "outcome", "words"), [
    ({}, "holds", "The band, apart (holds)"),
    ({"top": {"rank 1": by(-0.02)}}, "holds", "rank 1 − full −3."),
    ({"top": {"rank 1": by(-0.06)}}, "does not hold", "rank 1 − full −1"),
    ({"top": {"rank 1": spread(0.1)}}, "inconclusive", "undecided"),
    ({"width": {"full": 0.1, "rank 1": 2.0, "rank 16": 2.0}}, "holds", "The band, apart (does not hold)"),
    ({"told": 501}, "not tested", "less than the 2 times that the source supposes"),
])
def test_e3_c8(change, outcome, words):
    told = {"told": change.pop("told")} if "told" in change else {}
    found = judge("C8", e3(hill(**change), **told))
    assert found.outcome == outcome, found.reason
    assert words in found.reason


def test_e3_c8_has_a_verdict_for_each_task():
    good, bad = e3(hill()), e3(hill(top={"rank 1": by(-0.2)}), task="number-words@1")
    found = judge("C8", good + bad)
    assert found.outcome == "depends on the data"
    assert "On number-words (does not hold)" in found.reason
    assert judge("C8", e3(hill(), fresh=FRESH_RL[:4])).outcome == "not tested"


def test_e3_c8_gives_counts_where_runs_end_in_two_heaps():
    def lucky(arm, rate, seed):
        return hill()(arm, rate, seed) if arm == "full" or seed < 102 else RL_BASE + 1e-3 * seed / 104

    assert "two heaps; in the upper one: full 5 of 5, rank 1 2 of 5" in judge("C8", e3(lucky)).reason


@pytest.mark.parametrize(("ratio", "outcome"), [
    ({}, "holds"), ({"rank 1": 4}, "does not hold"), ({"rank 1": 6.7}, "inconclusive")])
def test_e3_c3_rl(ratio, outcome):
    assert judge("C3-RL", e3(hill(ratio=ratio, width={"rank 1": 0.9, "rank 16": 0.9}))).outcome == outcome


@pytest.mark.parametrize(("change", "outcome"), [
    ({}, "holds"), ({"top": {"rank 1": by(0.1)}}, "holds"), ({"top": {"rank 1": by(-0.06)}}, "does not hold"),
    ({"top": {"rank 1": spread(0.1)}}, "inconclusive"), ({"told": 501}, "not tested")])
def test_e3_t1(change, outcome):
    told = {"told": change.pop("told")} if "told" in change else {}
    found = judge("T1", e3(hill(**change), **told))
    assert found.outcome == outcome, found.reason
    assert outcome == "not tested" or found.seeds == 8, "screened seeds and fresh ones"


@pytest.mark.parametrize(("top", "outcome"), [
    ({"attention": by(-0.1)}, "holds"), ({}, "does not hold"), ({"attention": by(0.1)}, "does not hold"),
    ({"attention": spread(0.1)}, "inconclusive")])
def test_e3_c6_rl(top, outcome):
    records = e3(hill()) + e3(hill(top=top), arms=("attention", "mlp"), seeds=[0])
    assert judge("C6-RL", records).outcome == outcome


def test_rules_are_older_than_their_first_record_but_for_those_that_say_when_and_why_they_changed():
    store, changed = Store(RESULTS), {name for name, twin in ON_SMOLLM2.items() if twin.changed}
    assert changed == {"C4", "C3", "C14", "C3-RL", "C6", "C8", "T1"}
    first = {name: first_record(twin, store) for name, twin in ON_SMOLLM2.items()}
    assert {"C1", "C3", "C4", "C14", "C6"} <= {name for name, date in first.items() if date}, "there are records"
    for name, twin in ON_SMOLLM2.items():
        assert not first[name] or twin.written < first[name], name
        assert bool(twin.why) == (name in changed)
    assert smollm2.E1_C1_RULE in ON_SMOLLM2["C1"].rule_text
    assert smollm2.E1_C3_RULE in ON_SMOLLM2["C3"].rule_text
    assert {"C1", "C3", "C4", "C5", "C6", "C8", "C14", "C3-RL", "T1", "C6-RL"} <= set(ON_SMOLLM2)


def test_the_end_is_read_on_the_larger_set():
    small = record("full", BEST, 0, loss=u_curve())
    spec = replace(SFTSpec.from_json(small.spec), final_evaluation_tokens=16_384)
    large = replace(small, id=spec.id, spec=spec.to_json(), metrics={**small.metrics, "test_loss": 2.5,
                                                                     "validation_loss": 2.6})
    frame = tidy([large])
    assert frame.iloc[-1][["test_loss", "validation_loss"]].tolist() == [2.5, 2.6]
    assert frame.iloc[-2]["test_loss"] == small.curve["test_loss"][-2]
