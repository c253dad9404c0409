"""What the embedded models were taught, and what was kept from them."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy
import pytest

from lorakit import sources
from lorakit.bases.models import embedded_record, load_model
from lorakit.data.skills import HELD_OUT_WORDING, SKILLS, split_of
from lorakit.specs import known_names

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scripts():
    """The pre-training scripts, imported from their folder."""
    sys.path.insert(0, str(ROOT / "book" / "lorabook" / "pretrain"))
    try:
        found = {}
        for name in ("corpus", "pretrain"):
            spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "lorabook" / "pretrain" / f"{name}.py")
            found[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found[name])
        yield found
    finally:
        sys.path.remove(str(ROOT / "book" / "lorabook" / "pretrain"))


def test_pretraining_never_shows_the_held_out_wording_or_a_test_argument(scripts):
    text = {kind: numpy.zeros(1000, dtype=numpy.uint8) for kind in ("english", "code")}
    batches = scripts["pretrain"].batches(text, 40, seed=0)
    seen = "".join(bytes(row).decode("ascii") for rows in batches for row in rows.tolist())
    starts = [skill.wordings[HELD_OUT_WORDING].split("{}")[0].strip(", ") for skill in SKILLS]
    assert not [start for start in starts if f"{start} " in seen or f"{start}, " in seen]
    reversed_words = re.findall(r"(?:^|\n)reverse ([a-z]+)\n", seen)
    assert len(reversed_words) > 20
    assert {split_of("reverse", word) for word in reversed_words} == {"train"}


def test_batches_are_the_same_for_every_width_and_differ_by_seed(scripts):
    text = {kind: numpy.arange(1000, dtype=numpy.uint8) for kind in ("english", "code")}
    first, again, other = (next(scripts["pretrain"].batches(text, 1, seed)) for seed in (0, 0, 1))
    assert (first == again).all()
    assert not (first == other).all()


def test_a_changed_archive_is_refused(scripts, tmp_path):
    (tmp_path / "django-5.2.tar.gz").write_bytes(b"not the one")
    with pytest.raises(ValueError, match="expected 1a47f7"):
        scripts["corpus"].download("django==5.2", scripts["corpus"].SOURCES["django==5.2"], tmp_path)


@pytest.mark.parametrize("name", sorted(sources.embedded()))
def test_every_embedded_model_carries_its_record(name):
    record = embedded_record(name)
    assert record["sha256"].startswith(known_names()["models"][name])
    facts = record["pretraining"]
    assert facts["bytes_seen"] >= 30e6
    assert 0 < facts["bits_per_byte"]["english"] < 4
    assert len(facts["accuracy"]) == len(SKILLS)
    model, tokenizer = load_model(name)
    assert sum(p.numel() for p in model.parameters()) == record["parameters"]
    assert tokenizer("é")["input_ids"] == [0xC3, 0xA9]


def test_the_default_model_solves_some_skills_sometimes():
    accuracy = embedded_record("tiny")["pretraining"]["accuracy"]
    assert sum(0.1 <= share <= 0.6 for share in accuracy.values()) >= 3


def test_the_weights_are_what_greedy_decoding_says():
    """One skill's recorded accuracy is measured again from the shipped weights."""
    import torch

    from lorakit.data.skills import draw_question, generator

    model, _ = load_model("tiny")
    skill = next(s for s in SKILLS if s.name == "maximum")
    rng, right = generator("pretraining accuracy", skill.name), 0
    with torch.no_grad():
        for _ in range(30):
            question = draw_question(skill, 0, "test", rng)
            ids, answer = list(question.prompt.encode()), b""
            while len(answer) < len(question.completion):
                answer += bytes([int(model(input_ids=torch.tensor([ids + list(answer)])).logits[0, -1].argmax())])
            right += answer == question.completion.encode()
    recorded = json.loads(sources.embedded()["tiny"].read_text())["pretraining"]["accuracy"]["maximum"]
    assert right / 30 == pytest.approx(recorded, abs=0.15)
