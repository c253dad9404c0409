"""A callback that makes a record of a run of one's own SFTTrainer or GRPOTrainer."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from lorakit.adapters.factors import relative_change
from lorakit.data.datasets import load_dataset
from lorakit.data.rl_tasks import load_task
from lorakit.data.tokens import IGNORE, TokenSplit, tokenize
from lorakit.grpo_spec import GRPOSpec
from lorakit.names import resolve_name
from lorakit.records import Record, Store
from lorakit.reference import reading
from lorakit.reference.at_points import AtPoints
from lorakit.reference.sft import mean_loss
from lorakit.result import CURVE, GRPO_CURVE, evaluation_steps
from lorakit.rl.episodes import HELD_OUT, HeldOut
from lorakit.rl.rollout import stop_tokens
from lorakit.specs import SFTSpec
from lorakit.sweep.worker import provenance

OF_LOGS = {"reward": "reward", "completions/mean_length": "length", "completions/clipped_ratio": "truncated",
           "frac_reward_zero_std": "zero_spread"}  # TRL's names, and those of our curves
OF_EVALUATION = {"eval_loss": "validation_loss", "eval_validation_loss": "validation_loss",
                 "eval_test_loss": "test_loss"}


class RecorderWarning(UserWarning):
    """A run of a trainer was recorded without something that its record should hold."""


class Recorder(AtPoints):
    """Turns a run of your own `SFTTrainer` or `GRPOTrainer` into a `Record` of the same schema.

    The spec is read off the trainer when it starts: arguments, adapter, base and rows. Settings that no spec has a
    field for are listed in the record's provenance, and make its dataset (task) another one, so that runs that differ
    in them have different ids. `lorakit.run` never takes such a record for a result of its own.

    Args:
        store: where the record goes.
        profile, experiment: of the file, as in `lorakit.run`.
        model: what `SFTSpec(model=…)` takes; None reads it off the trainer, by the weights' hash at the last.
        dataset: what `register_dataset` returned: losses are measured on its validation and test set. None: they are
            the trainer's own, if it evaluates (`eval_strategy`): means over batches, of the sets `validation` and
            `test` if it has several.
        task: what `register_task` returned, for RL: accuracies are measured on its validation and test problems.
        reward: the scheme, or what `register_reward` returned, that the trainer's reward functions are.
        evaluations: log-spaced points of the curve, 2 to 20; the trainer also logs at them.
        evaluation_tokens, evaluation_problems: of the validation and the test set, as in the specs.

    Attributes:
        record: the last run's, when its training has ended; None before. A run that is stopped by an error has none.

    Raises:
        ValueError: when the training starts, if the adapter is no LoRA.

    Warns:
        RecorderWarning: a run that went on from a checkpoint, whose first part nobody measured.
    """

    def __init__(self, store: Store | str | Path = "lorakit-runs", *, profile: str | None = None,
                 experiment: str = "trainer", model: str | None = None, dataset: str | None = None,
                 task: str | None = None, reward: str | None = None, evaluations: int = 12,
                 evaluation_tokens: int = 2048, evaluation_problems: int = 128) -> None:
        super().__init__((), dict, self._row)
        self.store = store if isinstance(store, Store) else Store(store)
        self.store.path(profile, experiment)
        self.place, self.model, self.reward, self.evaluations = (profile, experiment), model, reward, evaluations
        self.data = resolve_name("tasks", task) if task else resolve_name("datasets", dataset) if dataset else None
        self.tokens_held_out, self.problems_held_out = evaluation_tokens, evaluation_problems
        self.record: Record | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None,
                       train_dataloader: Any = None, optimizer: Any = None, **_: Any) -> None:
        """Read the spec, and measure the base."""
        self.started, self.trained, self.begun = time.perf_counter(), model, state.global_step
        self.rows: dict[int, dict[str, float]] = {}
        self.logs: list[tuple[int, dict[str, float]]] = []
        self.tokens, self.grad_norm, self.episodes = 0, math.nan, 0.0
        rows, rl = reading.Rows.of(train_dataloader.dataset), hasattr(args, "num_generations")
        adapter, self.unsaid = reading.adapter_of(model, rl)
        fields = {"model": self.model or reading.model_name(model), "evaluations": self.evaluations, **adapter,
                  **reading.common_fields(args, state, model)}
        if rl:
            self._read_rl(args, fields, rows, processing_class)
        else:
            self._read_sft(args, fields, rows, processing_class)
        self.unsaid |= reading.unsaid_settings(self.spec, args, model, optimizer)
        self.points = set(evaluation_steps(self.spec.steps, self.spec.evaluations))
        self.before = self.measure()
        self.counting = model.register_forward_pre_hook(self._count, with_kwargs=True)
        if self.begun:
            warnings.warn(f"the run goes on from step {self.begun}: its record has no curve before it, and its base is "
                          "the checkpoint", RecorderWarning, stacklevel=2)

    def _read_sft(self, args: Any, fields: dict[str, Any], rows: reading.Rows, tokenizer: Any) -> None:
        name, held_out, known = f"own@{rows.pin}", dict[str, TokenSplit](), reading.sft_fields(args, rows.longest)
        if self.data is not None:
            splits = tokenize(load_dataset(self.data), tokenizer, args.max_length or rows.longest)
            ends = ((splits["train"].labels != IGNORE) * torch.arange(1, splits["train"].labels.shape[1] + 1)).amax(1)
            pairs = zip(splits["train"].input_ids.tolist(), ends.tolist(), strict=True)
            name = self._same(rows, {hash(tuple(ids[:end])) for ids, end in pairs},
                              fields["steps"] * known["batch_size"] * known["accumulation"])
            held_out = {split: splits[split].head(self.tokens_held_out) for split in HELD_OUT}
        self.spec: Any = SFTSpec(dataset=name, evaluation_tokens=self.tokens_held_out, **fields, **known)
        self.measure = lambda: {f"{split}_loss": mean_loss(self.trained, part) for split, part in held_out.items()}

    def _read_rl(self, args: Any, fields: dict[str, Any], rows: reading.Rows, tokenizer: Any) -> None:
        task, known = None if self.data is None else load_task(self.data), reading.grpo_fields(args)
        name = f"own@{rows.pin}" if task is None else self._same(
            rows, {p["prompt"] for p in task.splits["train"]}, -(-fields["steps"] // known["iterations"])
            * known["prompts_per_step"])
        if self.reward and set(args.reward_weights or [1.0]) != {1.0}:
            known["reward_weights"] = tuple(args.reward_weights)
        spec = self.spec = GRPOSpec(task=name, reward=self.reward, evaluation_problems=self.problems_held_out, **fields,
                                    **known)
        self.measure = dict
        if task is not None:
            model = self.trained.get_base_model() if isinstance(self.trained, PeftModel) else self.trained
            held_out = HeldOut(spec, task, tokenizer, model.config.max_position_embeddings,
                               stop_tokens(model, tokenizer, task.stop))

            def measure() -> dict[str, float]:
                was_training = model.training
                self.trained.eval()  # recomputing layers keep no cache
                found = held_out.accuracies(model, HELD_OUT)[0]
                self.trained.train(was_training)
                return {f"{split}_accuracy": value for split, value in found.items()}

            self.measure = measure

    def _same(self, rows: reading.Rows, keys: set[Any], visited: int) -> str:
        """The registered name if the run trains on its rows, else one that the trainer's rows pin.

        Args:
            keys: of the registered training rows.
            visited: rows that the run sees; the trainer may have no more of them.
        """
        assert self.data is not None
        same = rows.keys <= keys and len(rows.keys) >= min(len(keys), visited)
        return self.data if same else f"{self.data.partition('@')[0]}@{rows.pin}"

    def _count(self, module: Any, positional: Any, named: dict[str, Any]) -> None:
        if module.training and self.spec.kind == "sft" and named.get("labels") is not None:
            self.tokens += int((named["labels"][:, 1:] != IGNORE).sum())

    def _row(self, step: int, measured: dict[str, float]) -> None:
        self.rows[step] = {"step": step, "tokens": self.tokens, **measured}

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> Any:
        """Measure if this step is a point, and have the trainer log, and evaluate if it does so by itself."""
        super().on_step_end(args, state, control, **named)
        if state.global_step in self.rows:
            control.should_log = True
            control.should_evaluate |= self.data is None and args.eval_strategy != "no"
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Keep what the trainer says of the steps since it last logged."""
        if logs and "loss" in logs:
            self.logs.append((state.global_step, dict(logs)))
            if state.global_step == 1:
                self.grad_norm = logs.get("grad_norm", math.nan)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None,
                    **_: Any) -> None:
        """Keep the trainer's own losses on sets named validation and test, or on its only set."""
        for name, ours in OF_EVALUATION.items():
            if metrics and name in metrics and self.data is None and state.global_step in self.rows:
                self.rows[state.global_step][ours] = metrics[name]

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Make the record, and write it into the store."""
        self.counting.remove()
        rl, rows = isinstance(self.spec, GRPOSpec), [self.rows[step] for step in sorted(self.rows)]
        for before, row in zip([self.begun, *sorted(self.rows)], rows, strict=False):
            self._close(row, before, rl)
        names = dict.fromkeys([*(GRPO_CURVE if rl else CURVE), *(name for row in rows for name in row)])
        curve = {name: [row.get(name) for row in rows] for name in names}
        finite = all(math.isfinite(row[name]) for row in rows for name in row if name.endswith("loss"))
        kind = "accuracy" if rl else "loss"
        metrics = {f"base_{name}": value for name, value in self.before.items()} | {
            name: column[-1] if column else None for name, column in curve.items()
            if name.endswith(kind) or name == "reward"} | {
            "parameters": sum(p.numel() for p in self.trained.parameters() if p.requires_grad),
            "delta_norm": self._delta_norm(), "grad_norm_first": self.grad_norm}
        if rl and not self.reward:
            self.unsaid["reward functions"] = [name for name in (self.logs[-1][1] if self.logs else {})
                                               if name.startswith("rewards/") and name.endswith("/mean")]
        field = "task" if rl else "dataset"
        spec = replace(self.spec, **{field: self._named(getattr(self.spec, field))})
        made = provenance("trl", spec.kind, args.device.type, 1) | {
            "seconds": round(time.perf_counter() - self.started, 3), "tokens": rows[-1]["tokens"] if rows else 0,
            "recorder": {"script": "the user's own", "unsaid": self.unsaid, "unknown": self._unknown(args, rl)}}
        self.record = Record.from_run(spec, "ok" if finite else "diverged", metrics, curve, made)
        if state.is_world_process_zero:
            self.store.append(*self.place, self.record)

    def _close(self, row: dict[str, float], since: int, rl: bool) -> None:
        """Fill a row with the means of what was logged after the point before it."""
        steps = [0, *(step for step, _ in self.logs)]
        windows = [(step - before, logs) for before, (step, logs) in zip(steps, self.logs, strict=False)
                   if since < step <= row["step"] and step > before]

        def mean(name: str) -> float:
            found = [(weight, logs[name]) for weight, logs in windows if name in logs]
            return sum(w * v for w, v in found) / sum(w for w, _ in found) if found else math.nan

        if not rl:
            row["train_loss"] = mean("loss")
            return
        spec: Any = self.spec
        row |= {ours: mean(theirs) for theirs, ours in OF_LOGS.items()}
        parts = {name for _, logs in self.logs for name in logs if re.fullmatch("rewards/.*/mean", name)}
        row |= {f"reward_{name.split('/')[1]}": mean(name) for name in parts if len(parts) > 1}
        row["episodes"] = -(-int(row["step"]) // spec.iterations) * spec.episodes_per_step
        self.tokens += round(row["length"] * (row["episodes"] - self.episodes)) if row["length"] > 0 else 0
        self.episodes, row["tokens"] = row["episodes"], self.tokens

    def _delta_norm(self) -> float | None:
        if not isinstance(self.trained, PeftModel) or any(name.startswith("peft.") for name in self.unsaid):
            return None
        base = nn.ParameterList(p for name, p in self.trained.named_parameters() if ".lora_" not in name)
        return relative_change(base, self.trained)

    def _named(self, name: str) -> str:
        """The dataset's or task's name, pinned anew by what no field of the spec says."""
        if not self.unsaid:
            return name
        short, _, pin = name.partition("@")
        text = json.dumps([pin, self.unsaid], sort_keys=True, default=str)
        return f"{short}@{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def _unknown(self, args: Any, rl: bool) -> list[str]:
        """What a record of lorakit's own engines holds, and a callback does not see."""
        found = {"the order of the rows": True, "the loss on the base's own text": True,
                 "the change of the weights": self.spec.lora is None,
                 "losses on validation and test data": not rl and self.data is None and args.eval_strategy == "no",
                 "losses on validation and test data but as means over batches": not rl and self.data is None,
                 "accuracies": rl and self.data is None,
                 "the reward functions but by their names": rl and not self.reward,
                 "entropies of rewards and advantages, and the divergence from the base": rl,
                 "the tokens of other processes": args.world_size > 1, f"steps up to {self.begun}": self.begun > 0}
        return [what for what, unknown in found.items() if unknown]
