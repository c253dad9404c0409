"""What a checkpoint holds of a run that is trained alone, by PEFT's layers or by TRL, and how these go on from it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

from lorakit.checkpoints import Checkpoint, Saved
from lorakit.grpo_spec import GRPOSpec
from lorakit.reference.adamw import MasterAdamW
from lorakit.reference.at_points import AfterStep
from lorakit.specs import SFTSpec


def tensors_of(model: nn.Module, optimizer: MasterAdamW, frozen: bool = False) -> dict[str, torch.Tensor]:
    """Weights, masters, moments and the random states of torch.

    Args:
        frozen: also weights that do not train: merging moves them, and PiSSA's are what one decomposition left.
    """
    found = {f"weight.{name}": p for name, p in model.named_parameters() if frozen or p.requires_grad}
    for number, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        found |= {f"optimizer.{number}.{name}": value for name, value in optimizer.state[p].items()}
    found |= {f"master.{number}": master for number, master in enumerate(optimizer.masters.values())}
    found["random.cpu"] = torch.get_rng_state()
    if (device := next(model.parameters()).device).type == "cuda":
        found["random.cuda"] = torch.cuda.get_rng_state(device)
    return found


@torch.no_grad()
def restore(model: nn.Module, optimizer: MasterAdamW, tensors: Mapping[str, torch.Tensor]) -> None:
    """Take up the weights, masters and moments that `tensors_of` gave."""
    for name, p in model.named_parameters():
        if f"weight.{name}" in tensors:
            p.copy_(tensors[f"weight.{name}"])
    for number, master in enumerate(optimizer.masters.values()):
        master.copy_(tensors[f"master.{number}"])
    for number, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        start = f"optimizer.{number}."
        # AdamW counts its steps on the CPU
        optimizer.state[p] = {name.removeprefix(start): value if name.endswith(".step") else value.to(p.device)
                              for name, value in tensors.items() if name.startswith(start)}


def random_facts() -> dict[str, Any]:
    """The random states of Python and NumPy, as JSON holds them."""
    kind, keys, *rest = numpy.random.get_state(legacy=True)  # noqa: NPY002 - the state that libraries draw from
    return {"python": random.getstate(), "numpy": [kind, numpy.asarray(keys).tolist(), *rest]}


def restore_random(saved: Saved) -> None:
    """Take up the random states of torch, and of Python and NumPy where there are some."""
    torch.set_rng_state(saved.tensors["random.cpu"])
    if "random.cuda" in saved.tensors:
        torch.cuda.set_rng_state(saved.tensors["random.cuda"])
    if "python" in saved.facts:
        version, state, spare = saved.facts["python"]
        random.setstate((version, tuple(state), spare))
        numpy.random.set_state(tuple(saved.facts["numpy"]))  # noqa: NPY002


class Resumable:
    """A mixin of transformers' Trainer, which goes on from our checkpoints instead of its own.

    Attributes:
        saved: where to go on, or None.
        run: the spec, the model that trains, and its optimizer.
    """

    saved: Saved | None = None
    run: tuple[SFTSpec | GRPOSpec, nn.Module, MasterAdamW]

    def train_from(self: Any, saved: Saved | None, output_dir: str) -> None:
        """Train to the end, from the beginning or from a checkpoint."""
        from transformers import TrainerState

        self.saved = saved
        if saved is None:
            self.train()
            return
        folder = Path(output_dir) / f"step-{saved.step}"  # holds what transformers asks of a checkpoint's state
        folder.mkdir(parents=True, exist_ok=True)
        state = TrainerState(global_step=saved.step, train_batch_size=self.args.per_device_train_batch_size)
        state.compute_steps(self.args, self.args.max_steps)
        state.save_to_json(str(folder / "trainer_state.json"))
        self.train(resume_from_checkpoint=str(folder))

    def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
        """The weights come with the optimizer."""

    def _load_optimizer_and_scheduler(self: Any, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        (spec, model, optimizer), step = self.run, self.saved.step
        restore(model, optimizer, self.saved.tensors)
        self.lr_scheduler.load_state_dict(
            {**self.lr_scheduler.state_dict(), "last_epoch": step, "_step_count": step + 1})
        optimizer.set_factor(spec.rate_factor(step + 1))

    def _load_rng_state(self: Any, checkpoint: str | None) -> None:
        if checkpoint is not None:
            restore_random(self.saved)


def writing(checkpoint: Checkpoint, trainer: Any, facts: Callable[[], dict[str, Any]], every: int = 1,
            frozen: bool = False) -> Any:
    """A callback of transformers' Trainer that writes a checkpoint between two steps, when it is due.

    Args:
        facts: what was measured so far.
        every: steps that belong together.
        frozen: as in `tensors_of`.
    """
    def write(state: Any) -> None:
        if state.global_step % every == 0 and state.global_step < state.max_steps and checkpoint.due():
            _, model, optimizer = trainer.run
            checkpoint.save(state.global_step, tensors_of(model, optimizer, frozen), random_facts() | facts())

    return AfterStep(write)
