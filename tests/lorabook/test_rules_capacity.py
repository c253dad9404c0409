"""The rules of capacity on records that never ran, whose bits are worked out by hand."""

import math

import pytest
from synthetic_records import jitter, make

from lorabook.claims.capacity import (
    bits_of_tokens,
    bits_of_weights,
    episodes_fit_rank_one,
    first_pass,
    last_doubling,
    stored_bits,
)
from lorabook.claims.evidence import Evidence
from lorakit.analysis.frames import runs, tidy
from lorakit.analysis.statistics import GridEdgeError
from lorakit.records import Store

STRINGS, WEIGHTS = 24, 2176
KNOWN, LABELS = STRINGS * 378, STRINGS * 63
STEPS = (6, 60, 600, 3000, 6000)  # of 4 strings: 1, 10, 100, 500 and 1000 exposures
RATES = (5e-4, 1.25e-3, 3e-3)


def loss_of(per_weight):
    """Nats a label token when this many bits a weight are stored."""
    return (KNOWN - per_weight * WEIGHTS) / LABELS * math.log(2)


def strings(end, half, *, best=1.25e-3, spread=0.02, model="tiny-w64-s0@1"):
    """Rank 1 that stores `half` bits a weight after 500 exposures and `end` after 1000, at its best rate."""
    def loss(rank, rate, seed, step):
        per_weight = {6000: end, 3000: half}.get(step, half * step / 6000)
        worse = 0.3 * abs(math.log(rate / best))
        return loss_of(per_weight - worse + spread * (seed - 1) + jitter(rate, step, size=1e-4))

    return make(loss, ranks=(1,), rates=RATES, seeds=range(3), steps=STEPS, dataset=f"random-strings-{STRINGS}@1",
                model=model, metrics={"parameters": WEIGHTS})


def passes(per_token, *, dataset, steps, model="tiny-w64-s0@1", known=None):
    """Rank 16 over data met once at three rates, the middle one best with `per_token` bits a label token."""
    records = []
    for rate in RATES:
        worse = abs(math.log(rate / RATES[1]))
        records += make(lambda *_: 1.0, ranks=(16,), rates=[rate], seeds=range(3), steps=(1, steps), dataset=dataset,
                        model=model, metrics={"train_nats": steps * 256 * (per_token + worse) * math.log(2)})
    return records


def judge(rule, records, model="tiny-w64-s0@1"):
    return rule(Evidence("cpu", model, tidy(records), runs(records), embedded=model.startswith("tiny")))


def test_bits_stored_by_hand():
    records = strings(end=1.7, half=1.4, spread=0.0)
    found = stored_bits(tidy(records), runs(records))
    last = found[found["step"] == 6000]
    assert last["learning_rate"].unique() == [1.25e-3]
    assert last["per_parameter"].tolist() == pytest.approx([1.7] * 3, abs=2e-3)
    assert last["bits"].tolist() == pytest.approx([1.7 * WEIGHTS] * 3, abs=2)
    assert found["exposures"].unique().tolist() == [1, 10, 100, 500, 1000]
    assert not last["edge"].any()
    low = strings(end=1.7, half=1.4, best=5e-4)
    assert stored_bits(tidy(low), runs(low)).query("step == 6000")["edge"].all()
    assert last["offered"].iloc[0] == pytest.approx(KNOWN / WEIGHTS)
    assert stored_bits(tidy(make()), runs(make())).empty


def test_the_last_doubling_by_hand():
    records = strings(end=1.7, half=1.4, spread=0.0)
    found = last_doubling(stored_bits(tidy(records), runs(records)))
    assert found.mean == pytest.approx(1.7 / 1.4 - 1, abs=2e-3)


def test_a_first_pass_is_one_that_met_nothing_twice():
    once = passes(6.3, dataset="random-strings-384@1", steps=96)
    twice = passes(3.0, dataset="random-strings-192@1", steps=96)
    text = passes(1.2, dataset="real-text@1", steps=250)
    found = first_pass(runs(once + twice + text + strings(1.7, 1.4)))
    assert set(found["dataset"]) == {"random-strings-384@1", "real-text@1"}
    control = found[found["cost"].notna()]
    assert control["cost"].min() == pytest.approx(6.3 / 6)
    assert found["bits_per_token"].min() == pytest.approx(1.2)
    assert first_pass(found.iloc[:0]).empty
    assert first_pass(runs(make())).empty, "old records do not say what their first pass cost"


@pytest.mark.parametrize(("end", "half", "state", "outcome"), [
    (1.8, 1.4, "not saturated", "holds"),
    (3.0, 2.2, "not saturated", "does not hold"),  # more than two, and a bound from below says so at once
    (1.2, 1.0, "not saturated", "inconclusive"),  # less, but still rising
    (1.2, 1.19, "is saturated", "does not hold"),  # less, and saturated
])
def test_c10_w(end, half, state, outcome):
    found = judge(bits_of_weights, strings(end, half))
    assert found.outcome == outcome
    assert found.interval.mean == pytest.approx(end, abs=0.01)
    assert "rank 1" in found.effect
    assert state in found.reason


@pytest.mark.parametrize(("per_token", "outcome"), [(1.2, "holds"), (2.6, "does not hold"), (0.3, "does not hold")])
@pytest.mark.parametrize("control", [True, False])
def test_c10_where_tokens_are_pieces_of_words(per_token, outcome, control):
    model = "smollm2@1"
    records = passes(per_token, dataset="real-text@1", steps=250, model=model)
    if control:
        records += passes(6.3, dataset="random-strings-384@1", steps=96, model=model)
    found = judge(bits_of_tokens, records, model)
    assert found.outcome == outcome
    assert f"real-text {per_token:.2f}" in found.reason
    assert found.effect == ("real-text, bits a token")


def test_c10_is_inconclusive_where_seeds_straddle_a_limit():
    wide = [r for seed, bits in enumerate((1.0, 2.0, 3.0)) for r in passes(bits, dataset="real-text@1", steps=250,
                                                                       model="smollm2@1")
            if r.spec.get("seed", 0) == seed]
    assert judge(bits_of_tokens, wide, "smollm2@1").outcome == "inconclusive"


def test_c10_is_not_tested_on_bytes_or_without_text():
    found = judge(bits_of_tokens, passes(1.2, dataset="real-text@1", steps=250))
    assert (found.outcome, "A token of this base is a byte." in found.reason) == ("not tested", True)
    assert judge(bits_of_tokens, make(), "smollm2@1").outcome == "not tested"
    assert judge(bits_of_weights, make()).outcome == "not tested"


def test_c10_a_code_shorter_than_the_information_is_a_broken_instrument():
    found = judge(bits_of_tokens, passes(5.9, dataset="random-strings-384@1", steps=96))
    assert found.outcome == "does not hold"
    assert "0.983 times" in found.reason


def test_c10_w_wants_the_best_rate_inside_its_grid():
    with pytest.raises(GridEdgeError, match="rank 1"):
        judge(bits_of_weights, strings(1.8, 1.4, best=5e-4))


def test_c9_is_computed(tmp_path):
    ((scale, found),) = episodes_fit_rank_one(Store(tmp_path))
    assert scale is None
    assert found.outcome == "holds"
    assert found.interval.mean == pytest.approx(2 * 2_621_440 / 320_000)
    assert "5,324,800 episodes are 1.016 times" in found.reason
