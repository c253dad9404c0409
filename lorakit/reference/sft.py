"""The reference arm: one supervised run with TRL's SFTTrainer, from the same spec and over the same batches."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional

from lorakit.adapters.factors import relative_change, start_of, weights_of
from lorakit.adapters.peft_layers import attach, require_gradients
from lorakit.bases.memory_saving import recomputed
from lorakit.checkpoints import Checkpoint
from lorakit.data.tokens import IGNORE, TokenSplit, order
from lorakit.grpo_spec import GRPOSpec
from lorakit.probes import Probe, Subject, measure
from lorakit.reference.adamw import adamw
from lorakit.reference.at_points import AfterStep, AtPoints
from lorakit.reference.resuming import Resumable, writing
from lorakit.reference.sharded import base_of, gathered, over_processes, shard, whole
from lorakit.result import (
    CURVE,
    HELD_OUT,
    OnStep,
    RunResult,
    evaluation_steps,
    loss_metrics,
    training_metrics,
)
from lorakit.specs import SFTSpec

EVALUATION_BATCH = 8  # sequences in one evaluation forward pass


def train_sft(spec: SFTSpec, model: Any, tokenizer: Any, splits: dict[str, TokenSplit], *, report_to: str = "none",
              output_dir: str | Path | None = None, keep_weights: bool = False, trl_defaults: bool = False,
              on_step: OnStep | None = None, probes: Sequence[Probe] = (),
              checkpoint: Checkpoint | None = None) -> RunResult:
    """Train one spec with TRL and measure it as the packed engine does; slower, and what the engine is compared with.

    What TRL and transformers would do by themselves and the spec does not say is off: gradient checkpointing, bf16
    autocast, clipping at 1, a decaying rate, shuffling, truncation.

    Args:
        spec: what to run.
        model: the base; a copy of it is trained.
        tokenizer: the base's; TRL takes the padding token from it.
        splits: `train`, `validation` and `test` sequences.
        report_to: where TRL also logs every step: `none`, `trackio`, `tensorboard`, `wandb`, …
        output_dir: where TRL may write; nothing is kept without it.
        keep_weights: also return the trained weights, as the packed engine does.
        trl_defaults: keep TRL's gradient checkpointing, which costs time and changes no number (for benchmarks).
        on_step, probes, checkpoint: as in `train_pack`.

    Raises:
        ValueError: an unknown tracker, a row longer than `max_length`, or an adapter on the head (TRL trains none).
        ModuleNotFoundError: the tracker's package is not installed.
    """
    train = splits["train"]
    if train.input_ids.shape[1] > spec.max_length:
        raise ValueError(f"training rows have {train.input_ids.shape[1]} tokens, max_length is {spec.max_length}: "
                         "tokenize with the spec's own max_length (rows are never cut silently)")
    refuse_unknown_tracker(report_to)
    started = time.perf_counter()
    base, trained = model, require_gradients(copy.deepcopy(model) if spec.gpus == 1 else model, spec)
    trained = with_adapter(trained, spec)
    start = start_of(trained, spec.lora)
    if spec.gpus > 1:
        shard(trained, spec.gpus)
        base = base_of(trained, spec)
    held_out = {name: splits[name].head(spec.evaluation_tokens) for name in HELD_OUT}
    final = {name: splits[name].head(spec.final_evaluation_tokens or spec.evaluation_tokens) for name in held_out}
    subject = Subject([spec], trained, tokenizer, lambda split: [mean_loss(trained, split)], held_out)
    saved = None if checkpoint is None else checkpoint.load()
    if saved is None:
        before = {name: mean_loss(trained, split) for name, split in final.items()}
        probed = measure(probes, subject)
    else:
        before, probed = saved.facts["before"], saved.facts["probed"]
        started -= saved.facts["seconds"]
    with tempfile.TemporaryDirectory() as scratch:
        trainer = _trainer(spec, trained, tokenizer, train, held_out, report_to, str(output_dir or scratch),
                           trl_defaults)
        if on_step:
            on_step(0 if saved is None else saved.step, spec.steps, before["validation"])
            trainer.add_callback(AfterStep(lambda done: on_step(done.global_step, spec.steps, trainer.last_loss)))
        if checkpoint is not None:
            trainer.add_callback(writing(checkpoint, trainer, lambda: trainer.facts() | {
                "before": before, "probed": probed, "seconds": time.perf_counter() - started},
                frozen=start is not None))
        with recomputed(trained, spec.recompute):
            trainer.train_from(saved, scratch)
    probed = measure(probes, subject, probed)
    curve = trainer.curve
    ends = ({name: mean_loss(trained, split) for name, split in final.items()} if spec.final_evaluation_tokens else
            {name: curve[f"{name}_loss"][-1] for name in held_out})
    finite = all(math.isfinite(value) for name, column in curve.items() if name.endswith("loss") for value in column)
    metrics = loss_metrics(before, ends, curve["train_loss"][-1]) | training_metrics(
        sum(p.numel() for p in trained.parameters() if p.requires_grad), relative_change(base, trained),
        trainer.first_norm) | probed[0]
    weights = weights_of(trained, start) if keep_weights else {}
    if spec.gpus > 1:
        weights = gathered(weights)
    return RunResult(spec, "ok" if finite else "diverged", metrics, curve, weights, time.perf_counter() - started,
                     int(over_processes([trainer.tokens], spec.gpus)[0]))


def with_adapter(model: Any, spec: SFTSpec | GRPOSpec) -> Any:
    """The model with the spec's adapter, if it has one.

    Raises:
        ValueError: the adapter is on the head.
    """
    if spec.lora is None:
        return model
    adapted = attach(model, spec.lora, spec.seed)
    if isinstance(adapted.get_output_embeddings(), BaseTunerLayer):
        raise ValueError(f"targets={spec.lora.targets!r} adapt the head, and TRL's loss multiplies by the head's "
                         "weight directly, so its adapter would never learn: run this spec with engine='packed'")
    return adapted


def refuse_unknown_tracker(report_to: str) -> None:
    """Raise unless TRL knows the tracker (ValueError) and its package is installed (ModuleNotFoundError)."""
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for callback in get_reporting_integration_callbacks(report_to):
            callback()
    except (RuntimeError, ImportError) as error:
        raise ModuleNotFoundError(f"report_to={report_to!r} needs a package that is not installed ({error}): "
                                  "install it, or run with report_to='none'") from error
    except ValueError as error:
        raise ValueError(f"report_to={report_to!r} is no tracker that TRL knows: {error} Or give 'none'") from error


def _rows(spec: SFTSpec, train: TokenSplit) -> Any:
    """The sequences in the spec's own order, without what follows their last label.

    Nothing predicts a first token, and for some models (GPT-2) transformers would divide by its label all the same.
    """
    from datasets import Dataset

    chosen = order(spec.seed, len(train), spec.steps * spec.batch_size * spec.accumulation)
    ends = ((train.labels != IGNORE) * torch.arange(1, train.labels.shape[1] + 1)).amax(1)
    labels = train.labels.clone()
    labels[:, 0] = IGNORE
    return Dataset.from_dict({
        name: [rows[row, : int(ends[row])].tolist() for row in chosen.tolist()]
        for name, rows in (("input_ids", train.input_ids), ("labels", labels))})


def _trainer(spec: SFTSpec, model: Any, tokenizer: Any, train: TokenSplit, held_out: dict[str, TokenSplit],
             report_to: str, output_dir: str, checkpointing: bool) -> Any:
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    points = evaluation_steps(spec.steps, spec.evaluations)
    device = next(model.parameters()).device

    class Measured(Resumable, SFTTrainer):
        """SFTTrainer that keeps exact losses: its own logs are rounded and averaged."""

        def __init__(self, **options: Any) -> None:
            self.curve: dict[str, list[Any]] = {name: [] for name in CURVE}
            self.recent: list[torch.Tensor] = []
            self.latest: dict[str, float] = {}
            self.tokens, self.since, self.first_norm, self.last_loss = 0, 0, math.nan, math.nan
            super().__init__(**options)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            self.tokens += int((inputs["labels"][:, 1:] != IGNORE).sum())
            loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
            self.last_loss = loss * spec.accumulation
            self.recent.append(loss)  # a share of the step's mean, since TRL divides by the tokens of the whole step
            if self.state.global_step == 0:
                norms = [whole(torch.linalg.vector_norm(p.grad)) for p in model.parameters() if p.grad is not None]
                self.first_norm = float(torch.linalg.vector_norm(torch.stack(norms)))
            return loss

        def close(self, step: int, losses: dict[str, float]) -> None:
            """Close a row of the curve."""
            of_mine = float(torch.stack(self.recent).sum()) / (step - self.since)
            summed, tokens = over_processes([of_mine, self.tokens], spec.gpus)  # each is `gpus` times its own share
            for name, value in {"step": step, "tokens": int(tokens), "train_loss": summed / spec.gpus,
                                **losses}.items():
                self.curve[name].append(value)
            self.since, self.latest = step, losses
            self.recent.clear()

        def facts(self) -> dict[str, Any]:
            return {"curve": self.curve, "recent": [float(loss) for loss in self.recent], "tokens": self.tokens,
                    "first_norm": self.first_norm, "since": self.since}

        def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
            super()._load_optimizer_and_scheduler(folder)
            if self.saved is not None:
                self.__dict__.update({name: self.saved.facts[name] for name in self.facts()})
                self.recent = list(torch.tensor(self.recent, dtype=torch.float32, device=device).unbind())

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            super().log(logs | self.latest, start_time)
            self.latest = {}

    def measure() -> dict[str, float]:
        return {f"{name}_loss": mean_loss(model, split) for name, split in held_out.items()}

    options = SFTConfig(**sft_options(spec, output_dir, device, report_to) | {"gradient_checkpointing": checkpointing})
    optimizer = adamw(spec, model)
    trainer = Measured(model=model, args=options, train_dataset=_rows(spec, train), processing_class=tokenizer,
                       callbacks=[AtPoints(points, measure, lambda *found: trainer.close(*found))],
                       optimizers=(optimizer, None))
    if spec.gpus > 1:
        trainer.accelerator.prepare_model = lambda model, **_: model  # it is cut; copies of it would be made here
    trainer.run = spec, model, optimizer
    trainer.remove_callback(PrinterCallback)
    return trainer


def sft_options(spec: SFTSpec, output_dir: str, device: torch.device, report_to: str = "none") -> dict[str, Any]:
    """The fields of TRL's SFTConfig: every one that changes a number is said, none is left to TRL's default."""
    micro = spec.micro_batch or spec.batch_size
    return common_options(spec, output_dir, device, report_to) | {
        "per_device_train_batch_size": micro // spec.gpus,
        "gradient_accumulation_steps": spec.accumulation * spec.batch_size // micro,
        "train_sampling_strategy": "sequential", "packing": False, "loss_type": "nll",
        "router_aux_loss_coef": 0.0,  # a mixture is trained on its loss alone, as in the other engines
        "max_length": None,  # TRL cuts longer rows silently; ours were measured by `tokenize`
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }


def common_options(spec: SFTSpec | GRPOSpec, output_dir: str, device: torch.device, report_to: str) -> dict[str, Any]:
    """The fields of transformers' TrainingArguments that all runs share."""
    constant = "constant_with_warmup" if spec.warmup_steps else "constant"
    return {
        "output_dir": output_dir, "report_to": report_to, "seed": spec.seed, "max_steps": spec.steps,
        "learning_rate": spec.learning_rate, "warmup_steps": spec.warmup,
        "lr_scheduler_type": constant if spec.schedule == "constant" else spec.schedule,
        "optim": "adamw_torch", "adam_beta1": spec.beta1, "adam_beta2": spec.beta2, "adam_epsilon": spec.epsilon,
        "weight_decay": spec.weight_decay, "max_grad_norm": spec.max_grad_norm or 0.0,
        "gradient_checkpointing": False, "bf16": False, "fp16": False, "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": device.type == "cuda", "save_strategy": "no", "eval_strategy": "no",
        "disable_tqdm": True, "logging_strategy": "no" if report_to == "none" else "steps", "logging_steps": 1,
    }


@torch.no_grad()
def mean_loss(model: nn.Module, split: TokenSplit) -> float:
    """Mean negative log likelihood per label token of a split, in nats, from the model's own logits."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    total = 0.0
    for start in range(0, len(split), EVALUATION_BATCH):
        ids, labels = (t[start : start + EVALUATION_BATCH].to(device) for t in (split.input_ids, split.labels))
        total += float(summed_loss(model, ids, labels))
    model.train(was_training)
    return total / split.label_tokens


def summed_loss(model: nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood of the label tokens of rows (B, T), in nats, from the model's own logits."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=IGNORE, reduction="sum")
