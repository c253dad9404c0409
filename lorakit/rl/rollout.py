"""Sampling with a KV cache, and the log-probabilities of what was sampled: of one policy, or of K that share a pack.

R prompts with P tokens, G completions each with C tokens, N = R · G. In a pack the rows are ordered by configuration.
A prompt is computed once for all of its G completions, in sampling and in training: they share its keys and values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lorakit.bases.families import LOGITS_AT_ONCE, UnsupportedModelError, head_logits
from lorakit.rl.stops import Stops


@dataclass(frozen=True)
class Rollout:
    """Prompts and what was sampled after them.

    Args:
        prompts: (R, P) token ids, padded on the right.
        lengths: (R,) tokens of each prompt.
        group: G.
        tokens: (N, C) token ids.
        mask: (N, C), True up to and including the end of a completion.
        log_probs: (N, C) of the sampler, at its temperature; 0 beyond the end.
        ended: (N,), False for a completion that was cut at its largest length.
    """

    prompts: torch.Tensor
    lengths: torch.Tensor
    group: int
    tokens: torch.Tensor
    mask: torch.Tensor
    log_probs: torch.Tensor
    ended: torch.Tensor

    def part(self, count: int, problems: slice) -> Rollout:
        """Some problems of each of `count` configurations, with their completions."""
        def cut(rows: torch.Tensor, each: int) -> torch.Tensor:
            chosen = slice(problems.start * each, problems.stop * each)
            return rows.view(count, -1, *rows.shape[1:])[:, chosen].flatten(0, 1)

        return Rollout(cut(self.prompts, 1), cut(self.lengths, 1), self.group,
                       *(cut(rows, self.group) for rows in (self.tokens, self.mask, self.log_probs, self.ended)))

    def completions(self) -> list[list[int]]:
        """The token ids of each completion, its end included."""
        return [row[:n] for row, n in zip(self.tokens.tolist(), self.mask.sum(1).tolist(), strict=True)]


def stop_tokens(model: Any, tokenizer: Any, stop: str | None) -> Stops:
    """What ends a completion: every end of text that model or tokenizer names, and the task's `stop`.

    Raises:
        ValueError: a `stop` that this tokenizer never writes, or one of several tokens where neither model nor
            tokenizer names a token that ends a text; nothing that ends a completion.
    """
    named = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    if stop is not None:
        ids = tokenizer(stop, add_special_tokens=False)["input_ids"]
        if stop not in tokenizer.decode(ids, clean_up_tokenization_spaces=False):
            raise ValueError(f"stop={stop!r} is read by this tokenizer as {ids}, which it writes as "
                             f"{tokenizer.decode(ids)!r}, so no completion would ever hold it: give the task another "
                             "stop, or None for the model's own end of text")
        blank = tokenizer.convert_ids_to_tokens(ids)[0][0] in "▁Ġ" and stop[0] != " "  # put before a text that begins
        if len(ids) != 1 or blank:
            if not ends:
                raise ValueError(f"stop={stop!r} is no single token for this tokenizer, and what comes behind it is "
                                 "filled with a token that ends a text: set the tokenizer's eos_token")
            return Stops(sorted(ends), stop, tokenizer)
        ends.add(ids[0])
    if not ends:
        raise ValueError("nothing ends a completion: tokenizer and generation_config name no end of text (eos_token), "
                         "and the task no stop; set one and register it again")
    return Stops(sorted(ends))


def uniforms(seed: int, batch: int, count: int, length: int) -> torch.Tensor:
    """(count, length) numbers in [0, 1) that decide what a run with this seed samples in its `batch`-th batch."""
    digest = hashlib.sha256(f"rollout {seed} {batch}".encode()).digest()
    return torch.rand(count, length, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))


@torch.no_grad()
def sample(model: Any, prompts: Sequence[Sequence[int]], group: int, length: int, stop: Sequence[int],
           temperature: torch.Tensor | None = None, draws: torch.Tensor | None = None) -> Rollout:
    """Complete every prompt `group` times; without top-k, top-p or penalties.

    Args:
        model: a causal LM of one of the `families.FAMILIES`, packed or not.
        prompts: R lists of token ids.
        length: largest number of tokens of a completion.
        stop: tokens that end one, or what `stop_tokens` returned.
        temperature: (N, 1), or None for the likeliest token at every place.
        draws: (N, length) numbers in [0, 1), one decides each token; needed with a temperature.
    """
    device = next(model.parameters()).device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    ids = torch.tensor([[*p, *[stop[0]] * (int(lengths.max()) - len(p))] for p in prompts], device=device)
    hidden, cache, seen, place = _prefill(model, ids, lengths, group)
    stop = stop if isinstance(stop, Stops) else Stops(stop)
    alive = torch.ones(len(hidden), dtype=torch.bool, device=device)
    tokens, masks, chosen = [], [], []
    for step in range(length):
        logits = _scaled(head_logits(model, hidden.unsqueeze(1)).squeeze(1), temperature)
        log_probs = logits.log_softmax(-1)
        if temperature is None or draws is None:
            token = logits.argmax(-1)
        else:
            reached = log_probs.exp().cumsum(-1)
            drawn = draws[:, step : step + 1].to(reached) * reached[:, -1:]
            token = torch.searchsorted(reached, drawn, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
        tokens.append(token.where(alive, stop[0]))
        masks.append(alive)
        chosen.append(log_probs.gather(1, token.unsqueeze(1)).squeeze(1).where(alive, 0.0))
        alive = alive & ~stop.reached(tokens)
        if step + 1 == length or not bool(alive.any()):
            break
        seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
        hidden = model.base_model(input_ids=tokens[-1].unsqueeze(1), attention_mask=seen, use_cache=True,
                                  position_ids=place.unsqueeze(1) + step, past_key_values=cache).last_hidden_state[:, 0]
    return Rollout(ids, lengths, group, torch.stack(tokens, 1), torch.stack(masks, 1), torch.stack(chosen, 1), ~alive)


def log_probs(model: Any, rollout: Rollout, temperature: torch.Tensor, recompute: bool = False) -> torch.Tensor:
    """Log-probabilities (N, C) of the sampled tokens under the model, with gradients; arbitrary beyond the end.

    Layers that are computed twice (`recompute`) cannot share a cache, so each completion computes its prompt by itself.
    """
    if recompute:
        return _of_tokens(model, _without_cache(model, rollout), rollout.tokens, temperature)
    hidden, cache, seen, place = _prefill(model, rollout.prompts, rollout.lengths, rollout.group)
    hidden, count = hidden.unsqueeze(1), rollout.tokens.shape[1]
    if count > 1:
        seen = torch.cat([seen, seen.new_ones(len(seen), count - 1)], 1)
        places = place.unsqueeze(1) + torch.arange(count - 1, device=place.device)
        after = model.base_model(input_ids=rollout.tokens[:, :-1], attention_mask=seen, position_ids=places,
                                 use_cache=True, past_key_values=cache).last_hidden_state
        hidden = torch.cat([hidden, after], 1)
    return _of_tokens(model, hidden, rollout.tokens, temperature)


def _without_cache(model: Any, rollout: Rollout) -> torch.Tensor:
    """The states (N, C, d) before each token of a completion. Padding stands on the left, out of any window's way."""
    width, count = rollout.prompts.shape[1], rollout.tokens.shape[1]
    places = torch.arange(width, device=rollout.prompts.device) - (width - rollout.lengths).unsqueeze(1)
    prompts, seen = (part.repeat_interleave(rollout.group, 0)
                     for part in (rollout.prompts.gather(1, places % width), (places >= 0).long()))
    ids = torch.cat([prompts, rollout.tokens[:, :-1]], 1)
    seen = torch.cat([seen, seen.new_ones(len(seen), count - 1)], 1)
    states = model.base_model(input_ids=ids, attention_mask=seen, position_ids=(seen.cumsum(1) - 1).clamp(min=0),
                              use_cache=False).last_hidden_state
    return states[:, width - 1 :]


def _of_tokens(model: Any, hidden: torch.Tensor, tokens: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    count = tokens.shape[1]
    width = max(1, LOGITS_AT_ONCE // (len(hidden) * model.config.vocab_size))
    parts = []
    for start in range(0, count, width):
        part = (hidden[:, start : start + width], tokens[:, start : start + width])
        # logits that do not fit at once are remade in the backward pass
        remade = width < count and torch.is_grad_enabled()
        parts.append(checkpoint(_chosen, model, *part, temperature, use_reentrant=False) if remade
                     else _chosen(model, *part, temperature))
    return torch.cat(parts, 1)


def _prefill(model: Any, ids: torch.Tensor, lengths: torch.Tensor,
             group: int) -> tuple[torch.Tensor, DynamicCache, torch.Tensor, torch.Tensor]:
    """Compute each prompt once: the last state (N, d), the cache of N rows, the mask (N, P), the next place (N,)."""
    cache, place = DynamicCache(config=model.config), torch.arange(ids.shape[1], device=ids.device)
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        # padding stands on the right, behind the prompt: no row is without a token to attend to
        seen = (place < lengths.unsqueeze(1)).long()
        states = model.base_model(input_ids=ids, attention_mask=seen, past_key_values=cache,
                                  use_cache=True).last_hidden_state
        last = states[torch.arange(len(ids), device=ids.device), lengths - 1]
    else:
        # a sliding window counts the places of the cache, and a convolution keeps its last ones: padding between a
        # prompt and its completion would fill them, so it stands on the left
        places = place - (len(place) - lengths).unsqueeze(1)
        seen = (places >= 0).long()
        last = model.base_model(input_ids=ids.gather(1, places % len(place)), attention_mask=seen,
                                position_ids=places.clamp(min=0), past_key_values=cache,
                                use_cache=True).last_hidden_state[:, -1]
    if not all(hasattr(layer, "batch_repeat_interleave") for layer in cache.layers):
        raise UnsupportedModelError(f"completions cannot share what a {model.config.model_type} model keeps of their "
                                    "prompt (the states of its convolutions), so RL cannot sample from it: take a "
                                    "model with attention alone, or fine-tune this one with SFTSpec")
    cache.batch_repeat_interleave(group)
    last, seen, lengths = (part.repeat_interleave(group, 0) for part in (last, seen, lengths))
    return last, cache, seen, lengths


def _scaled(logits: torch.Tensor, temperature: torch.Tensor | None) -> torch.Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide if temperature is None else wide / temperature


def _chosen(model: Any, hidden: torch.Tensor, tokens: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    logits = _scaled(head_logits(model, hidden), temperature.unsqueeze(2))
    return logits.log_softmax(-1).gather(2, tokens.unsqueeze(2)).squeeze(2)
