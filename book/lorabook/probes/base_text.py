"""What training forgets: the loss on held-out text of the kind that the embedded bases were pre-trained on."""

from __future__ import annotations

from lorabook.data.datasets import base_text
from lorakit.data.datasets import TextData
from lorakit.data.tokens import tokenize
from lorakit.probes import Subject
from lorakit.result import Metrics

TOKENS = 2048
RL_LENGTH = 64  # tokens of a window; a supervised run takes its own max_length


def base_text_loss(subject: Subject) -> list[Metrics]:
    """`base_text_loss_before` and `base_text_loss_after`, nats per token."""
    text = TextData("base text", {"test": [[(base_text(), True)]]}, stream=True)
    split = tokenize(text, subject.tokenizer, getattr(subject.specs[0], "max_length", RL_LENGTH))["test"].head(TOKENS)
    when = "after" if subject.trained else "before"
    return [{f"base_text_loss_{when}": loss} for loss in subject.losses(split)]
