"""TRL's sampling, watched: the logits that it draws from and throws away, and stops of several tokens."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lorakit.rl.stops import Stops


@contextmanager
def watched(model: Any, keeper: Any, stop: Stops) -> Iterator[None]:
    """Keep the logits that `model.generate` draws from, in `keeper.sampled`: TRL throws the sampler's away.

    A stop of several tokens ends a row as it does in our sampler.
    """
    from transformers import StoppingCriteria

    class AtText(StoppingCriteria):
        def __init__(self, prompt: int) -> None:
            self.prompt = prompt

        def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return stop.reached(ids[:, self.prompt :].unbind(1))

    generate = model.generate

    def keeping(*arguments: Any, generation_config: Any, **named: Any) -> Any:
        if stop.text:
            named["stopping_criteria"] = [AtText(named["input_ids"].shape[1])]
        config = copy.copy(generation_config)
        config.return_dict_in_generate = config.output_logits = True
        done = generate(*arguments, generation_config=config, **named)
        keeper.sampled = [part if part.dtype == torch.float64 else part.float() for part in done.logits]
        return done.sequences

    model.generate = keeping
    try:
        yield
    finally:
        del model.generate
