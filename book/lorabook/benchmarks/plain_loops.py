"""What one would write without packs: a loop over PEFT models, turns over shards of the data, torch.func's vmap."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from lorabook.benchmarks.base import load
from lorabook.benchmarks.outcome import Outcome, clock
from lorakit.adapters.peft_layers import attach
from lorakit.data.tokens import order
from lorakit.result import evaluation_steps
from lorakit.specs import LoRASpec, SFTSpec

SHARDS = 4


class Loop:
    """One run of plain PEFT (or of the bare model, for full fine-tuning), a step after another.

    Args:
        model: of `subject`, trained here.
        fused: AdamW's; None is torch's default.
    """

    def __init__(self, spec: SFTSpec, model: Any, train: Any, fused: bool | None) -> None:
        self.spec, self.model, self.train = spec, model, train
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=spec.learning_rate, weight_decay=0.0, fused=fused)
        self.rows = order(spec.seed, len(train), spec.steps * spec.batch_size).view(spec.steps, -1)
        self.losses: list[float] = []
        self.ends: list[float] = []

    def steps(self, begin: int, end: int) -> None:
        """Train these steps."""
        device = self.trained[0].device
        for rows in self.rows[begin:end]:
            ids, labels = self.train.input_ids[rows].to(device), self.train.labels[rows].to(device)
            loss = self.model(input_ids=ids, labels=labels, use_cache=False).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.losses.append(loss.item())
            self.ends.append(clock())

    def state(self) -> tuple[list[torch.Tensor], dict[str, Any]]:
        """Weights and moments as they are now."""
        return [p.detach().clone() for p in self.trained], copy.deepcopy(self.optimizer.state_dict())

    def restore(self, state: tuple[list[torch.Tensor], dict[str, Any]]) -> None:
        """Go on from a state."""
        weights, moments = state
        with torch.no_grad():
            for parameter, weight in zip(self.trained, weights, strict=True):
                parameter.copy_(weight)
        self.optimizer.load_state_dict(moments)

    @property
    def loss(self) -> float:
        """Mean over the steps behind the last evaluation, as a record's `train_loss`."""
        last = self.losses[evaluation_steps(self.spec.steps, self.spec.evaluations)[-2]:]
        return sum(last) / len(last)


def subject(base: Any, spec: SFTSpec) -> Any:
    """A copy of the base that trains what the spec says."""
    model = copy.deepcopy(base).requires_grad_(True)
    return model if spec.lora is None else attach(model, spec.lora, spec.seed)


def _outcome(loops: Sequence[Loop]) -> Outcome:
    return Outcome([loop.loss for loop in loops], [loop.ends for loop in loops])


def peft_loop(specs: list[SFTSpec], device: str, fused: bool | None) -> Outcome:
    """One run after another."""
    base, _, splits = load(specs[0], device)
    loops = []
    for spec in specs:
        loops.append(Loop(spec, subject(base, spec), splits["train"], fused))
        loops[-1].steps(0, spec.steps)
    return _outcome(loops)


def peft_tuned(specs: list[SFTSpec], device: str) -> Outcome:
    return peft_loop(specs, device, fused=True)


def peft_default(specs: list[SFTSpec], device: str) -> Outcome:
    return peft_loop(specs, device, fused=None)


def time_sliced(specs: list[SFTSpec], device: str) -> Outcome:
    """All runs on one model, a shard of the data each in turn: adapter and moments are swapped at every turn."""
    base, _, splits = load(specs[0], device)
    model = subject(base, specs[0])
    loops = [Loop(spec, model, splits["train"], fused=True) for spec in specs]
    states = []
    for loop in loops:
        own = model if loop is loops[0] else subject(base, loop.spec)
        states.append(([p.detach().clone() for p in own.parameters() if p.requires_grad],
                       loop.optimizer.state_dict()))
    steps = specs[0].steps
    for shard in range(SHARDS):
        for number, loop in enumerate(loops):
            loop.restore(states[number])
            loop.steps(shard * steps // SHARDS, (shard + 1) * steps // SHARDS)
            states[number] = loop.state()
    return _outcome(loops)


def vmapped(specs: list[SFTSpec], device: str) -> Outcome:
    """torch.func: one model, its adapters stacked, `vmap` over the gradients; AdamW by hand, a rate a configuration."""
    from torch.func import functional_call, grad_and_value, vmap

    base, _, splits = load(specs[0], device)
    models = [attach(copy.deepcopy(base), spec.lora or LoRASpec(), spec.seed) for spec in specs]
    model, steps, first_spec = models[0], specs[0].steps, specs[0]
    model.set_attn_implementation("eager")  # the fused attention has no rule for vmap, and would loop
    frozen = {name: value.detach() for name, value in model.state_dict(keep_vars=True).items()
              if not value.requires_grad}
    trained = {name: torch.stack([dict(one.named_parameters())[name].detach() for one in models])
               for name, value in model.named_parameters() if value.requires_grad}
    first, second = ({name: torch.zeros_like(value) for name, value in trained.items()} for _ in range(2))
    rates = torch.tensor([spec.learning_rate for spec in specs], device=device)
    rows = torch.stack([order(spec.seed, len(splits["train"]), steps * spec.batch_size).view(steps, -1)
                        for spec in specs])

    def loss_of(adapter: dict[str, torch.Tensor], ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional_call(model, frozen | adapter, kwargs={"input_ids": ids, "labels": labels,
                                                                "use_cache": False}).loss

    gradients, losses, ends = vmap(grad_and_value(loss_of)), [], []
    for step in range(steps):
        found, loss = gradients(trained, splits["train"].input_ids[rows[:, step]].to(device),
                                splits["train"].labels[rows[:, step]].to(device))
        root = (1 - first_spec.beta2 ** (step + 1)) ** 0.5
        for name, gradient in found.items():
            first[name].lerp_(gradient, 1 - first_spec.beta1)
            second[name].mul_(first_spec.beta2).addcmul_(gradient, gradient, value=1 - first_spec.beta2)
            scale = (rates / (1 - first_spec.beta1 ** (step + 1))).view(-1, *[1] * (gradient.ndim - 1))
            trained[name].sub_(scale * first[name] / (second[name].sqrt() / root + first_spec.epsilon))
        losses.append(loss.cpu())
        ends.append(clock())
    last = evaluation_steps(steps, first_spec.evaluations)[-2]
    return Outcome(torch.stack(losses[last:]).mean(0).tolist(), [ends] * len(specs))
