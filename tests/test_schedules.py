"""The learning rate moves as transformers' schedulers say, and alike in every engine (RL: `test_grpo.py`)."""

import pytest
import torch
from plain_training import data, largest_difference, spec, tiny
from test_sft import tokenizer
from transformers import get_scheduler

from lorakit.packed.engine import train_pack
from lorakit.reference.peft_loop import train_peft
from lorakit.reference.sft import train_sft
from lorakit.schedules import SCHEDULES, rate_factor, warmup_steps
from lorakit.specs import SpecError, vary

SPLITS = data()
CURVED = [{"schedule": "linear"}, {"schedule": "cosine", "warmup": 3}, {"warmup": 0.25}]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (2, 1), (50, 0), (50, 7), (300, 30)])
def test_factors_are_those_of_transformers(schedule, steps, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps)
    for step in range(1, steps + 1):
        assert rate_factor(schedule, step, steps, warmup) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_share_of_the_steps_is_rounded_as_transformers_does(tmp_path):
    from transformers import TrainingArguments

    for warmup, steps in ((0.03, 100), (0.1, 7), (0.25, 20), (12, 100)):
        arguments = TrainingArguments(output_dir=str(tmp_path), warmup_steps=warmup, report_to="none")
        assert warmup_steps(warmup, steps) == arguments.get_warmup_steps(steps)


@pytest.mark.parametrize("fields", CURVED, ids=str)
@pytest.mark.parametrize("rank", [4, None])
def test_supervised_engines_agree(fields, rank):
    run = spec(rank=rank, learning_rate=3e-3 if rank else 1e-3, steps=12, dtype="float64", weight_decay=0.1, **fields)
    constant = spec(rank=rank, learning_rate=run.learning_rate, steps=12, dtype="float64", weight_decay=0.1)
    base = tiny(dtype=torch.float64)
    packed, straight = train_pack([run, constant], base, SPLITS)
    assert largest_difference(packed.curve, train_peft(run, base, SPLITS).curve) < 1e-9
    assert largest_difference(packed.curve, train_sft(run, base, tokenizer(), SPLITS).curve) < 1e-6
    alone = train_pack([constant], base, SPLITS)[0]
    assert largest_difference(straight.curve, alone.curve) < 1e-9, "a pack holds several schedules"
    assert largest_difference(packed.curve, straight.curve) > 1e-3


@pytest.mark.parametrize("fields", [{"schedule": "step"}, {"warmup": -1}, {"warmup": 20}, {"warmup": 1.5},
                                    {"warmup": 0.99}, {"warmup": True}], ids=str)
def test_what_cannot_be_run_is_refused(fields):
    with pytest.raises(SpecError, match=next(iter(fields))):
        spec(steps=20, **fields)


def test_ids_count_steps_of_warmup_and_old_ones_stay():
    share, whole = spec(steps=100, warmup=0.1), spec(steps=100, warmup=10)
    assert share.id == whole.id != spec(steps=100).id
    assert spec(steps=100, schedule="constant", warmup=0).id == spec(steps=100).id
    assert [s.warmup_steps for s in vary(share, steps=[50, 200])] == [5, 20], "a share follows the steps"
    assert type(share).from_json(share.to_json()) == share
