"""A stop of several tokens ends a completion at its first place, in the sampler, in packs and under TRL alike."""

import importlib
import random
import sys
from dataclasses import replace

import pytest
import torch

from lorakit.bases.models import load_model
from lorakit.data.rl_tasks import Task
from lorakit.grpo_spec import GRPOSpec
from lorakit.packed.grpo import train_grpo_pack
from lorakit.reference.grpo import train_grpo
from lorakit.rewards import register_reward
from lorakit.rl.episodes import NoRewardWarning, rewards_of
from lorakit.rl.rollout import sample, stop_tokens, uniforms
from lorakit.rl.stops import Stops, without_stop
from lorakit.specs import LoRASpec

STOP, LENGTH = "e ", 24
REWARD = f'''
def ends_once(prompts, completions, **columns):
    """1 where the stop stands at the end alone, or nowhere."""
    return [float({STOP!r} not in text[:-1]) for text in completions]
'''
pytestmark = pytest.mark.filterwarnings("ignore::lorakit.theory.shapes.RankWasteWarning")


@pytest.fixture(scope="module")
def base():
    return load_model("tiny-w32-s0")


@pytest.mark.parametrize("text", ["ab", "é。", "</a>"])
def test_an_end_is_the_first_place_where_the_text_holds_the_stop(base, text):
    tokenizer, draw = base[1], random.Random(0)
    stops = Stops([0], text, tokenizer)
    found = 0
    for _ in range(200):
        row = tokenizer("".join(draw.choices([*text, "x", text], k=9)))["input_ids"]
        firsts = [n for n in range(1, len(row) + 1) if text in tokenizer.decode(row[:n])]
        assert stops.length(row) == (firsts[0] if firsts else None)
        reached = [bool(stops.reached([torch.tensor([i]) for i in row[:n]])) for n in range(1, len(row) + 1)]
        assert (reached.index(True) + 1 if True in reached else None) == (firsts[0] if firsts else None)
        found += bool(firsts)
    assert 50 < found <= 200
    assert stops.length([5, 0, 6]) == 2


def test_the_sampler_cuts_what_it_would_have_drawn_anyway(base):
    model, tokenizer = base
    prompts, heat = tokenizer(["The cat ", "Once upon "])["input_ids"], torch.ones(32, 1)
    draws = uniforms(0, 0, 32, LENGTH)
    stop = stop_tokens(model, tokenizer, STOP)
    assert stop.text == STOP
    on = sample(model, prompts, 16, LENGTH, Stops(list(stop)), heat, draws).completions()
    found = sample(model, prompts, 16, LENGTH, stop, heat, draws)
    for row, whole, ended in zip(found.completions(), on, found.ended.tolist(), strict=True):
        assert row == whole[: stop.length(whole)]
        assert ended == (stop.length(whole) is not None)
    assert 8 < found.ended.sum() < 32


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A task whose stop is two tokens, and a reward that pays 1 unless a completion ran past it."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stop_rewards.py").write_text(REWARD, encoding="utf-8")
    reward = register_reward(importlib.import_module("stop_rewards").ends_once)
    rows = [{"prompt": f"The {word} "} for word in ("cat", "dog", "hat", "sun", "boy", "cup")]
    yield Task("stops", dict.fromkeys(("train", "validation", "test"), rows), reward, STOP)
    sys.modules.pop("stop_rewards")


@pytest.mark.filterwarnings(f"ignore::{NoRewardWarning.__module__}.NoRewardWarning")
@pytest.mark.parametrize("arm", ["packed", "trl"])
def test_both_arms_stop_at_several_tokens(base, watched, arm):
    spec = GRPOSpec(model="m@1", task="stops@1", learning_rate=1e-3, lora=LoRASpec(rank=2), steps=2, prompts_per_step=2,
                    group_size=8, max_completion_length=LENGTH, evaluations=2, evaluation_problems=3)
    made = train_grpo_pack([spec], *base, watched)[0] if arm == "packed" else train_grpo(spec, *base, watched)
    assert set(made.curve["reward"]) == {1.0}
    assert all(0 < share < 1 for share in made.curve["truncated"])
    assert made.metrics["sampler_gap_max"] < 1e-4  # what is learnt from is what was drawn, up to the end
    if arm == "trl":
        with pytest.raises(ValueError, match=r"mask_truncated.*engine='packed'"):
            train_grpo(replace(spec, mask_truncated=True), *base, watched)


def test_a_stop_that_can_be_seen_is_no_part_of_an_answer():
    for stop, text, expected in (("</answer>", "42</answer>\n", 1.0), (";", "42;", 1.0), (";", "4;2;", 0.0),
                                 ("\n", "42\n", 1.0), (None, "42", 1.0)):
        (exact,) = rewards_of("exact", Task("sum", {}, stop=stop))
        assert exact(prompts=["?"], completions=[text], answer=["42"]) == [expected], (stop, text)
        assert exact.__name__ == "exact"
    assert without_stop("a; b", ";") == "a; b"
