"""Pass rates of the bases on RL tasks, before any training: what a reward can teach needs some right answers at first.

    python book/lorabook/benchmarks/pass_rates.py         # some core-minutes; needs SmolLM2 and reasoning-gym
    python book/lorabook/benchmarks/pass_rates.py tiny    # one base, seconds

Problems of the validation split: answered once greedily, and sampled at temperature 1, graded as the task says.
Records go to `book/results/cpu/pass-rates.jsonl`, one a base and task; what is recorded is not measured again.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from lorabook.benchmarks.measured import Measured
from lorakit.data.skills import SKILLS
from lorakit.records import Record, Store
from lorakit.specs import resolve_name

# base: its tasks, each with the problems asked, the samples of each, and the most tokens of a completion
CASES = {
    "tiny": {skill.name.replace(" ", "-") + wording: (256, 4, 16) for skill in SKILLS for wording in ("", "-reworded")},
    "smollm2-135m-instruct-q4": {
        "sums": (64, 4, 8), "chain-sum": (32, 2, 24), "products": (32, 2, 24), "leg-counting": (32, 2, 24),
        "letter-counting": (32, 2, 24), "spell-backward": (32, 2, 24), "word-sorting": (32, 2, 24),
        "gsm-symbolic": (32, 2, 96)},
}


@dataclass(frozen=True)
class PassRate(Measured):
    """What was asked; the `spec` of its record."""

    kind = "pass-rate"
    model: str
    task: str
    problems: int
    samples: int
    length: int


def measure(one: PassRate, model: Any, tokenizer: Any) -> dict[str, float]:
    """Shares of right answers, greedy and sampled, and of problems whose samples are partly right."""
    import torch

    from lorakit.data.rl_tasks import encode_prompts, load_task
    from lorakit.rewards import load_rewards, total
    from lorakit.rl.episodes import pay
    from lorakit.rl.rollout import sample, stop_tokens, uniforms

    task = load_task(one.task)
    problems = task.splits["validation"][: one.problems]
    prompts = encode_prompts(task, "validation", tokenizer, model.config.max_position_embeddings, one.length)
    group, count = 1 + one.samples, len(problems)
    # a temperature near zero is greedy: so each prompt is met once for both
    temperature = torch.tensor([[1e-6], *[[1.0]] * one.samples]).repeat(count, 1)
    done = sample(model, prompts[:count], group, one.length, stop_tokens(model, tokenizer, task.stop), temperature,
                  uniforms(0, 0, count * group, one.length))
    tokens = done.completions()
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    paid = total(pay(load_rewards(task.grader), task, [p for p in problems for _ in range(group)], texts, tokens))
    right = torch.tensor([value or 0.0 for value in paid]).view(count, group)
    rate = right[:, 1:].mean(1)
    print(one.task, repr(texts[0]), repr(problems[0]["answer"]), flush=True)
    return {"greedy": float(right[:, 0].mean()), "sampled": float(rate.mean()),
            "with_spread": float(((rate > 0) & (rate < 1)).float().mean()),
            "tokens": sum(map(len, tokens)) / len(tokens), "cut": 1 - float(done.ended.float().mean())}


def main(models: list[str]) -> None:
    import torch

    from lorakit.bases.models import load_model
    from lorakit.sweep.worker import device_name, versions

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    provenance = {**versions(), "device": device_name("cpu"), "torch": torch.__version__, "threads": 1}
    store = Store("book/results")
    for name in models:
        model, tokenizer = load_model(name)
        asked = [PassRate(resolve_name("models", name), resolve_name("tasks", task), problems, samples, length)
                 for task, (problems, samples, length) in CASES[name].items()]
        for one in store.missing(asked):
            metrics = measure(one, model, tokenizer)
            print(metrics, flush=True)
            store.append("cpu", "pass-rates", Record.from_run(one, "ok", metrics, {}, provenance))


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
