"""Before a pack trains: are its log-probabilities the model's own? Asked with two rows of unequal length."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lorakit.bases.families import OTHER_ENGINE, UnsupportedModelError
from lorakit.data.tokens import IGNORE
from lorakit.packed.model import PackedModel
from lorakit.rl.rollout import Rollout, log_probs

PROMPT, COMPLETION = 16, 8  # tokens of the longer prompt, and of what follows either prompt
LONGEST = 512  # tokens up to which a prompt is made longer than the model's sliding window
ALLOWED = {torch.float64: 1e-5, torch.float32: 1e-3, torch.bfloat16: 0.1}  # nats a token, on average


class Own:
    """What a model's own forward pass says to each row alone, without padding and cache.

    Args:
        model: a causal LM that nothing has been replaced in yet.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        window = getattr(config, "sliding_window", None) or 0
        most = (getattr(config, "max_position_embeddings", None) or LONGEST) - COMPLETION
        longest = max(2, min(most, max(PROMPT, window + 4 if window <= LONGEST else 0)))
        self.name, self.lengths = model.config.model_type, [longest, max(1, longest // 2)]
        draws, weight = torch.Generator().manual_seed(0), next(model.parameters())
        self.allowed = ALLOWED[weight.dtype]
        if weight.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32":
            self.allowed = ALLOWED[torch.bfloat16] / 8  # three bits more
        self.rows = [torch.randint(config.vocab_size, (n + COMPLETION,), generator=draws).to(weight.device)
                     for n in self.lengths]
        with torch.no_grad():
            self.log_probs = [_chosen(model(input_ids=row[None], use_cache=False).logits[0], row) for row in self.rows]

    @torch.no_grad()
    def require_losses(self, packed: PackedModel) -> None:
        """Raise UnsupportedModelError unless the losses of every configuration, at its start, are the model's own."""
        shape = (len(packed.specs), -1, -1)
        ids = nn.utils.rnn.pad_sequence(self.rows, batch_first=True)
        labels = nn.utils.rnn.pad_sequence(self.rows, batch_first=True, padding_value=IGNORE)
        sums, counts = packed.loss_sums(ids.expand(shape), labels.expand(shape))
        self._require(sums / counts, -torch.cat(self.log_probs).mean().to(sums.dtype))

    @torch.no_grad()
    def require_log_probs(self, packed: PackedModel) -> None:
        """Raise UnsupportedModelError unless the policies' log-probabilities, at their start, are the model's own."""
        count = len(packed.specs)
        tokens = torch.stack([row[-COMPLETION:] for row in self.rows] * count)
        prompts = [row[:-COMPLETION] for row in self.rows] * count
        lengths = torch.tensor(self.lengths * count, device=tokens.device)
        rollout = Rollout(nn.utils.rnn.pad_sequence(prompts, batch_first=True), lengths, 1, tokens, tokens >= 0,
                          tokens.double(), lengths > 0)
        found = log_probs(packed.model, rollout, torch.ones(len(tokens), 1, device=tokens.device))
        own = torch.stack([row[-COMPLETION:] for row in self.log_probs]).to(found.dtype)
        self._require(found.view(count, -1), own.view(-1))

    def _require(self, found: torch.Tensor, own: torch.Tensor) -> None:
        gap, size = float((found - own).abs().mean()), float(own.abs().mean())
        if not gap <= self.allowed * max(1.0, size / 10):
            raise UnsupportedModelError(
                f"the packed engine computes other log-probabilities than {self.name}'s own forward pass, by "
                f"{gap:.2g} nats a token on rows of {' and '.join(str(len(row)) for row in self.rows)} tokens; nothing "
                f"was trained: {OTHER_ENGINE}")


def _chosen(logits: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of a row's tokens after the first."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide[:-1].log_softmax(-1).gather(1, row[1:, None]).squeeze(1)
