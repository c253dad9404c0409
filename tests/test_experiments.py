"""Which sizes every experiment has, and why it lacks the others: a new experiment without a size fails here."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest

from lorabook.experiments import EXPERIMENTS
from lorabook.experiments.screening import STUDIES, choose
from lorabook.experiments.smollm2 import CHOSEN, base_run, rank_arms
from lorakit.records import Store

RESULTS = Path(__file__).parents[1] / "book" / "results"
SIZES = {"live": ("cpu", "live"), "record": ("cpu", "record"), "gpu": ("gpu", "record"), "paper": ("paper", "record")}
IS_SMOLLM2 = "it is SmolLM2 on two cores: on a GPU that is the gpu definition of the experiment without the suffix"
SLOW = "a step takes SmolLM2 up to a second, and its weights are fetched: a live run uses embedded ones, in 90 s"
UNSCREENED = "its rates are those that the screening chose, and on two cores that is not whole"
TINY_ASKED = "grids of two settings are asked of `tiny` first"
AGAIN = "it is the cpu definition of `learning-rate` once more, on new seeds and bases"
REPLAY = "replay keeps a model of 0.4 million weights in post-training; `rank` asks larger bases without it"
EVENLY = "N says how many guesses a base needs only where it guesses evenly, as `tiny` was taught to"
PAID = "no task is known on which SmolLM2 meets a new form at times: it earned nothing on any of reasoning-gym"
TOO_LONG = "at 2 bits for each of 135 million weights, 300 times, one run is 14 billion tokens, and more beyond"
LEFT_OUT: dict[str, dict[str, str]] = {
    "rank-replay": {"gpu": REPLAY, "paper": REPLAY},
    "rank-smollm2": {"live": SLOW, "gpu": IS_SMOLLM2, "paper": IS_SMOLLM2},
    "capacity-full": {"gpu": TOO_LONG, "paper": TOO_LONG},
    "capacity-placement": {"paper": "rank 1 on an 8B model's MLP holds twice what the largest set of strings carries"},
    "moe": {"gpu": "SmolLM2 has no experts"},
    "learning-rate-width": {"gpu": "SmolLM2 has one width"},
    "learning-rate-width-256": {"gpu": "SmolLM2 has one width", "paper": "one rung of `learning-rate-width`"},
    "learning-rate-invariance": {"paper": "an identity of algebra, and 8 billion weights in float64 are 64 GB"},
    **{f"learning-rate-smollm2-{seed}": {"live": SLOW, "gpu": IS_SMOLLM2, "paper": IS_SMOLLM2} for seed in range(5)},
    **{name: {"live": SLOW, "paper": IS_SMOLLM2} for name in EXPERIMENTS if name.startswith("smollm2-")},
    **{f"smollm2-rank-{name}": {"live": SLOW, "record": UNSCREENED, "paper": IS_SMOLLM2}
       for name in ("confirmed", "early")},
    **{f"learning-rate-{name}": {"live": AGAIN, "gpu": AGAIN, "paper": AGAIN} for name in ("fresh", "bases")},
    **{name: {"live": TINY_ASKED, "gpu": TINY_ASKED, "paper": TINY_ASKED} for name in (
        *(f"learning-rate-alpha-{setting}" for setting in ("plain", "decay", "clip", "epsilon")), "grpo-high-rank")},
    **{f"secret-{name}": {"gpu": EVENLY, "paper": EVENLY} for name in ("reward", "example", "wait")},
    "grpo-form": {"gpu": PAID},
    "grpo-form-factors": {"gpu": PAID},
}


@functools.cache
def specs_of(name: str, size: str):
    return EXPERIMENTS[name].specs(*SIZES[size])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_size_is_defined_or_there_is_a_reason(name):
    absent = {size for size in SIZES if not specs_of(name, size)}
    assert absent == set(LEFT_OUT.get(name, {}))
    assert {SIZES[size] for size in SIZES if size not in absent} == set(EXPERIMENTS[name].runs)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_run_is_named_twice(name):
    for size in SIZES:
        ids = [spec.id for spec in specs_of(name, size)]
        assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if specs_of(name, "live")])
def test_a_live_size_is_a_small_part_of_its_record_size(name):
    live, record = specs_of(name, "live"), specs_of(name, "record")
    assert len({spec.seed for spec in live}) <= 3
    assert sum(spec.steps for spec in live) <= 0.2 * sum(spec.steps for spec in record)
    assert {spec.model for spec in live} <= {spec.model for spec in record}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_gpu_runs_smollm2_and_the_paper_pinned_models_of_the_hub_with_three_seeds(name):
    for size, start in (("gpu", "smollm2-135m-instruct-q4@"), ("paper", ("meta-llama/", "Qwen/", "HuggingFaceTB/"))):
        specs = specs_of(name, size)
        assert all(spec.model.startswith(start) for spec in specs)
        assert {spec.seed for spec in specs} in (set(), {0, 1, 2}) or name.startswith("smollm2-")  # a file a seed
        assert all(len(spec.model.partition("@")[2]) == 40 for spec in specs if size == "paper")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_samples_with_vllm_runs_under_trl(name):
    for size in SIZES:
        asks = any(getattr(spec, "use_vllm", False) for spec in specs_of(name, size))
        assert not asks or EXPERIMENTS[name].engine_for(specs_of(name, size)) == "trl"
    assert EXPERIMENTS[name].engine_for(specs_of(name, "record")) == EXPERIMENTS[name].engine


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_gpu_has_its_base_in_bfloat16_unless_the_question_is_one_of_precision(name):
    asks_for_more = {"learning-rate-invariance": {"float64"}, **{  # recipes tell bfloat16 from float32
        f"grpo-{recipes}": {"float32", "bfloat16"} for recipes in ("factors", "recipes", "sync")}}
    assert {spec.dtype for spec in specs_of(name, "gpu")} in (set(), asks_for_more.get(name, {"bfloat16"}))


def test_the_confirmed_rates_are_those_that_the_records_choose():
    for profile, chosen in CHOSEN.items():
        screened = replace(STUDIES[0], arms=lambda profile: {
            name: arm for name, arm in rank_arms(base_run(profile)).items() if name in CHOSEN[profile]})
        assert choose(screened, profile, Store(RESULTS)) == chosen
