"""The reference arm: one RL run with TRL's GRPOTrainer, from the same spec, over the same problems in their order."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from lorakit.adapters.factors import relative_change, start_of, weights_of
from lorakit.adapters.peft_layers import require_gradients
from lorakit.bases.families import UnsupportedModelError, unknown_family
from lorakit.bases.memory_saving import recomputed
from lorakit.bases.model_checks import refuse_changed, weights_hash
from lorakit.checkpoints import Checkpoint
from lorakit.data.rl_tasks import Task
from lorakit.data.tokens import order
from lorakit.grpo_spec import GRPOSpec
from lorakit.probes import Probe, Subject, measure
from lorakit.reference.adamw import adamw
from lorakit.reference.at_points import AfterStep, AtPoints
from lorakit.reference.resuming import Resumable, writing
from lorakit.reference.sft import common_options, mean_loss, refuse_unknown_tracker, with_adapter
from lorakit.reference.vllm import give_weights_by_reload, loading, require_vllm, vllm_sampling_options
from lorakit.reference.vllm_server import Server
from lorakit.reference.watched import watched
from lorakit.result import HELD_OUT, OnStep, RunResult, training_metrics
from lorakit.rl.episodes import Episodes, HeldOut
from lorakit.rl.rollout import Rollout, log_probs, stop_tokens
from lorakit.rl.stops import Stops

COMPLETIONS_AT_ONCE = {"cpu": 1024, "cuda": 64}  # in one forward and backward pass; more are accumulated


def train_grpo(spec: GRPOSpec, model: Any, tokenizer: Any, task: Task, *, report_to: str = "none",
               output_dir: str | Path | None = None, keep_weights: bool = False, on_step: OnStep | None = None,
               probes: Sequence[Probe] = (), checkpoint: Checkpoint | None = None,
               vllm_server: str | None = None) -> RunResult:
    """Train one spec with TRL and measure it as the packed engine does; slower, and what the engine is compared with.

    Args:
        spec: what to run.
        model: the base; a copy of it is trained.
        tokenizer: the base's.
        task: problems with their grader.
        report_to: where TRL also logs every step: `none`, `trackio`, …
        output_dir: where TRL may write; nothing is kept without it.
        keep_weights: also return the trained weights, as the packed engine does.
        on_step, probes, checkpoint: as in `train_grpo_pack`; what vLLM draws after a kill is another draw.
        vllm_server: `HOST:PORT` of a server that samples with `use_vllm`; None: vLLM in this process.

    Raises:
        ModuleNotFoundError: `use_vllm` without vLLM, or a tracker that is not installed.
        ValueError: an adapter on the head (TRL trains none), or vLLM with an adapter that is not to be merged.
        RuntimeError: a second run with vLLM in one process.
        ServerError, ServedModelError: no server, or one that cannot sample for this spec.
        UnsupportedModelError: a model type that lorakit cannot sample from.
        DatasetError, RewardError, FrozenWeightsError: as in the packed engine.
    """
    refuse_unknown_tracker(report_to)
    require_vllm(spec)
    unknown = unknown_family(model.config)
    if unknown is not None:
        raise UnsupportedModelError(f"{unknown}, and RL is measured by its sampler: take a model of these types")
    started = time.perf_counter()
    trained: Any = require_gradients(copy.deepcopy(model), spec)
    stop = stop_tokens(trained, tokenizer, task.stop)
    trained.generation_config.eos_token_id = list(stop)
    if stop.text and spec.mask_truncated:
        raise ValueError(f"mask_truncated leaves out what no single token ended, in TRL, and the task's "
                         f"stop={stop.text!r} is several tokens here: run this spec with engine='packed'")
    held_out = HeldOut(spec, task, tokenizer, model.config.max_position_embeddings, stop)
    server = Server(vllm_server) if vllm_server is not None and spec.use_vllm else None
    if server is not None:
        server.prepare(spec, model, held_out.prompts["train"])
    log = Episodes(spec, task)
    trained = with_adapter(trained, spec)
    inner = trained.get_base_model() if isinstance(trained, PeftModel) else trained
    frozen, start = weights_hash(_frozen(trained)), start_of(trained, spec.lora)
    splits = [name for name in (*HELD_OUT, "shifted") if name in task.splits]
    subject = Subject([spec], trained, tokenizer, lambda split: [mean_loss(trained, split)])
    saved = None if checkpoint is None else checkpoint.load()
    if saved is None:
        before = held_out.accuracies(inner, splits, final=True)[0]
        probed = measure(probes, subject)
    else:
        before, probed = saved.facts["before"], saved.facts["probed"]
        log.restore(saved.facts["log"])
        started -= saved.facts["seconds"]
    with tempfile.TemporaryDirectory() as scratch:
        if (spec.use_vllm and server is None) or (spec.kl_coefficient and spec.lora is None):  # loaded by its path
            model.save_pretrained(f"{scratch}/base")
            tokenizer.save_pretrained(f"{scratch}/base")
            inner.config._name_or_path = inner.name_or_path = f"{scratch}/base"
        trainer = _trainer(spec, trained, model, tokenizer, task, held_out, log, report_to,
                           str(output_dir or scratch), server)
        if server is not None:
            server.give_weights_to(trainer.vllm_generation, f"{scratch}/weights")
        if on_step:
            on_step(0 if saved is None else saved.step, spec.steps, math.nan)
            trainer.add_callback(AfterStep(lambda done: on_step(done.global_step, spec.steps, log.latest)))
        if checkpoint is not None:
            trainer.add_callback(writing(checkpoint, trainer, lambda: {
                "before": before, "probed": probed, "log": log.facts(), "kl": trainer.kl,
                "first_norm": trainer.first_norm, "seconds": time.perf_counter() - started},
                spec.iterations, frozen=spec.merge_to_sample or start is not None))
        if saved is not None:
            trainer.kl, trainer.first_norm = saved.facts["kl"], saved.facts["first_norm"]
        with recomputed(trained, spec.recompute), nullcontext() if server is None else server.watched():
            trainer.train_from(saved, scratch)
    probed = measure(probes, subject, probed)
    if not spec.merge_to_sample:
        refuse_changed(frozen, weights_hash(_frozen(trained)))
    drift = 0.0 if spec.lora is None else None if spec.lora.pissa else _drift(model, trained)
    parameters = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    metrics = training_metrics(parameters, relative_change(model, trained), trainer.first_norm) | probed[0]
    return log.result(
        before, held_out.accuracies(inner, splits, final=True)[0], metrics | {"base_drift": drift},
        weights_of(trained, start) if keep_weights else {}, time.perf_counter() - started)


def grpo_options(spec: GRPOSpec, output_dir: str, device: torch.device, report_to: str = "none",
                 components: int = 1, stop: Stops | None = None, server: str | None = None) -> dict[str, Any]:
    """The fields of TRL's GRPOConfig: every one that changes a number is said, none is left to TRL's default."""
    correction, cap = spec.importance_sampling, spec.importance_cap
    most = min(spec.micro_batch or spec.episodes_per_step, COMPLETIONS_AT_ONCE[device.type])
    rows = next(n for n in range(most, 0, -1) if spec.episodes_per_step % n == 0)
    parts = spec.episodes_per_step // rows
    return common_options(spec, output_dir, device, report_to) | {
        # one optimizer step and one generation hold the same completions
        "per_device_train_batch_size": rows, "gradient_accumulation_steps": parts, "steps_per_generation": parts,
        "num_generations": spec.group_size, "num_iterations": spec.iterations,
        "max_completion_length": spec.max_completion_length, "shuffle_dataset": False,
        "temperature": spec.temperature, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0,
        "generation_kwargs": vllm_sampling_options(stop) if spec.use_vllm and stop else None,
        "cache_implementation": None, "use_transformers_continuous_batching": False,
        "loss_type": spec.loss, "scale_rewards": spec.scale_rewards, "beta": spec.kl_coefficient,
        "epsilon": math.inf if spec.clip is None else spec.clip, "epsilon_high": spec.clip_high, "delta": None,
        "importance_sampling_level": "token", "multi_objective_aggregation": "sum_then_normalize",
        "reward_weights": list(spec.reward_weights or [1.0] * components),
        "mask_truncated_completions": spec.mask_truncated, "top_entropy_quantile": 1.0, "entropy_coef": 0.0,
        "use_adaptive_entropy": False, "off_policy_mask_threshold": None, "use_bias_correction_kl": False,
        "sync_ref_model": False, "router_aux_loss_coef": 0.0, "disable_dropout": True,
        "use_vllm": spec.use_vllm, "vllm_mode": "colocate" if server is None else "server",
        "vllm_server_base_url": server, "vllm_gpu_memory_utilization": 0.3,
        "vllm_tensor_parallel_size": 1, "vllm_enable_sleep_mode": False,
        "vllm_importance_sampling_correction": correction != "none",
        "vllm_importance_sampling_mode": "sequence_mask" if correction == "none" else correction,
        "vllm_importance_sampling_clip_max": math.inf if cap is None else cap,
        "vllm_importance_sampling_clip_min": None,
    }


def _trainer(spec: GRPOSpec, trained: Any, base: Any, tokenizer: Any, task: Task, held_out: HeldOut, log: Episodes,
             report_to: str, output_dir: str, server: Server | None) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import GRPOConfig, GRPOTrainer

    device = next(trained.parameters()).device
    inner = trained.get_base_model() if isinstance(trained, PeftModel) else trained
    batches = -(-spec.steps // spec.iterations)
    problems, prompts = task.splits["train"], held_out.prompts["train"]
    chosen = order(spec.seed, len(problems), batches * spec.prompts_per_step).tolist()
    ids = {problems[i]["prompt"]: prompts[i] for i in chosen}
    temperature = torch.full((spec.episodes_per_step, 1), spec.temperature, device=device)

    class Measured(Resumable, GRPOTrainer):
        """GRPOTrainer that keeps our logs: exact, at the points of the curve, whatever TRL logs."""

        first_norm, kl = math.nan, 0.0
        sampled: list[torch.Tensor] | None = None
        lengths: list[int]
        ended: list[bool]

        def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
            return [ids[prompt] for prompt in prompts], None, {}

        def _generate_single_turn(self, *arguments: Any, **named: Any) -> Any:
            if self.use_vllm:  # TRL merges by itself
                return super()._generate_single_turn(*arguments, **named)
            merging = spec.merge_to_sample and isinstance(trained, PeftModel)
            if merging:
                trained.merge_adapter()
            with watched(trained, self, held_out.stop):
                completions, log_probs_ = super()._generate_single_turn(*arguments, **named)
            if merging:
                trained.unmerge_adapter()
            # TRL knows ends of one token; where a text ended one, it keeps what fills the row
            return [row[: held_out.stop.length(row)] for row in completions], log_probs_

        def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids: Any) -> torch.Tensor:
            step = self.state.global_step + 1
            self.reward_weights = torch.tensor(log.weights(step))
            paid: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
            parts = [[None if math.isnan(v) else v for v in column] for column in paid.T.tolist()]
            self.lengths = [len(row) for row in completion_ids]
            self.ended = [held_out.stop.length(row) == len(row) for row in completion_ids]
            log.add(step, parts, self.lengths, self.ended)
            return paid

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
            output: dict[str, Any] = super()._generate_and_score_completions(inputs)
            rollout = self._rollout(output)
            with torch.no_grad():
                log.add_log_probs(log_probs(inner, rollout, temperature), rollout.log_probs, rollout.mask)
                step = self.state.global_step
                if any(step < point <= step + spec.iterations for point in log.points):
                    reference = log_probs(base, rollout, temperature)
                    self.kl = log.add_base_log_probs(reference, rollout.log_probs, rollout.mask)
            return output

        def _rollout(self, output: dict[str, Any]) -> Rollout:
            """TRL's completions in our form; its prompts are padded on the left, ours on the right."""
            each = slice(None, None, spec.group_size)
            lengths = output["prompt_mask"][each].sum(1)
            rows = [row[-n:] for row, n in zip(output["prompt_ids"][each], lengths.tolist(), strict=True)]
            tokens = output["completion_ids"]
            mask = torch.arange(tokens.shape[1], device=device) < torch.tensor(self.lengths, device=device)[:, None]
            sampled = output.get("sampling_per_token_logps")
            if sampled is None:
                logits = torch.stack(self.sampled or [], 1)[:, : tokens.shape[1]]
                sampled = (logits / spec.temperature).log_softmax(-1).gather(2, tokens.unsqueeze(2)).squeeze(2)
            return Rollout(nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, spec.group_size, tokens, mask,
                           sampled.where(mask, 0.0), torch.tensor(self.ended, device=device))

        def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(*arguments, **named)
            if self.state.global_step == 0:
                norms = [torch.linalg.vector_norm(p.grad) for p in trained.parameters() if p.grad is not None]
                self.first_norm = float(torch.linalg.vector_norm(torch.stack(norms)))
            return loss

    measure = AtPoints(log.points, lambda: held_out.accuracies(inner, HELD_OUT)[0],
                       lambda step, accuracies: log.point(step, accuracies, trainer.kl))
    options = GRPOConfig(**grpo_options(spec, output_dir, device, report_to, len(log.functions), held_out.stop,
                                        None if server is None else server.url))
    rows = Dataset.from_list([problems[i] for i in chosen])
    optimizer = adamw(spec, trained)
    with loading(spec, device) if server is None else server.joined():
        trainer = Measured(model=trained, reward_funcs=list(log.functions), args=options, train_dataset=rows,
                           processing_class=tokenizer, callbacks=[measure], optimizers=(optimizer, None))
    trainer.run = spec, trained, optimizer
    if spec.use_vllm and server is None:
        give_weights_by_reload(trainer.vllm_generation)
    trainer.remove_callback(PrinterCallback)
    return trainer


def _frozen(model: Any) -> dict[str, torch.Tensor]:
    """The weights that an adapter leaves alone; none in full fine-tuning."""
    return {n: p for n, p in model.state_dict().items() if ".lora_" not in n} if isinstance(model, PeftModel) else {}


@torch.no_grad()
def _drift(base: nn.Module, trained: Any) -> float:
    """‖W' − W‖ / ‖W‖ of the adapted layers' bases."""
    layers = [(name, m) for name, m in trained.get_base_model().named_modules() if isinstance(m, BaseTunerLayer)]
    pairs = [(base.get_submodule(name).weight.double(), layer.get_base_layer().weight.double())
             for name, layer in layers]
    moved = sum(float((after - before).square().sum()) for before, after in pairs)
    return math.sqrt(moved / sum(float(before.square().sum()) for before, _ in pairs))
