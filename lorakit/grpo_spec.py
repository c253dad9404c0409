"""What a reinforcement-learning run is: GRPO and the plain policy gradient from one frozen, validated spec."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from lorakit import sources
from lorakit.run_spec import RunSpec
from lorakit.spec_fields import (
    CHECK_DEFAULT,
    Count,
    CountOrNone,
    Flag,
    Listed,
    Name,
    NotNegative,
    Number,
    Positive,
    Whole,
    allowed,
    pinned,
    require,
    spec,
)

OWN_REWARD = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*@[0-9a-f]{16}")
Loss = Literal["dr_grpo", "grpo", "dapo"]
Scale = Literal["none", "group", "batch"]
Correction = Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
LOSSES, SCALES, CORRECTIONS = get_args(Loss), get_args(Scale), get_args(Correction)
GROUP = "a whole number of 2 or more (in a group of one every reward equals the mean: nothing is learnt)"
CLIP_HIGH = "a number above 0 together with clip, or None for the same as clip"
CAP = "a number above 0 with an importance_sampling that is not 'none', or None"
REWARD = (f"{', '.join(sources.LORAKIT.rewards)}, a scheme of another source, what lorakit.register_reward(…) returns, "
          "or None for the task's own")
WEIGHTS = "finite numbers, one for each component of the reward, not all 0, or None"
FORMAT_STEPS = "0, or a whole number of steps with a reward that has a format component and another one"


@spec
class GRPOSpec(RunSpec):
    """One run of policy-gradient RL on verifiable answers, with AdamW, by default at a constant rate without warm-up.

    Each step samples `group_size` completions for each of `prompts_per_step` prompts; the advantage is the reward
    minus the group's mean. The defaults are the objective of Schulman et al. 2025, Σ_t (p_learner / p_sampler) ·
    advantage, neither clipped nor divided by a standard deviation; `GRPOSpec(**GRPO_OBJECTIVE, …)` is GRPO's (arXiv
    2402.03300). Sampling is plain: no top-k, top-p, min-p or repetition penalty. Dropout is off.

    Args:
        learning_rate: the peak rate, > 0.
        lora: the adapter, or None for full fine-tuning.
        model: as in `SFTSpec`.
        task: a name (`copy`, `gsm-symbolic`, `openai/gsm8k`, …), or what `register_task` returns.
        reward: a scheme (`exact`, `numeric`, …), what `register_reward` returns, or None for the task's own grader.
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
            that of Schulman et al. 2025; TRL's default is `sequence_mask` with cap 3.
        importance_cap: largest weight, > 0, or None.
        kl_coefficient: weight of the KL divergence to the base, ≥ 0.
        mask_truncated: leave cut completions out of the loss.
        merge_to_sample: merge the adapter into the base, in the base's dtype, before each sampling and take it out
            afterwards, as TRL does for vLLM; False samples with the adapter itself. A full run has nothing to merge.
        use_vllm: sample with vLLM, in the learner's process or by `run(…, vllm_server=…)`; other arithmetic, so other
            numbers.
        weight_decay, max_grad_norm, beta1, beta2, epsilon, tf32, recompute, evaluations: as in `SFTSpec`.
        seed: as in `SFTSpec`; it also decides what is sampled.
        dtype: as in `SFTSpec`; prompts of unequal length are masked, so attention is not the flash kernel's.
        micro_batch: completions in one forward and backward pass, a divisor of those of a step (the packed engine
            takes whole groups, one at least); None: all of them, or as many as fit.
        evaluation_problems: problems of the validation set and of the test set, each, answered greedily.
        final_evaluation_problems: of the sets that base and final policy answer (the metrics), where those of the curve
            would be too few; None takes the curve's.
        full_targets, schedule, warmup: as in `SFTSpec`.

    >>> spec = GRPOSpec(model="m@1", task="t@1", learning_rate=1e-3, prompts_per_step=4, group_size=8)
    >>> spec.episodes_per_step, GRPOSpec.from_json(spec.to_json()) == spec
    (32, True)
    """

    kind: ClassVar[str] = "grpo"
    gpus: ClassVar[int] = 1
    torch_compile: ClassVar[bool] = False

    task: Annotated[str, pinned("tasks"), CHECK_DEFAULT] = "copy"
    reward: Annotated[Name | None, allowed(REWARD)] = None
    reward_weights: Annotated[tuple[Number, ...] | None, Listed, allowed(WEIGHTS)] = None
    format_steps: Annotated[Whole, allowed(FORMAT_STEPS)] = 0
    steps: Count = 120
    prompts_per_step: Count = 8
    group_size: Annotated[Count, Field(ge=2), allowed(GROUP)] = 8
    max_completion_length: Count = 16
    temperature: Annotated[Positive, allowed("a number above 0 (evaluation is greedy by itself)")] = 1.0
    loss: Loss = "dr_grpo"
    scale_rewards: Scale = "none"
    clip: Annotated[Positive | None, allowed("a number above 0, or None for no clipping")] = None
    clip_high: Annotated[Positive | None, allowed(CLIP_HIGH)] = None
    iterations: Count = 1
    importance_sampling: Correction = "token_truncate"
    importance_cap: Annotated[Positive | None, allowed(CAP)] = None
    kl_coefficient: NotNegative = 0.0
    mask_truncated: Flag = False
    merge_to_sample: Flag = False
    use_vllm: Flag = False
    evaluation_problems: Count = 128
    final_evaluation_problems: CountOrNone = None

    def __post_init__(self) -> None:
        super().__post_init__()
        own = self.reward is not None and OWN_REWARD.fullmatch(self.reward)
        require(self, "reward", self.reward is None or self.reward in sources.rewards() or bool(own), REWARD)
        components, weights = sources.rewards().get(self.reward or "", 1), self.reward_weights
        require(self, "reward_weights", weights is None or (len(weights) == components and any(weights)),
                f"{components} finite {'numbers' if components > 1 else 'number'}, not all 0, or None")
        require(self, "format_steps", self.format_steps == 0 or components > 1, FORMAT_STEPS)
        require(self, "clip_high", self.clip_high is None or self.clip is not None, CLIP_HIGH)
        require(self, "importance_cap", self.importance_cap is None or self.importance_sampling != "none", CAP)
        require(self, "dtype", not self.use_vllm or self.dtype != "float64", "float32 or bfloat16 with vLLM")
        require(self, "lora", self.lora is None or not self.lora.dropout,
                "an adapter with dropout=0 (RL learns from what the same policy sampled)")
        require(self, "kl_coefficient", not (self.lora and self.lora.pissa and self.kl_coefficient),
                "0 with pissa=True, where the base without its adapter is no reference")
        self._check_micro_batch(self.episodes_per_step, f"the step's {self.episodes_per_step} completions")
        if self.lora is None:
            object.__setattr__(self, "merge_to_sample", False)

    @property
    def episodes_per_step(self) -> int:
        """Completions that one optimizer step learns from."""
        return self.prompts_per_step * self.group_size


ARTICLE_OBJECTIVE: dict[str, Any] = {"loss": "dr_grpo", "scale_rewards": "none", "clip": None}
GRPO_OBJECTIVE: dict[str, Any] = {"loss": "grpo", "scale_rewards": "group", "clip": 0.2}
