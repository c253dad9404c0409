"""The rehearsal of the gpu and paper profiles: no class left out, and a sample of them run whole."""

import json
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import pytest

from lorabook import experiments
from lorabook.cli import main
from lorabook.rehearsal import rehearse as rehearsal
from lorabook.rehearsal.classes import MOST, STEPS, cut, distinct, key_of, spec_classes
from lorabook.rehearsal.rehearse import Rehearsal, note, rehearse, rehearsed
from lorabook.rehearsal.report import rows, section
from lorabook.rehearsal.stand_ins import BASES, ROWS, small_model, texts, tokenizer_of
from lorakit.data.data_files import DatasetError
from lorakit.data.datasets import TextData
from lorakit.data.tokens import tokenize
from lorakit.grpo_spec import GRPOSpec
from lorakit.records import Record
from lorakit.specs import LoRASpec, SFTSpec, vary
from lorakit.sweep.sweeps import SweepError

CLASSES = {profile: spec_classes(profile) for profile in ("gpu", "paper")}
EVERY = [one for classes in CLASSES.values() for one in classes]


@pytest.mark.parametrize("profile", CLASSES)
def test_every_spec_of_a_profile_is_in_one_class_and_none_is_left_out(profile):
    defined = {spec.id for name in experiments.EXPERIMENTS for size in ("live", "record")
               for spec in experiments.get(name).specs(profile, size)}
    assert defined
    listed = Counter(spec.id for one in CLASSES[profile] for spec in one.specs)
    assert listed.keys() == defined
    assert set(listed.values()) == {1}
    for one in CLASSES[profile]:
        free = [replace(spec, seed=0, learning_rate=1.0, steps=10**6, lora=spec.lora and replace(
            spec.lora, rank=1, alpha=1.0)) for spec in one.specs]
        assert all(spec == free[0] for spec in free)


def test_each_class_runs_at_its_smallest_and_largest_rank_by_its_own_engine():
    runs = distinct(EVERY)
    for one in EVERY:
        arms = one.arms()
        ranks = {spec.lora.rank if spec.lora else 0 for spec in one.specs}
        assert {engine for engine, _ in arms} <= {one.engine, "trl"}
        for engine, spec in arms:
            assert spec in runs[engine]
            assert spec.steps == STEPS
            assert all(getattr(spec, name, None) is None or getattr(spec, name) <= most for name, most in MOST.items())
        ran = {spec.lora.rank if spec.lora else 0 for engine, spec in arms if engine == one.engine}
        assert ran == ({min(ranks)} if one.vllm else {min(ranks), max(ranks)})
        assert one.vllm or any(spec.recompute and spec.micro_batch for _, spec in arms)
    assert {spec.kind for spec in runs["trl"]} == {"sft", "grpo"} == {spec.kind for spec in runs["packed"]}
    assert {spec.dtype for spec in runs["packed"]} == {"float32", "bfloat16", "float64"}
    assert any(spec.accumulation > 1 for spec in runs["packed"] if spec.kind == "sft")


def test_a_cut_changes_amounts_alone():
    spec = GRPOSpec(model="m@1", task="t@1", learning_rate=1e-3, steps=90, group_size=64, prompts_per_step=32,
                    reward="osmosis", format_steps=50, clip=0.2, iterations=2, warmup=10, dtype="bfloat16",
                    lora=LoRASpec(rank=512, targets="mlp"))
    changed = {name for name, value in cut(spec).to_json().items() if spec.to_json().get(name) != value}
    assert changed == {"steps", "group_size", "prompts_per_step", "format_steps", "warmup", "evaluations",
                       "evaluation_problems", "max_completion_length"}
    assert cut(spec).format_steps == cut(spec).warmup == 1


def test_a_field_that_matters_makes_another_class():
    spec = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3)
    same = [*vary(spec, seed=[1, 2], rank=[1, 8], alpha=[1.0], learning_rate=[1e-4]), replace(spec, steps=7)]
    other = [replace(spec, recompute=True), replace(spec, lora=None), replace(spec, dtype="bfloat16"),
             *vary(spec, targets=["mlp"])]
    assert {key_of(one, "packed") for one in same} == {key_of(spec, "packed")}
    assert len({key_of(one, "packed") for one in [spec, *other]} | {key_of(spec, "trl")}) == 6


def test_every_base_and_hub_dataset_of_the_profiles_has_a_stand_in():
    specs = [spec for one in EVERY for spec in one.specs]
    assert {spec.model.partition("@")[0] for spec in specs} == set(BASES)
    hub = {name for spec in specs if "/" in (name := getattr(spec, "dataset", None) or spec.task)}
    assert {name.partition("@")[0] for name in hub} | {"openai/gsm8k"} == set(ROWS)


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "Qwen/Qwen3-30B-A3B", "smollm2-135m-instruct-q4"])
def test_a_small_base_is_of_the_same_architecture_and_tokenizer_type(name):
    known, kind, more = BASES[name]
    tokenizer = tokenizer_of(kind, texts(kind)[:500])
    model = small_model(known, tokenizer, more)
    assert sum(p.numel() for p in model.parameters()) < 2e6
    text = "Ana has 12,345 apples.\n"
    ids = tokenizer(text)["input_ids"]
    assert (ids[0] == tokenizer.bos_token_id) == (kind == "llama3")
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert (tokenizer.chat_template is None) == (tokenizer.pad_token is None) == (kind == "llama3")
    assert model.config.model_type == {"gpt2": "llama", "llama3": "llama", "qwen": "qwen3_moe"}[kind]
    assert model.config.tie_word_embeddings == (kind == "gpt2")
    if kind == "llama3":
        assert model.config.rope_parameters["rope_type"] == "llama3"
    assert hasattr(model.model.layers[0].mlp, "experts") == (kind == "qwen")


SAMPLE = [next(one for one in CLASSES["paper"] if wanted(one)) for wanted in (
    lambda one: "moe" in one.experiments and one.first.lora and one.first.lora.shared_outer,
    lambda one: "grpo-recipes" in one.experiments and one.first.merge_to_sample)]


def test_a_sample_of_classes_runs_whole(tmp_path, monkeypatch):
    """Without TRL, whose import alone takes longer than all of them."""
    monkeypatch.setattr("lorabook.rehearsal.classes.trained_by_trl", lambda spec: False)
    done = rehearse(SAMPLE, tmp_path, lambda line: None, processes=1)
    assert done.failed == {}
    assert done.ran.keys() == {one.key for one in SAMPLE}
    assert all(one["torch"] and one["date"] for one in done.ran.values())
    lines = [json.loads(line) for path in (tmp_path / "records").glob("*.jsonl")
             for line in path.read_text().splitlines()]
    assert {line["provenance"]["engine"] for line in lines} == {"packed", "peft"}
    assert {line["spec"]["model"].partition("@")[0] for line in lines} == {"meta-llama/Llama-3.1-8B",
                                                                        "Qwen/Qwen3-30B-A3B"}


def test_a_class_that_fails_is_said_and_not_noted(tmp_path, monkeypatch):
    good, bad = SAMPLE[0], SAMPLE[1]

    def run(specs, store, *, experiment, engine, **_):
        failed = {spec.id: "ValueError: no" for spec in specs if spec.kind == "grpo"}
        for spec in specs:
            if spec.id not in failed:
                store.append(None, experiment, Record.from_run(spec, "ok", {}, {}, {"engine": engine, "date": "now"}))
        if failed:
            raise SweepError(failed, {}, {}, len(specs))

    monkeypatch.setattr(rehearsal.sweeps, "run", run)
    monkeypatch.setattr("lorabook.rehearsal.stand_ins.stand_ins", lambda specs, folder: nullcontext(specs))
    path = tmp_path / "rehearsed.json"
    note(Rehearsal(ran={bad.key: {}, "other": {}}), path)
    done = rehearse([good, bad], tmp_path / "work", lambda line: None)
    assert done.failed == {bad.key: "packed: ValueError: no"}
    note(done, path)
    assert rehearsed(path) == {good.key: {"date": "now"}, "other": {}}


def test_the_table_counts_what_was_rehearsed_what_ran_on_a_gpu_and_what_never_did():
    experiment = "rank"
    classes = [one for one in CLASSES["gpu"] if experiment in one.experiments][:2]
    first, second = classes
    record = Record.from_run(second.first, "ok", {}, {}, {"engine": "packed", "device": "NVIDIA H200"})
    elsewhere = Record.from_run(first.first, "ok", {}, {}, {"engine": "packed", "device": "AMD EPYC 7B13"})
    assert rows(classes, {first.key}, set())[-1][3:] == ["2", "1", "0", "1"]
    text = section(classes, {first.key: {"date": "2026-11-26T01", "torch": "2.13", "device": "a CPU"}},
                   [record, elsewhere])
    specs = len(first.specs) + len(second.specs)
    assert f"Profile gpu: {specs} runs in 2 classes, of which 1 are rehearsed, 1 have run on a GPU, and 0 were" in text
    assert f"| rank | {specs} | 1/2 | 1/2 |" in text
    assert "Last rehearsed: 2026-11-26, torch 2.13 on a CPU." in text


@pytest.mark.parametrize(("done", "status", "words"), [
    (Rehearsal(), 0, "0 failed, 0 not run"),
    (Rehearsal(failed={SAMPLE[0].key: "packed: no memory"}), 1, "(paper): packed: no memory"),
    (Rehearsal(not_run=[one for one in EVERY if one.vllm][:1]), 3, "(paper): vLLM is not installed"),
])
def test_the_command_ends_with_what_became_of_the_classes(monkeypatch, capsys, done, status, words):
    asked = []
    monkeypatch.setattr(rehearsal, "rehearse", lambda classes, *_: asked.append(classes) or done)
    assert main(["rehearse", "--profile", "paper"]) == status
    assert words in capsys.readouterr().out
    assert [one.key for one in asked[0]] == [one.key for one in CLASSES["paper"]]
    main(["rehearse", "--profile", "paper", "--no-vllm"])
    assert len(asked[1]) == sum(not one.vllm for one in CLASSES["paper"])


def test_rows_that_are_too_long_are_left_out_where_the_data_say_so():
    tokenizer = tokenizer_of("gpt2", texts("gpt2")[:50])
    splits = {split: [[("a", False), (" b", True)]] for split in ("validation", "test")}
    data = TextData("long", splits | {"train": [[("a", False), (text, True)] for text in (" b", " b" * 99)]})
    with pytest.raises(DatasetError, match="1 of 4 rows have more tokens than max_length=8"):
        tokenize(data, tokenizer, 8)
    with pytest.warns(UserWarning, match="long: 1 of 4 rows have more tokens than max_length=8, and are left out"):
        assert len(tokenize(replace(data, leave_out_long=True), tokenizer, 8)["train"]) == 1
    none = replace(data, splits=splits | {"train": [[("a", False), (" b" * 99, True)]]}, leave_out_long=True)
    with pytest.raises(DatasetError, match="1 of 3 rows"):
        tokenize(none, tokenizer, 8)
