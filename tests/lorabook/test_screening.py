"""Screening, choosing and confirming in one session: what is chosen, what is refused, and that a session resumes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from lorabook import experiments
from lorabook.experiments import screening
from lorabook.experiments.definition import Experiment
from lorabook.experiments.screening import NotScreenedError, Study, choose, session, take
from lorabook.experiments.smollm2 import FULL, confirm
from lorakit.names import UnknownNameError
from lorakit.records import Record, Store
from lorakit.specs import LoRASpec, SFTSpec, vary

BASE = SFTSpec(learning_rate=1e-3, steps=2, batch_size=2, max_length=40, evaluations=2, evaluation_tokens=64)
ARMS = {FULL: replace(BASE, lora=None), "rank 2": replace(BASE, lora=LoRASpec(rank=2))}
RATES = [1e-4, 1e-3, 1e-2]
SCREEN = [spec for arm in ARMS.values() for spec in vary(arm, learning_rate=RATES, seed=[0, 1])]


@pytest.fixture
def study(monkeypatch):
    """Two arms, three rates, two seeds, as an experiment called `screen`; confirmed on one fresh seed."""
    made = Experiment("screen", "?", {("cpu", "record"): lambda: SCREEN})
    monkeypatch.setattr(experiments, "get", lambda name: {"screen": made}[name])
    return Study("S", ("screen",), lambda profile: ARMS,
                 lambda profile, rates: {"confirmed": confirm(ARMS, rates, [7])})


def record(spec, loss, status="ok"):
    return Record.from_run(spec, status, {"validation_loss": loss}, {}, {"engine": "packed"})


def filled(folder, loss):
    """A store with a record for every screening run; `loss(spec)` is its validation loss."""
    store = Store(folder)
    for spec in SCREEN:
        store.append("cpu", "screen", loss(spec))
    return store


def test_each_arm_takes_the_rate_of_the_least_mean_over_seeds(study, tmp_path):
    def loss(spec):
        best = 1e-3
        lucky = -0.5 if (spec.learning_rate, spec.seed) == (1e-2, 0) else 0.0  # one seed alone must not decide
        return record(spec, 1 + abs(math.log10(spec.learning_rate / best)) + lucky)

    assert choose(study, "cpu", filled(tmp_path, loss)) == {FULL: 1e-3, "rank 2": 1e-3}


def test_a_rate_at_which_a_seed_diverged_is_not_taken(study, tmp_path):
    def loss(spec):
        if spec.learning_rate == 1e-3 and spec.seed == 1 and spec.lora:
            return record(spec, None, "diverged")
        return record(spec, abs(math.log10(spec.learning_rate / 1e-3)))

    with pytest.raises(NotScreenedError, match="best rate of rank 2, is an end of its grid"):
        choose(study, "cpu", filled(tmp_path, loss))


def test_an_arm_is_chosen_for_and_confirmed_without_the_others(study, tmp_path):
    low = filled(tmp_path, lambda spec: record(spec, spec.learning_rate if spec.lora else abs(
        math.log10(spec.learning_rate / 1e-3))))  # rank 2 is best at the end of its grid
    with pytest.raises(NotScreenedError, match="rank 2, is an end of its grid"):
        choose(study, "cpu", low)
    assert choose(study.only([FULL], "cpu"), "cpu", low) == {FULL: 1e-3}
    new = Store(tmp_path / "new")
    for spec in confirm(ARMS, {FULL: 1e-3}, [7]):
        new.append("cpu", "session", record(spec, 1.0))
    assert take(new, low, [study], "cpu") == 0, "the study as a whole has chosen nothing"
    assert take(new, low, [study.only([FULL], "cpu")], "cpu") == 1
    with pytest.raises(UnknownNameError, match="S has no arm 'rank 3'; arms: full, rank 2"):
        study.only(["rank 3"], "cpu")


@pytest.mark.parametrize("name", [one.name for one in screening.STUDIES])
def test_every_arm_of_every_study_can_be_confirmed_alone(name):
    (study,) = (one for one in screening.STUDIES if one.name == name)
    for arm, base in study.arms("gpu").items():
        specs = [spec for some in study.confirm("gpu", {arm: 1e-4}).values() for spec in some]
        assert any((spec.lora, spec.full_targets) == (base.lora, base.full_targets) for spec in specs), arm


def test_missing_runs_are_counted(study, tmp_path):
    with pytest.raises(NotScreenedError, match="12 of 12 screening runs are missing"):
        choose(study, "cpu", Store(tmp_path))


@pytest.mark.slow
def test_a_session_trains_what_is_missing_writes_it_down_and_resumes(study, tmp_path, capsys, monkeypatch):
    middle = {FULL: 1e-3, "rank 2": 1e-3}
    monkeypatch.setattr(screening, "choose", lambda *_: middle)  # two steps choose nothing sensible
    store, new = Store(tmp_path / "store"), tmp_path / "new"
    session([study], "cpu", 600, store, new, device="cpu")
    assert not store.missing(SCREEN)
    assert not store.missing(confirm(ARMS, middle, [7]))
    assert {name: len(store.records("cpu", name)) for name in ("screen", "confirmed")} == {"screen": 12, "confirmed": 2}
    session([study], "cpu", 600, store, new, device="cpu")
    assert len(store.records("cpu", "screen")) == 12
    assert "confirmed: 0 of 2 runs missing" in capsys.readouterr().out
    other = Store(tmp_path / "other")
    assert take(Store(new), other, [study], "cpu") == 14
    assert take(Store(new), other, [study], "cpu") == 0
    assert not other.missing(SCREEN)


def test_no_time_trains_nothing(study, tmp_path, capsys):
    session([study], "cpu", 0, Store(tmp_path), tmp_path / "new", device="cpu")
    assert "screen: 12 of 12 runs missing" in capsys.readouterr().out


def test_every_study_names_experiments_that_screen_its_arms():
    for one in screening.STUDIES:
        for profile in ("cpu", "gpu"):
            specs = [spec for name in one.screens for spec in experiments.EXPERIMENTS[name].specs(profile, "record")]
            arms = one.arms(profile)
            rates = {name: {s.learning_rate for s in specs if (s.lora, s.full_targets) == (arm.lora, arm.full_targets)}
                     for name, arm in arms.items()}
            assert all(len(found) >= 5 for found in rates.values())
            confirmed = one.confirm(profile, {name: sorted(found)[2] for name, found in rates.items()})
            assert all(spec.seed >= 100 or spec.kind == "grpo" for specs in confirmed.values() for spec in specs)
            assert all(specs for specs in confirmed.values())
