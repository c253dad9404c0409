"""GRPOSpec refuses what cannot be run, and its id covers what changes numbers."""

import dataclasses
import json
import math
import random

import pytest

from lorakit import GRPOSpec, LoRASpec, Record, SFTSpec, Store, sources, vary
from lorakit.grpo_spec import ARTICLE_OBJECTIVE, CORRECTIONS, GRPO_OBJECTIVE, LOSSES, SCALES
from lorakit.names import UnknownNameError, known_names
from lorakit.records import RecordError
from lorakit.sources import rewards
from lorakit.specs import SpecError, read_spec

OTHER = {
    "learning_rate": 2e-3, "lora": None, "model": "m@2", "task": "t@2", "reward": "two-part", "reward_weights": (2.0,),
    "steps": 7, "prompts_per_step": 7, "group_size": 7, "max_completion_length": 7, "temperature": 0.7, "loss": "grpo",
    "scale_rewards": "group", "clip": 0.2, "iterations": 7, "importance_sampling": "none", "importance_cap": 3.0,
    "kl_coefficient": 0.7, "mask_truncated": True, "merge_to_sample": True, "use_vllm": True, "weight_decay": 0.7,
    "max_grad_norm": 0.7, "beta1": 0.7, "beta2": 0.7, "epsilon": 0.7, "seed": 7, "dtype": "bfloat16", "evaluations": 7,
    "evaluation_problems": 7, "final_evaluation_problems": 7, "schedule": "cosine", "warmup": 3, "tf32": True,
}
TOGETHER = {"full_targets": {"lora": None, "full_targets": "all-linear"},
            "format_steps": {"reward": "two-part", "format_steps": 7}, "clip_high": {"clip": 0.2, "clip_high": 0.28}}


@pytest.fixture(autouse=True)
def two_part(monkeypatch):
    """A reward of two components, as another package's source may give."""
    known = sources.rewards() | {"two-part": 2}
    monkeypatch.setattr(sources, "rewards", lambda: known)


def spec_of(**fields):
    return GRPOSpec(**({"model": "m@1", "task": "t@1", "learning_rate": 1e-3} | fields))


@pytest.mark.parametrize(("fields", "allowed"), [
    ({"group_size": 1}, "2 or more .in a group of one every reward equals the mean"),
    ({"group_size": 2.0}, "2 or more"),
    ({"prompts_per_step": 0}, "1 or more"), ({"max_completion_length": 0}, "1 or more"), ({"iterations": 0}, "1 or"),
    ({"steps": True}, "whole number"), ({"evaluation_problems": -1}, "1 or more"), ({"evaluations": 21}, "2 to 20"),
    ({"temperature": 0}, "above 0 .evaluation is greedy"), ({"temperature": math.inf}, "above 0"),
    ({"loss": "dpo"}, "dr_grpo, grpo, dapo"), ({"scale_rewards": True}, "none, group, batch"),
    ({"clip": 0}, "None for no clipping"), ({"clip_high": 0.28}, "together with clip"),
    ({"clip": 0.2, "clip_high": -1}, "together with clip"), ({"importance_sampling": "token"}, "token_truncate"),
    ({"importance_cap": 0}, "above 0"), ({"importance_sampling": "none", "importance_cap": 3.0}, "not 'none'"),
    ({"kl_coefficient": -0.1}, "0 or more"), ({"kl_coefficient": math.nan}, "0 or more"),
    ({"mask_truncated": 1}, "True or False"), ({"merge_to_sample": None}, "True or False"),
    ({"use_vllm": "yes"}, "True or False"), ({"use_vllm": True, "dtype": "float64"}, "bfloat16 with vLLM"),
    ({"reward": "exakt"}, "exact, numeric, .*register_reward"), ({"reward": "module:function"}, "register_reward"),
    ({"reward": 3}, "register_reward"), ({"reward_weights": (1.0, 2.0)}, "1 finite number, not all 0"),
    ({"reward": "two-part", "reward_weights": (1.0,)}, "2 finite numbers"), ({"reward_weights": (math.nan,)}, "finite"),
    ({"reward_weights": ("1",)}, "finite"), ({"reward_weights": (0.0,)}, "not all 0"),
    ({"reward_weights": 2}, "finite"),
    ({"format_steps": 5}, "format component"), ({"reward": "two-part", "format_steps": -1}, "format component"),
    ({"learning_rate": 0}, "finite number above 0"), ({"lora": 4}, "LoRASpec"), ({"beta2": 1}, "not including, 1"),
    ({"max_grad_norm": 0}, "None for no clipping"), ({"seed": -1}, "0 or more"), ({"dtype": "float16"}, "bfloat16"),
])
def test_a_run_that_cannot_be_run_is_refused(fields, allowed):
    with pytest.raises(SpecError, match=f"{list(fields)[-1]}=.*allowed: .*{allowed}|dtype=.*allowed: .*{allowed}"):
        spec_of(**fields)


def test_names_are_pinned():
    spec = GRPOSpec(learning_rate=1e-3, task="add")
    assert spec.task == "add@" + known_names()["tasks"]["add"]
    assert spec.model == "tiny@" + known_names()["models"]["tiny"]
    with pytest.raises(UnknownNameError, match=r"unknown task 'ad'; did you mean 'add'\?.*register_task"):
        GRPOSpec(learning_rate=1e-3, task="ad")
    with pytest.raises(UnknownNameError, match="org/name@COMMIT"):
        GRPOSpec(learning_rate=1e-3, task="org/name")


def test_every_field_enters_the_id():
    assert {*OTHER, *TOGETHER, *GRPOSpec.unhashed} == {field.name for field in dataclasses.fields(GRPOSpec)}
    specs = [spec_of(), *(spec_of(**{name: value}) for name, value in OTHER.items()),
             *(spec_of(**fields) for fields in TOGETHER.values())]
    assert len({spec.id for spec in specs}) == len(specs)
    assert spec_of().id != SFTSpec(model="m@1", dataset="t@1", learning_rate=1e-3).id


def test_ids_are_what_they_were():
    assert spec_of().id == "ac20039ed09805ff"
    assert spec_of(lora=None, steps=100, seed=3, **GRPO_OBJECTIVE).id == "23aa64e08476d976"


def test_json_gives_back_the_same_spec_for_random_specs():
    draw = random.Random(20261122)
    for _ in range(300):
        fields = {name: value for name, value in OTHER.items() if draw.random() < 0.4}
        fields["importance_sampling"] = draw.choice(CORRECTIONS[1:])
        fields |= {"loss": draw.choice(LOSSES), "scale_rewards": draw.choice(SCALES),
                   "reward": draw.choice([*rewards(), None])}
        fields["reward_weights"] = [draw.choice([1, 0.5])] * rewards().get(fields["reward"] or "", 1)
        fields["lora"] = draw.choice([None, LoRASpec(rank=draw.choice([1, 64]), targets=["q_proj"])])
        spec = spec_of(**fields)
        again = read_spec(json.loads(json.dumps(spec.to_json())))
        assert again == spec
        assert again.id == spec.id
        assert hash(again) == hash(spec)


def test_a_whole_number_and_its_float_are_one_run():
    assert spec_of(temperature=1, clip=1).id == spec_of(temperature=1.0, clip=1.0).id
    assert spec_of(kl_coefficient=0).id == spec_of(kl_coefficient=0.0).id


def test_the_defaults_are_the_articles_objective():
    assert spec_of(**ARTICLE_OBJECTIVE) == spec_of()
    grpo = spec_of(**GRPO_OBJECTIVE)
    assert (grpo.loss, grpo.scale_rewards, grpo.clip) == ("grpo", "group", 0.2)


def test_a_full_run_has_nothing_to_merge():
    assert spec_of(lora=None, merge_to_sample=True) == spec_of(lora=None)


def test_vary_reaches_fields_and_the_adapter():
    specs = vary(spec_of(), rank=[1, 64, None], learning_rate=[1e-4, 1e-3], seed=range(2))
    assert len({spec.id for spec in specs}) == 12
    assert {type(spec) for spec in specs} == {GRPOSpec}
    assert [spec.method for spec in specs[-4:]] == ["full"] * 4
    assert [spec.group_size for spec in vary(spec_of(), group_size=[4, 8])] == [4, 8]
    with pytest.raises(SpecError, match="unknown axis 'batch_size'"):
        vary(spec_of(), batch_size=[4])
    with pytest.raises(SpecError, match="2 or more"):
        vary(spec_of(), group_size=[8, 1])


@pytest.mark.parametrize(("data", "words"), [
    ({"kind": "dpo"}, "not a spec: kind='dpo'; allowed: sft, grpo"), ([], "not a spec: kind=None"),
    ({"kind": "grpo", "groupsize": 4}, "GRPOSpec has no field 'groupsize'; did you mean 'group_size'"),
    ({"kind": "grpo", "lora": {"rnak": 4}}, "LoRASpec has no field 'rnak'"),
])
def test_json_that_is_no_spec_is_refused(data, words):
    with pytest.raises(SpecError, match=words):
        read_spec(data)
    with pytest.raises(SpecError, match="not a spec of GRPOSpec: kind='sft'"):
        GRPOSpec.from_json(SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3).to_json())


def test_records_keep_such_runs_and_check_their_ids(tmp_path):
    store, spec = Store(tmp_path), spec_of(reward="two-part", reward_weights=(1.0, 0.5))
    record = Record.from_run(spec, "ok", {"accuracy": 0.5}, {"step": [0], "reward": [0.25]}, {})
    store.append("cpu", "grpo", record)
    assert store.missing([spec]) == []
    assert read_spec(store.records("cpu", "grpo")[0].spec) == spec
    with pytest.raises(RecordError, match="a default of GRPOSpec changed"):
        Record.from_json(record.to_json() | {"id": "0" * 16})
