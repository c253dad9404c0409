"""Conversations to tokens, as in TRL: the tokenizer's chat template renders them, what the assistant says counts."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from lorakit.data.data_files import DatasetError
from lorakit.data.rows import Conversation

MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")  # a template that says itself which part the assistant wrote


def encode_conversation(conversation: Conversation, tokenizer: Any, where: str) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and for each whether the loss counts it.

    A completion counts whole. Of `messages` the assistant's count, each with what ends its turn: where the template
    marks them (`{% generation %}`), or TRL has a marked form of it, that is what is marked, else what a turn adds to
    the conversation before it.

    Raises:
        DatasetError: no chat template, one that refuses the conversation, or one that renders an earlier turn in
            another way once more turns follow.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise DatasetError(f"{where} is a conversation, and the model's tokenizer has no chat template: set "
                           "tokenizer.chat_template and register the model again, or register rows of text")
    tools = conversation.get("tools")
    options = {"tools": json.loads(tools) if isinstance(tools, str) else tools,
               **conversation.get("chat_template_kwargs", {})}

    def render(messages: list[dict[str, Any]], **more: Any) -> Any:
        return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options, **more)

    try:
        if "prompt" in conversation:
            asked, answered = conversation["prompt"], conversation["completion"]
            ids = render(asked + answered)["input_ids"]
            start = common_length(render(asked, add_generation_prompt=True)["input_ids"], ids)
            return ids, [i >= start for i in range(len(ids))]
        messages = conversation["messages"]
        template = _marked(tokenizer, tokenizer.get_chat_template(tools=options["tools"]))
        if template is not None:
            made = render(messages, return_assistant_tokens_mask=True, chat_template=template)
            return made["input_ids"], [bool(counts) for counts in made["assistant_masks"]]
        return _turns(messages, render, where)
    except (TemplateError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(f"{where}: the tokenizer's chat template refuses the conversation: {error}") from error


@lru_cache(maxsize=8)
def _marked(tokenizer: Any, template: str) -> str | None:
    """The template if it has marks, or the form of it that TRL trains with."""
    if MARKED.search(template):
        return template
    from trl.chat_template_utils import get_training_chat_template  # seconds: only who needs it waits

    try:
        found: str = get_training_chat_template(tokenizer)
    except (ValueError, TemplateError):  # none that TRL knows
        return None
    return found


def _turns(messages: list[dict[str, Any]], render: Any, where: str) -> tuple[list[int], list[bool]]:
    ids = render(messages)["input_ids"]
    learn = [False] * len(ids)
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            start = common_length(render(messages[:i], add_generation_prompt=True)["input_ids"], ids)
            until = render(messages[: i + 1])["input_ids"]
            if common_length(until, ids) < len(until):
                raise DatasetError(
                    f"{where}: the chat template renders message {i + 1} in another way once more turns follow, so "
                    "what counts of it is not known: set a template with {% generation %} marks around what the "
                    "assistant says and register the model again, or give 'prompt' and 'completion'")
            learn[start : len(until)] = [True] * (len(until) - start)
    return ids, learn


def common_length(some: list[int], others: list[int]) -> int:
    """Number of leading tokens that two sequences share.

    >>> common_length([1, 2, 3], [1, 2, 4, 5])
    2
    """
    return next((i for i, (a, b) in enumerate(zip(some, others, strict=False)) if a != b), min(len(some), len(others)))
