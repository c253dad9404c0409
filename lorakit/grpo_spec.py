"""What a reinforcement-learning run is: GRPO and the article's policy gradient from one frozen, validated spec."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from lorakit.names import resolve_name
from lorakit.specs import PLAIN, LoRASpec, RunSpec, SFTSpec, SpecError, _is_count, _is_positive

# Reward schemes and the number of their components; `lorakit.rewards` holds the functions.
REWARDS = {"exact": 1, "numeric": 1, "marked": 1, "boxed": 1, "math": 1, "format": 1, "reasoning": 1,
           "osmosis": 2, "osmosis-line": 2}
OWN_REWARD = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*@[0-9a-f]{16}")
LOSSES = ("dr_grpo", "grpo", "dapo")
SCALES = ("none", "group", "batch")
CORRECTIONS = ("none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


def _is_finite(value: object) -> bool:
    return value == 0 or (isinstance(value, int | float) and _is_positive(abs(value)))


@dataclass(frozen=True, kw_only=True)
class GRPOSpec(RunSpec):
    """One run of policy-gradient RL on verifiable answers, with AdamW at a constant rate, without warm-up.

    Each step samples `group_size` completions for each of `prompts_per_step` prompts; the advantage is the reward
    minus the group's mean. The defaults are the article's objective, Σ_t (p_learner / p_sampler) · advantage, neither
    clipped nor divided by a standard deviation; `GRPOSpec(**GRPO_OBJECTIVE, …)` is GRPO's (arXiv 2402.03300).
    Sampling is plain: no top-k, top-p, min-p or repetition penalty. Dropout is off.

    Args:
        learning_rate: constant rate, > 0.
        lora: the adapter, or None for full fine-tuning.
        model: as in `SFTSpec`.
        task: a name (`copy`, `gsm-symbolic`, `openai/gsm8k`, …), or what `register_task` returns.
        reward: a scheme of `REWARDS`, what `register_reward` returns, or None for the task's own grader.
        reward_weights: one number for each of the scheme's components; None weighs each 1.
        format_steps: steps at the start that pay only the scheme's first component (the format).
        steps: optimizer steps.
        prompts_per_step: problems in one optimizer step.
        group_size: completions of each problem, 2 or more.
        max_completion_length: tokens; a completion that reaches it without its end is cut (and counted).
        temperature: of sampling, > 0; evaluation is greedy.
        loss: how token losses are averaged: `dr_grpo` divides their sum by completions · max_completion_length,
            `grpo` by each completion's own length, `dapo` by the tokens of the step (TRL's names).
        scale_rewards: `none`, or divide advantages by (standard deviation + 1e-4) over the `group` or the `batch`.
        clip: ε of the clipped ratio, or None for no clipping.
        clip_high: upper ε if it differs (DAPO: 0.28); needs `clip`.
        iterations: optimizer steps on each batch of completions; the ratio leaves 1 only beyond the first.
        importance_sampling: correction of sampler against learner where they differ: a weight by token or sequence,
            cut (`truncate`) or dropped (`mask`) above `importance_cap`, or `none`. Without a cap and by token it is
            the article's; TRL's default is `sequence_mask` with cap 3.
        importance_cap: largest weight, > 0, or None.
        kl_coefficient: weight of the KL divergence to the base, ≥ 0.
        mask_truncated: leave cut completions out of the loss.
        merge_to_sample: merge the adapter into the base, in the base's dtype, before each sampling and take it out
            afterwards, as TRL does for vLLM; False samples with the adapter itself. A full run has nothing to merge.
        use_vllm: sample with vLLM; other arithmetic, so other numbers.
        weight_decay, max_grad_norm, beta1, beta2, epsilon, seed, dtype, evaluations: as in `SFTSpec`; the seed also
            decides what is sampled.
        recompute: as in `SFTSpec`.
        micro_batch: completions in one forward and backward pass, a divisor of those of a step (the packed engine
            takes whole groups, one at least); None: all of them, or as many as fit.
        evaluation_problems: problems of the validation set and of the test set, each, answered greedily.
        final_evaluation_problems: of the sets that base and final policy answer (the metrics), where those of the curve
            would be too few; None takes the curve's.
        full_targets: as in `SFTSpec`.

    >>> spec = GRPOSpec(model="m@1", task="t@1", learning_rate=1e-3, prompts_per_step=4, group_size=8)
    >>> spec.episodes_per_step, GRPOSpec.from_json(spec.to_json()) == spec
    (32, True)
    """

    kind: ClassVar[str] = "grpo"
    named: ClassVar[tuple[str, ...]] = ("model", "task")

    learning_rate: float
    lora: LoRASpec | None = PLAIN
    model: str = "tiny"
    task: str = "copy"
    reward: str | None = None
    reward_weights: tuple[float, ...] | None = None
    format_steps: int = 0
    steps: int = 120
    prompts_per_step: int = 8
    group_size: int = 8
    max_completion_length: int = 16
    temperature: float = 1.0
    loss: str = "dr_grpo"
    scale_rewards: str = "none"
    clip: float | None = None
    clip_high: float | None = None
    iterations: int = 1
    importance_sampling: str = "token_truncate"
    importance_cap: float | None = None
    kl_coefficient: float = 0.0
    mask_truncated: bool = False
    merge_to_sample: bool = False
    use_vllm: bool = False
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    seed: int = 0
    dtype: str = "float32"
    recompute: bool = False
    micro_batch: int | None = None
    evaluations: int = 12
    evaluation_problems: int = 128
    final_evaluation_problems: int | None = None
    full_targets: str = "all"

    def __post_init__(self) -> None:
        self._check_shared()
        object.__setattr__(self, "task", resolve_name("tasks", self.task))
        self._check_reward()
        for field in ("steps", "prompts_per_step", "max_completion_length", "iterations", "evaluation_problems"):
            self._check(_is_count(getattr(self, field)), field, "a whole number of 1 or more")
        self._check(self.final_evaluation_problems is None or _is_count(self.final_evaluation_problems),
                    "final_evaluation_problems", "a whole number of 1 or more, or None")
        self._check(_is_count(self.group_size, 2), "group_size",
                    "a whole number of 2 or more (in a group of one every reward equals the mean: nothing is learnt)")
        self._check(_is_positive(self.temperature), "temperature", "a number above 0 (evaluation is greedy by itself)")
        self._check(self.loss in LOSSES, "loss", ", ".join(LOSSES))
        self._check(self.scale_rewards in SCALES, "scale_rewards", ", ".join(SCALES))
        self._check(self.clip is None or _is_positive(self.clip), "clip", "a number above 0, or None for no clipping")
        self._check(self.clip_high is None or (_is_positive(self.clip_high) and self.clip is not None), "clip_high",
                    "a number above 0 together with clip, or None for the same as clip")
        self._check(self.importance_sampling in CORRECTIONS, "importance_sampling", ", ".join(CORRECTIONS))
        self._check(self.importance_cap is None
                    or (_is_positive(self.importance_cap) and self.importance_sampling != "none"), "importance_cap",
                    "a number above 0 with an importance_sampling that is not 'none', or None")
        self._check(self.kl_coefficient == 0 or _is_positive(self.kl_coefficient), "kl_coefficient", "0 or more")
        for field in ("mask_truncated", "merge_to_sample", "use_vllm"):
            self._check(isinstance(getattr(self, field), bool), field, "True or False")
        self._check(not self.use_vllm or self.dtype != "float64", "dtype", "float32 or bfloat16 with vLLM")
        self._check_micro_batch(self.episodes_per_step, f"the step's {self.episodes_per_step} completions")
        if self.lora is None:
            object.__setattr__(self, "merge_to_sample", False)
        for field in ("temperature", "clip", "clip_high", "importance_cap", "kl_coefficient"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, float(getattr(self, field)))

    def _check_reward(self) -> None:
        own = isinstance(self.reward, str) and OWN_REWARD.fullmatch(self.reward) is not None
        self._check(self.reward is None or own or self.reward in REWARDS, "reward",
                    f"{', '.join(REWARDS)}, what lorakit.rewards.register_reward(…) returns, or None for the "
                    "task's own")
        components = REWARDS.get(self.reward or "", 1)
        if isinstance(self.reward_weights, list):
            object.__setattr__(self, "reward_weights", tuple(self.reward_weights))
        weights = self.reward_weights
        self._check(weights is None or (isinstance(weights, tuple) and len(weights) == components and any(weights)
                    and all(_is_finite(w) for w in weights)), "reward_weights",
                    f"{components} finite {'numbers' if components > 1 else 'number'}, not all 0, or None")
        if weights is not None:
            object.__setattr__(self, "reward_weights", tuple(float(w) for w in weights))
        self._check(_is_count(self.format_steps, 0) and (self.format_steps == 0 or components > 1), "format_steps",
                    "0, or a whole number of steps with a reward that has a format component (osmosis, osmosis-line)")

    @property
    def episodes_per_step(self) -> int:
        """Completions that one optimizer step learns from."""
        return self.prompts_per_step * self.group_size


ARTICLE_OBJECTIVE: dict[str, Any] = {"loss": "dr_grpo", "scale_rewards": "none", "clip": None}
GRPO_OBJECTIVE: dict[str, Any] = {"loss": "grpo", "scale_rewards": "group", "clip": 0.2}
SPECS: dict[str, type[SFTSpec] | type[GRPOSpec]] = {"sft": SFTSpec, "grpo": GRPOSpec}


def read_spec(data: Any) -> SFTSpec | GRPOSpec:
    """The spec of whichever kind that `to_json` wrote.

    Raises:
        SpecError: no spec, or a kind that this version does not know.

    >>> read_spec({"kind": "grpo", "model": "m@1", "task": "t@1", "learning_rate": 1e-3, "lora": None}).method
    'full'
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in SPECS:
        raise SpecError(f"not a spec: kind={kind!r}; allowed: {', '.join(SPECS)}")
    return SPECS[kind].from_json(data)
