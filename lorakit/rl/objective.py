"""What policy-gradient RL minimises: advantages from rewards, and the loss of each token, as tensors of one policy.

N completions in groups of G, at most C tokens each. Held against TRL's own arithmetic by a test.
"""

from __future__ import annotations

import math

import torch

from lorakit.grpo_spec import GRPOSpec


def advantages(rewards: torch.Tensor, group_size: int, scale: str) -> torch.Tensor:
    """Rewards minus their group's mean, perhaps divided by a standard deviation; 0 where there is no reward.

    Args:
        rewards: (N,), NaN for a completion without one.
        group_size: G; completions of one problem stand side by side.
        scale: `none`, `group` or `batch`.

    >>> advantages(torch.tensor([1.0, 0.0, 0.0, 1.0]), 4, "none").tolist()
    [0.5, -0.5, -0.5, 0.5]
    """
    groups = rewards.view(-1, group_size)
    centred = groups - groups.nanmean(1, keepdim=True)
    if scale != "none":
        over = groups if scale == "group" else rewards.view(1, -1)
        square = (over - over.nanmean(1, keepdim=True)).square()
        count = (~over.isnan()).sum(1, keepdim=True)
        centred = centred / ((square.nansum(1, keepdim=True) / (count - 1)).sqrt() + 1e-4)
    return centred.flatten().nan_to_num(0.0, 0.0, 0.0)


def importance(spec: GRPOSpec, learner: torch.Tensor, sampler: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The weight p_learner / p_sampler of each token (N, C) or sequence (N, 1) of completions as they were sampled.

    Args:
        learner, sampler: log-probabilities (N, C) of the same weights, as the two of them compute these.
        mask: (N, C), True for a completion's own tokens.
    """
    if spec.importance_sampling == "none":
        return torch.ones_like(learner[:, :1])
    difference = (learner - sampler).where(mask, 0.0)
    if spec.importance_sampling.startswith("sequence"):
        difference = difference.sum(1, keepdim=True)
    weight, cap = difference.exp(), spec.importance_cap or math.inf
    return weight.clamp(max=cap) if spec.importance_sampling.endswith("truncate") else weight.where(weight <= cap, 0.0)


def token_weights(spec: GRPOSpec, mask: torch.Tensor) -> torch.Tensor:
    """By how much each token's loss counts, (N, C): the sum of weighted token losses is the loss of the step.

    Args:
        mask: (N, C), True for the tokens that count, over all completions of the step.
    """
    counted = mask.to(torch.float64)
    if spec.loss == "dr_grpo":
        return counted / (len(mask) * spec.max_completion_length)
    if spec.loss == "grpo":
        return counted / counted.sum(1, keepdim=True).clamp(min=1) / len(mask)
    return counted / counted.sum().clamp(min=1)


def token_losses(spec: GRPOSpec, log_probs: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor,
                 weight: torch.Tensor, reference: torch.Tensor | None = None) -> torch.Tensor:
    """The loss of each token, (N, C): −weight · ratio · advantage, perhaps clipped, plus the KL divergence's share.

    Args:
        log_probs: (N, C) of the policy that is being trained.
        old: (N, C) of the learner when it sampled; the ratio is exp(log_probs − old).
        advantage: (N,).
        weight: of `importance`.
        reference: (N, C) of the base, for the KL divergence.
    """
    advantage = advantage.unsqueeze(1).to(log_probs.dtype)
    ratio = (log_probs - old).exp()
    surrogate = ratio * advantage
    if spec.clip is not None:
        clipped = ratio.clamp(1 - spec.clip, 1 + (spec.clip_high or spec.clip))
        surrogate = torch.minimum(surrogate, clipped * advantage)
    loss = -surrogate * weight
    if reference is not None:
        gap = reference - log_probs
        loss = loss + spec.kl_coefficient * (gap.exp() - gap - 1)
    return loss
