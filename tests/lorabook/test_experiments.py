"""Which sizes every experiment has, and why it lacks the others: a new experiment without a size fails here."""

from __future__ import annotations

import functools
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from lorabook.experiments import EXPERIMENTS
from lorabook.experiments.left_out import SIZES, left_out
from lorabook.experiments.screening import STUDIES, NotScreenedError, choose
from lorabook.experiments.smollm2 import CHOSEN, CHOSEN_RL, E3_LOWER, base_run, layer_arms, rank_arms
from lorakit.records import Store

RESULTS = Path(__file__).parents[2] / "book" / "results"
@functools.cache
def specs_of(name: str, size: str):
    return EXPERIMENTS[name].specs(*SIZES[size])


def found(check):
    """What a check finds in each experiment, by its name; those without a finding are left out."""
    return {name: finding for name in EXPERIMENTS if (finding := check(name))}


def test_every_size_is_defined_or_there_is_a_reason():
    assert {name: {size for size in SIZES if not specs_of(name, size)} for name in EXPERIMENTS} == {
        name: set(left_out(name)) for name in EXPERIMENTS}
    assert {name: {SIZES[size] for size in SIZES if specs_of(name, size)} for name in EXPERIMENTS} == {
        name: set(experiment.runs) for name, experiment in EXPERIMENTS.items()}


def test_no_run_is_named_twice():
    def twice(name):
        lists = {size: [spec.id for spec in specs_of(name, size)] for size in SIZES}
        return [size for size, ids in lists.items() if len(set(ids)) < len(ids)]

    assert found(twice) == {}


def test_a_live_size_is_a_small_part_of_its_record_size():
    def large(name):
        live, record = specs_of(name, "live"), specs_of(name, "record")
        return live and (len({spec.seed for spec in live}) > 3
                         or sum(spec.steps for spec in live) > 0.2 * sum(spec.steps for spec in record)
                         or not {spec.model for spec in live} <= {spec.model for spec in record})

    assert found(large) == {}


def test_a_gpu_runs_smollm2_and_the_paper_pinned_models_of_the_hub_with_three_seeds():
    starts = {"gpu": "smollm2-135m-instruct-q4@", "paper": ("meta-llama/", "Qwen/", "HuggingFaceTB/")}

    def strange(name):
        return [size for size, start in starts.items() if (
            any(not spec.model.startswith(start) for spec in specs_of(name, size))
            or any(len(spec.model.partition("@")[2]) != 40 for spec in specs_of(name, size) if size == "paper")
            or not ({spec.seed for spec in specs_of(name, size)} in (set(), {0, 1, 2})
                    or name.startswith("smollm2-")))]  # a file a seed

    assert found(strange) == {}


def test_what_samples_with_vllm_runs_under_trl():
    def elsewhere(name):
        engine = EXPERIMENTS[name].engine_for
        sizes = [size for size in SIZES if any(getattr(spec, "use_vllm", False) for spec in specs_of(name, size))]
        return ([size for size in sizes if engine(specs_of(name, size)) != "trl"]
                or engine(specs_of(name, "record")) != EXPERIMENTS[name].engine)

    assert found(elsewhere) == {}


def test_a_gpu_has_its_base_in_bfloat16_unless_the_question_is_one_of_precision():
    asks_for_more = {"learning-rate-invariance": {"float64"}, **{  # recipes tell bfloat16 from float32
        f"grpo-{recipes}": {"float32", "bfloat16"} for recipes in ("factors", "recipes", "sync")}}
    dtypes = {name: {spec.dtype for spec in specs_of(name, "gpu")} for name in EXPERIMENTS}
    assert found(lambda name: dtypes[name] - asks_for_more.get(name, {"bfloat16"})) == {}
    assert all(asked == dtypes[name] for name, asked in asks_for_more.items())


@pytest.mark.parametrize(("study", "arms"), [("E1", rank_arms), ("E2, real text", layer_arms)])
def test_the_confirmed_rates_are_those_that_the_records_choose(study, arms):
    (one,) = (one for one in STUDIES if one.name == study)
    for profile, chosen in CHOSEN.items():
        assert choose(one, profile, Store(RESULTS)) == {name: chosen[name] for name in arms(base_run(profile))}


@pytest.mark.parametrize("task", CHOSEN_RL["gpu"])
def test_rates_of_rl_are_those_that_the_grid_so_far_chooses_and_the_other_arms_are_at_its_end(task):
    (study,) = (one for one in STUDIES if one.name == f"E3, {task}")
    store, every = Store(RESULTS), [spec for name in study.screens for spec in EXPERIMENTS[name].specs("gpu", "record")]
    if not store.missing(every):  # the wider grid decides as soon as it is whole
        assert choose(study, "gpu", store) == CHOSEN_RL["gpu"][task]
        return
    first = tuple(name for name in study.screens if "-lower-" not in name)
    for name in study.arms("gpu"):
        one = replace(study.only([name], "gpu"), screens=first)
        if name in CHOSEN_RL["gpu"][task]:
            assert choose(one, "gpu", store) == {name: CHOSEN_RL["gpu"][task][name]}
        else:
            with pytest.raises(NotScreenedError, match="is an end of its grid"):
                choose(one, "gpu", store)


def test_lower_rates_go_on_downwards_from_the_grid_for_every_arm():
    for task in E3_LOWER:
        first, lower = (EXPERIMENTS[f"smollm2-grpo-{task}{kind}-0"].specs("gpu", "record") for kind in ("", "-lower"))
        for lora in {spec.lora for spec in first}:
            old, new = (sorted(spec.learning_rate for spec in specs if spec.lora == lora) for specs in (first, lower))
            steps = [b / a for a, b in pairwise([*new, *old])]
            assert len(new) == E3_LOWER[task]
            assert max(steps) / min(steps) < 1.02, "equally dense"
