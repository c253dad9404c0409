"""Specs refuse what cannot be run, say what could, and have ids that hash what changes numbers."""

import dataclasses
import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest

import lorakit.names
from lorakit import spec_fields
from lorakit.specs import TARGET_GROUPS, LoRASpec, SFTSpec, SpecError, UnknownNameError, vary


@pytest.fixture(autouse=True)
def names(monkeypatch):
    models = {"tiny": "aaaaaaaaaaaa", "tiny-64": "bbbbbbbbbbbb"}
    known = {"models": models, "datasets": {"reworded-skills": "cccccccccccc"}}
    monkeypatch.setattr(lorakit.names, "known_names", lambda: known)
    return known


def spec_of(**fields):
    return SFTSpec(**({"model": "m@1", "dataset": "d@1", "learning_rate": 1e-3} | fields))


@pytest.mark.parametrize(("field", "value", "allowed"), [
    ("rank", 0, "1 or more"), ("rank", -1, "1 or more"), ("rank", 2.0, "whole number"), ("rank", True, "whole number"),
    ("alpha", 0, "above 0"), ("alpha", -32.0, "above 0"), ("alpha", math.nan, "above 0"),
    ("alpha", math.inf, "above 0"), ("alpha", "32", "above 0"), ("init_a_scale", 0.0, "above 0"),
    ("learning_rate_b_ratio", -1, "above 0"),
    ("train_a", 1, "True or False"), ("targets", "all", "all-linear"), ("targets", (), "tuple of module names"),
    ("targets", ("q_proj", 3), "tuple of module names"), ("targets", None, "all-linear"),
])
def test_an_adapter_that_cannot_be_trained_is_refused(field, value, allowed):
    with pytest.raises(SpecError, match=f"{field}=.*allowed: .*{allowed}"):
        LoRASpec(**{field: value})


@pytest.mark.parametrize(("field", "value", "allowed"), [
    ("learning_rate", 0, "above 0"), ("learning_rate", math.nan, "finite"), ("learning_rate", None, "above 0"),
    ("lora", 16, "LoRASpec"), ("lora", ["rank"], "LoRASpec"),
    ("steps", 0, "1 or more"), ("steps", 1.5, "whole number"), ("batch_size", -4, "1 or more"),
    ("accumulation", 0, "1 or more"), ("max_length", 0, "1 or more"), ("evaluation_tokens", 0, "1 or more"),
    ("seed", -1, "0 or more"), ("seed", 0.0, "whole number"), ("evaluations", 1, "2 to 20"),
    ("evaluations", 21, "2 to 20"), ("weight_decay", -0.1, "0 or more"), ("max_grad_norm", 0, "None"),
    ("beta1", 1, "0 up to"), ("beta2", -0.1, "0 up to"), ("epsilon", 0, "above 0"), ("dtype", "float16", "bfloat16"),
])
def test_a_run_that_cannot_be_run_is_refused(field, value, allowed):
    with pytest.raises(SpecError, match=f"{field}=.*allowed: .*{allowed}"):
        spec_of(**{field: value})


def test_an_adapter_may_be_a_mapping_as_in_a_file():
    assert spec_of(lora={"rank": 4, "targets": ["q_proj"]}).lora == LoRASpec(rank=4, targets=("q_proj",))
    with pytest.raises(SpecError, match="rank=0 cannot be run; allowed: a whole number of 1 or more"):
        spec_of(lora={"rank": 0})


def test_a_field_that_lacks_or_is_misspelt_is_named():
    with pytest.raises(SpecError, match="SFTSpec needs learning_rate: a finite number above 0"):
        SFTSpec()
    with pytest.raises(SpecError, match="SFTSpec has no field 'learning_rat'; did you mean 'learning_rate'"):
        SFTSpec(learning_rat=1e-3)


def test_errors_are_builtin_ones_too():
    assert issubclass(SpecError, ValueError)
    assert issubclass(UnknownNameError, KeyError)


def test_names_are_pinned_to_their_content():
    spec = SFTSpec(learning_rate=1e-3)
    assert (spec.model, spec.dataset) == ("tiny@aaaaaaaaaaaa", "reworded-skills@cccccccccccc")
    assert SFTSpec(learning_rate=1e-3, model=spec.model, dataset=spec.dataset) == spec
    assert spec_of(model="org/name@0123abc").model == "org/name@0123abc"


def test_other_content_under_the_same_name_is_another_run(names):
    before = SFTSpec(learning_rate=1e-3)
    names["models"]["tiny"] = "dddddddddddd"
    assert SFTSpec(learning_rate=1e-3).id != before.id
    assert SFTSpec.from_json(before.to_json()) == before


@pytest.mark.parametrize(("fields", "words"), [
    ({"model": "tinny"}, ["unknown model 'tinny'", "did you mean 'tiny'?", "tiny, tiny-64", "lorakit.register_model"]),
    ({"dataset": "reworded-skill"}, ["unknown dataset", "did you mean 'reworded-skills'?", "lorakit.register_dataset"]),
    ({"model": "org/name"}, ["no revision", "org/name@COMMIT"]),
    ({"model": ""}, ["model must be a name, got ''"]),
    ({"dataset": None}, ["dataset must be a name, got None"]),
])
def test_an_unknown_name_is_refused_with_the_known_ones(fields, words):
    with pytest.raises(UnknownNameError) as caught:
        spec_of(**fields)
    for word in words:
        assert word in str(caught.value)


def random_spec(draw):
    """A spec with a random choice of its fields set to random values."""
    lora_values = {
        "rank": draw.choice([1, 4, 128]), "alpha": draw.choice([1, 32, 0.5]), "train_a": draw.choice([True, False]),
        "targets": draw.choice([*TARGET_GROUPS, ("q_proj",), ("q_proj", "v_proj"), ["up_proj"]]),
        "init_a_scale": draw.choice([1, 0.1]), "learning_rate_b_ratio": draw.choice([1, 16.0]),
    }
    values = {
        "steps": draw.randint(1, 999), "batch_size": draw.randint(1, 64), "accumulation": draw.randint(1, 4),
        "max_length": draw.choice([64, 128]), "weight_decay": draw.choice([0, 0.0, 0.1, 1]),
        "max_grad_norm": draw.choice([None, 1.0, 0.3]), "beta1": draw.choice([0.0, 0.9]),
        "beta2": draw.choice([0.95, 0.999]), "epsilon": draw.choice([1e-8, 1e-6]),
        "seed": draw.randint(0, 9), "dtype": draw.choice(["float32", "bfloat16", "float64"]),
        "evaluations": draw.randint(2, 20), "evaluation_tokens": draw.choice([256, 2048]),
    }
    lora = LoRASpec(**{k: v for k, v in lora_values.items() if draw.random() < 0.5})
    chosen = {k: v for k, v in values.items() if draw.random() < 0.5}
    return spec_of(learning_rate=10 ** draw.uniform(-6, 0), lora=draw.choice([None, lora]), **chosen)


def test_json_gives_back_the_same_spec_and_id_for_random_specs():
    draw = random.Random(20261121)
    specs = [random_spec(draw) for _ in range(500)]
    for spec in specs:
        again = SFTSpec.from_json(json.loads(json.dumps(spec.to_json())))
        assert again == spec
        assert again.id == spec.id
    by_id = {spec.id: spec for spec in specs}
    assert len(by_id) == len(set(specs)) > 490
    assert all(by_id[spec.id] == spec for spec in specs)


def test_ids_are_what_they_were():
    assert spec_of().id == "ee54ef65b1472954"
    assert spec_of(lora=None, steps=100, seed=3).id == "4af9c5f988d93cab"
    assert spec_of(lora=LoRASpec(rank=1, targets=("q_proj", "v_proj"), train_a=False)).id == "2a05950bb6459f5f"


def test_a_whole_number_and_its_float_are_one_run():
    assert spec_of(learning_rate=1, weight_decay=0).id == spec_of(learning_rate=1.0, weight_decay=0.0).id
    assert spec_of(lora=LoRASpec(alpha=16)).id == spec_of(lora=LoRASpec(alpha=16.0)).id


@spec_fields.spec
class LaterSpec(SFTSpec):
    """What a later version of SFTSpec might be."""

    label_smoothing: float = 0.0


def test_a_new_field_with_a_default_changes_no_id():
    fields = {"model": "m@1", "dataset": "d@1", "learning_rate": 1e-3}
    assert LaterSpec(**fields).id == SFTSpec(**fields).id
    assert LaterSpec(**fields, label_smoothing=0.1).id != SFTSpec(**fields).id


def test_every_field_but_no_circumstance_enters_the_id():
    other = {"learning_rate": 2e-3, "lora": None, "model": "m@2", "dataset": "d@2", "steps": 7, "batch_size": 7,
             "accumulation": 7, "max_length": 7, "weight_decay": 0.7, "max_grad_norm": 0.7, "beta1": 0.7, "beta2": 0.7,
             "epsilon": 0.7, "seed": 7, "dtype": "bfloat16", "evaluations": 7, "evaluation_tokens": 7,
             "final_evaluation_tokens": 7, "schedule": "linear", "warmup": 7, "tf32": True}
    assert {*other, "full_targets", *SFTSpec.unhashed} == {field.name for field in dataclasses.fields(SFTSpec)}
    ids = {spec_of().id} | {spec_of(**{name: value}).id for name, value in other.items()}
    assert len(ids | {spec_of(lora=None, full_targets="all-linear").id}) == 2 + len(other)
    lora = {"rank": 7, "alpha": 7.0, "targets": "mlp", "train_a": False, "init_a_scale": 7.0,
            "learning_rate_b_ratio": 7.0, "expert_rank": 7, "shared_outer": True, "rslora": True, "dropout": 0.7,
            "dora": True, "pissa": True}
    assert set(lora) == {field.name for field in dataclasses.fields(LoRASpec)}
    changed = {spec_of(lora=LoRASpec(**{name: value})).id for name, value in lora.items()
               if name not in ("expert_rank", "shared_outer")}
    experts = [{}, {"expert_rank": 7}, {"shared_outer": True}]
    changed |= {spec_of(lora=LoRASpec(targets="attention+experts", **fields)).id for fields in experts}
    assert len({spec_of().id} | changed) == 2 + len(lora)
    circumstances = {"device", "report_to", "logging_steps", "executor", "threads", "profile", "size", "output_dir"}
    assert not circumstances & (set(other) | set(lora))


def test_specs_are_frozen_and_may_be_keys():
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec_of().steps = 5
    assert {spec_of(): 1}[spec_of()] == 1
    assert {spec_of(lora=LoRASpec(targets=["q_proj"])): 1}


@pytest.mark.parametrize(("data", "words"), [
    ({"learning_rat": 1e-3}, "no field 'learning_rat'; did you mean 'learning_rate'"),
    ({"lora": {"rnak": 4}}, "LoRASpec has no field 'rnak'; did you mean 'rank'"),
    ({"device": "cpu"}, "no field 'device'; .*fields: learning_rate"),
    ({"kind": "grpo"}, "kind='grpo'"),
    ({"lora": {"rank": 0}}, "rank=0"),
])
def test_json_that_is_no_spec_is_refused(data, words):
    with pytest.raises(SpecError, match=words):
        SFTSpec.from_json(spec_of().to_json() | data)


@pytest.mark.parametrize("data", [None, [], "sft", {}])
def test_json_of_another_shape_is_refused(data):
    with pytest.raises(SpecError, match="not a spec of SFTSpec"):
        SFTSpec.from_json(data)


def test_vary_gives_every_combination_in_order():
    specs = vary(spec_of(), rank=[1, 4, None], learning_rate=[1e-4, 1e-3], seed=range(2))
    assert [(s.lora and s.lora.rank, s.learning_rate, s.seed) for s in specs][:5] == [
        (1, 1e-4, 0), (1, 1e-4, 1), (1, 1e-3, 0), (1, 1e-3, 1), (4, 1e-4, 0)]
    assert len({s.id for s in specs}) == 12
    assert [s.method for s in specs[-4:]] == ["full"] * 4
    assert vary(spec_of()) == [spec_of()]


def test_vary_reaches_into_the_adapter_and_keeps_its_other_fields():
    (spec,) = vary(spec_of(lora=LoRASpec(rank=4, alpha=8)), targets=["attention"])
    assert spec.lora == LoRASpec(rank=4, alpha=8, targets="attention")
    assert [s.lora.rank for s in vary(spec_of(lora=None), rank=[2])] == [2]


@pytest.mark.parametrize(("base", "axes", "words"), [
    ({}, {"rank": []}, r"axis 'rank' has no values: \[\]; give a non-empty list"),
    ({}, {"targets": "mlp"}, r"axis 'targets' needs a list of values, got 'mlp': write targets=\['mlp'\]"),
    ({}, {"rank": 16}, r"axis 'rank' needs a list of values, got 16: write rank=\[16\]"),
    ({}, {"learning_rate": np.float64(0.1)}, r"write learning_rate=\[0.1\]"),
    ({}, {"rank": np.array([])}, "axis 'rank' has no values"),
    ({}, {"learning_rates": [1e-3]}, "unknown axis 'learning_rates'; did you mean 'learning_rate'"),
    ({}, {"qqq": [1]}, "unknown axis 'qqq'; axes: accumulation, alpha"),
    ({"lora": None}, {"alpha": [32]}, "axis 'alpha' belongs to LoRA"),
    ({}, {"rank": [4, 0]}, "rank=0"),
])
def test_vary_refuses_empty_and_misspelt_axes(base, axes, words):
    with pytest.raises(SpecError, match=words):
        vary(spec_of(**base), **axes)


def test_importing_specs_brings_nothing_heavy():
    code = "import sys, lorakit.specs; print(sorted({'torch', 'transformers', 'numpy', 'pandas'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_an_axis_may_be_an_array():
    base = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3)
    wanted = vary(base, rank=[1, 2], learning_rate=[1e-3, 1e-2])
    assert vary(base, rank=np.array([1, 2]), learning_rate=np.array([1e-3, 1e-2])) == wanted
    assert vary(base, rank=[np.int64(1), np.int32(2)], learning_rate=np.array([1e-3, 1e-2]).astype(object)) == wanted
    assert [type(spec.lora.rank) for spec in vary(base, rank=np.arange(1, 3))] == [int, int]


@pytest.mark.parametrize("field", ["learning_rate", "weight_decay", "beta1", "max_grad_norm", "steps", "seed"])
@pytest.mark.parametrize("value", [10**400, -10**400, 10**5000, math.inf, math.nan],
                         ids=["large", "negative", "too long to print", "infinite", "nan"])
def test_a_number_that_no_machine_holds_is_refused_in_words(field, value):
    with pytest.raises(SpecError, match=f"{field}=.* cannot be run; allowed: "):
        SFTSpec(**{"model": "m@1", "dataset": "d@1", "learning_rate": 1e-3} | {field: value})
