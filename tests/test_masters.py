"""Full fine-tuning in bfloat16 learns as in float32, in every engine: its updates are kept in float32 masters."""

import pytest
import torch
import toy_rl
from plain_training import data, spec, tiny

from lorakit.packed.engine import train_pack
from lorakit.packed.grpo import train_grpo_pack
from lorakit.packed.optimizer import PackedAdamW
from lorakit.reference.adamw import MasterAdamW
from lorakit.reference.grpo import train_grpo
from lorakit.reference.peft_loop import train_peft
from lorakit.reference.sft import train_sft

SPLITS = data()
RATE = 1e-4  # of weights of about 0.15, whose last digits in bfloat16 are 1e-3 apart
LOSS = 0.004  # nats; float32 falls by 0.015, and bfloat16 without masters not at all
CHANGE = 0.1  # share of float32's ‖ΔW‖ by which bfloat16's may differ; without masters it is less than half
TRAIN = {
    "packed": lambda run, model: train_pack([run], model, SPLITS)[0],
    "peft": lambda run, model: train_peft(run, model, SPLITS),
    "trl": lambda run, model: train_sft(run, model, toy_rl.words(), SPLITS),
}
TRAIN_RL = {
    "packed": lambda run, model: train_grpo_pack([run], model, toy_rl.words(), toy_rl.task())[0],
    "trl": lambda run, model: train_grpo(run, model, toy_rl.words(), toy_rl.task()),
}


def without_masters(monkeypatch):
    """The optimizers as they would be if they updated the rounded weights themselves."""
    packed = PackedAdamW.__init__

    def rounded(self, *arguments):
        packed(self, *arguments)
        self.flat = self.weights
        self.grad, self.mean, self.square = (torch.zeros_like(self.flat) for _ in range(3))

    def plain(self, groups, **options):
        self.masters = {}
        torch.optim.AdamW.__init__(self, groups, **options)

    monkeypatch.setattr(PackedAdamW, "__init__", rounded)
    monkeypatch.setattr(MasterAdamW, "__init__", plain)


def supervised(engine):
    """Final test loss and ‖ΔW‖ / ‖W‖ in float32 and in bfloat16."""
    runs = [spec(rank=None, learning_rate=RATE, steps=60, evaluations=2, dtype=name)
            for name in ("float32", "bfloat16")]
    found = [TRAIN[engine](run, tiny(dtype=getattr(torch, run.dtype))).metrics for run in runs]
    return [one["test_loss"] for one in found], [one["delta_norm"] for one in found]


@pytest.mark.parametrize("engine", TRAIN)
def test_full_fine_tuning_in_bfloat16_lies_near_float32(engine, monkeypatch):
    losses, changes = supervised(engine)
    assert abs(losses[1] - losses[0]) <= LOSS
    assert changes[1] == pytest.approx(changes[0], rel=CHANGE)
    without_masters(monkeypatch)
    losses, changes = supervised(engine)
    assert losses[1] - losses[0] > 3 * LOSS
    assert changes[1] < changes[0] / 2


@pytest.mark.parametrize("engine", TRAIN_RL)
def test_rl_in_bfloat16_moves_the_weights_as_far_as_float32(engine, monkeypatch):
    def change(name):
        run = toy_rl.spec(rank=None, learning_rate=RATE, steps=6, dtype=name)
        return TRAIN_RL[engine](run, toy_rl.model(getattr(torch, name))).metrics["delta_norm"]

    expected = change("float32")
    assert change("bfloat16") == pytest.approx(expected, rel=CHANGE)
    without_masters(monkeypatch)
    assert change("bfloat16") < 0.6 * expected


def test_masters_keep_what_a_rounded_weight_would_lose():
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    wide = torch.nn.Parameter(torch.ones(3))
    optimizers = [MasterAdamW([{"params": [p]}], lr=1e-3, weight_decay=0.1) for p in (weight, wide)]
    for step in range(20):
        for p, optimizer in zip((weight, wide), optimizers, strict=True):
            p.grad = torch.tensor([1.0, -1.0, 0.5], dtype=p.dtype)
            optimizer.step()
            optimizer.zero_grad()
            assert p.grad is None
        if step == 0:
            assert torch.equal(weight[:1], torch.ones(1, dtype=torch.bfloat16))  # 0.999 is nearer to 1 than to 0.996
    assert torch.equal(weight, wide.to(torch.bfloat16))
    assert (wide - 1).abs().min() > 0.01
