import math
from dataclasses import replace

import pytest

from lorabook import experiments
from lorabook.claims import learning_rate_laws as laws
from lorabook.claims import regime
from lorabook.claims.learning_rate_laws import invariance_gaps, same_after_transformation, same_at_every_width
from lorabook.claims.regime import pretraining_facts
from lorabook.experiments.learning_rate import LEAST_EPSILON
from lorakit.records import Record

METRICS = {"base_test_loss": 3.0, "delta_norm": 0.02, "base_text_loss_before": 1.0, "base_text_loss_after": 1.03}


class Found:
    """A store that holds these records."""

    def __init__(self, records):
        self.records = {record.id: record for record in records}

    def find(self, ids):
        return {key: self.records[key] for key in ids if key in self.records}


def ladder(power, metrics=METRICS, wobble=0.05, names=(laws.WIDTHS,)):
    """Records of the width experiments in which the ratio of best rates goes with the width to `power`."""
    records = []
    for spec in [spec for name in names for spec in experiments.get(name).specs("cpu", "record")]:
        width = pretraining_facts(spec.model)["hidden_size"]
        noise = 1 + wobble * math.sin(7 * spec.seed + width)
        best = 1e-3 * (32 / width) ** 0.8 * (1 if spec.lora is None else 3 * noise * (width / 32) ** power)
        loss = 2 + math.log10(spec.learning_rate / best) ** 2
        curve = {name: [3.0, loss] for name in ("train_loss", "validation_loss", "test_loss")}
        records.append(Record.from_run(spec, "ok", metrics, {"step": [0, 206], "tokens": [0, 9], **curve}, {}))
    return Found(records)


@pytest.fixture(autouse=True)
def able_bases(monkeypatch):
    """Bases that have the skill, whatever the narrow ones can do."""
    monkeypatch.setattr(regime, "MIN_SKILL", 0.0)


@pytest.fixture(autouse=True)
def wide_grids(monkeypatch):
    """Grids that hold every best rate of these tests, whatever those of the real experiment are."""
    real = experiments.get

    def get(name):
        found = real(name)
        if name not in (laws.WIDTHS, laws.WIDEST):
            return found
        specs = {replace(spec, learning_rate=10 ** (exponent / 4)) for spec in found.specs("cpu", "record")
                 for exponent in range(-18, -6)}
        return replace(found, runs={("cpu", "record"): lambda: sorted(specs, key=lambda spec: spec.id)})
    monkeypatch.setattr(experiments, "get", get)


@pytest.mark.parametrize(("power", "outcome"), [(0.0, "holds"), (0.5, "does not hold"), (1.0, "does not hold"),
                                                (-0.5, "does not hold")])
def test_c13_tells_a_constant_ratio_from_a_growing_one(power, outcome):
    ((scale, found),) = same_at_every_width(ladder(power))
    assert found.outcome == outcome
    assert found.interval.mean == pytest.approx(power, abs=0.1)
    assert found.seeds == 5
    assert "at width 32" in found.reason
    assert scale.profile == "cpu"


def test_c13_is_inconclusive_where_the_seeds_disagree():
    ((_, found),) = same_at_every_width(ladder(0.28, wobble=0.3))
    assert found.outcome == "inconclusive"


def test_c13_is_not_tested_outside_post_training_or_without_records():
    ((_, found),) = same_at_every_width(ladder(0.5, METRICS | {"delta_norm": 0.3}))
    assert found.outcome == "not tested"
    assert "0 are in post-training" in found.reason
    assert "power +0.4" in found.reason
    ((_, found),) = same_at_every_width(Found([]))
    assert found.outcome == "not tested"


def test_c13_leaves_out_bases_without_the_skill(monkeypatch):
    monkeypatch.setattr(regime, "MIN_SKILL", 0.2)
    ((_, found),) = same_at_every_width(ladder(0.0))
    assert found.outcome == "not tested"
    assert "Of 3 widths 1 are in post-training" in found.reason
    assert "share of its skills that the base has 0.008 (below the limit 0.2)" in found.regime


def test_the_widest_base_joins_the_ladder_when_it_is_complete():
    narrow, whole = ladder(0.5), ladder(0.5, names=(laws.WIDTHS, laws.WIDEST))
    part = Found([*narrow.records.values(), next(r for r in whole.records.values() if "w256" in r.spec["model"])])
    found = {name: set(laws.width_ladder(laws.recorded_ladder(store))["width"]) for name, store in
             {"narrow": narrow, "part": part, "whole": whole}.items()}
    assert found == {"narrow": {32, 64, 128}, "part": {32, 64, 128}, "whole": {32, 64, 128, 256}}


def twin_store(gap, usual=1e-4):
    """Records of the invariance experiment whose twins differ by `gap`, or by `usual` with a usual epsilon."""
    records = []
    for spec in experiments.get("learning-rate-invariance").specs("cpu", "record"):
        changed = spec.lora.init_a_scale != 1 or spec.lora.alpha != 32
        off = (gap if spec.epsilon == LEAST_EPSILON else usual) if changed else 0.0
        losses = {"validation_loss": 1.5 + off, "test_loss": 1.25}
        records.append(Record.from_run(spec, "ok", losses, {}, {}))
    return Found(records)


@pytest.mark.parametrize(("gap", "outcome"), [(1e-12, "holds"), (1e-8, "inconclusive"), (1e-3, "does not hold")])
def test_c12_judges_the_twins_without_epsilon(gap, outcome):
    ((scale, found),) = same_after_transformation(twin_store(gap))
    assert found.outcome == outcome
    assert scale.model == "tiny"
    assert "1.0e-04 among those with a usual epsilon" in found.reason


def test_c12_is_not_tested_without_its_records():
    ((_, found),) = same_after_transformation(Found([]))
    assert found.outcome == "not tested"


def test_the_twins_are_named_by_their_factors():
    gaps = invariance_gaps(list(twin_store(1e-12).records.values()))
    assert set(gaps["setting"]) == {"p = 4, q = 1", "p = 1, q = 0.0625", "p = 0.25, q = 8", "p = 4, q = 4"}
    assert set(gaps["epsilon"]) == {LEAST_EPSILON, 1e-8, 1e-8 / 4}
    assert len(gaps) == 5 * (3 + 4 + 1)
