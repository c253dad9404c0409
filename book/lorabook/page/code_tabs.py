"""The advised settings as code a reader can copy, for six ways to train; words such as `XrankX` stand for values."""

from __future__ import annotations

import html
from functools import cache
from pathlib import Path

from lorabook.page.calculator import ALPHA, SAMPLES, Advice, Question

FOLDER = Path(__file__).parent / "settings"
# Each tab's label, and its file between `sft-` or `rl-` and `.txt` (they are no modules of this package).
TABS = {"PEFT + TRL": "trl.py", "TRL, command line": "command.sh", "lorakit": "lorakit.py", "Unsloth": "unsloth.py",
        "axolotl": "axolotl.yml", "LLaMA-Factory": "llamafactory.yml"}
LEXERS = {".py": "python", ".sh": "bash", ".yml": "yaml"}
OWN_MODEL = "path/to/your-model"
HUB_IDS = {
    "gemma-2-27b": "google/gemma-2-27b", "gemma-2-2b": "google/gemma-2-2b", "gemma-2-9b": "google/gemma-2-9b",
    "gemma-3-12b": "google/gemma-3-12b-pt", "gemma-3-1b": "google/gemma-3-1b-pt",
    "gemma-3-270m": "google/gemma-3-270m", "gemma-3-27b": "google/gemma-3-27b-pt",
    "gemma-3-4b": "google/gemma-3-4b-pt", "gpt-oss-120b": "openai/gpt-oss-120b", "gpt-oss-20b": "openai/gpt-oss-20b",
    "llama-3-70b": "meta-llama/Meta-Llama-3-70B", "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-3.1-405b": "meta-llama/Llama-3.1-405B", "llama-3.1-70b": "meta-llama/Llama-3.1-70B",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B", "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B", "llama-3.3-70b": "meta-llama/Llama-3.3-70B-Instruct",
    "mistral-7b-v0.1": "mistralai/Mistral-7B-v0.1", "mistral-7b-v0.3": "mistralai/Mistral-7B-v0.3",
    "mistral-nemo-2407": "mistralai/Mistral-Nemo-Base-2407",
    "mistral-small-24b-2501": "mistralai/Mistral-Small-24B-Base-2501",
    "mixtral-8x7b-v0.1": "mistralai/Mixtral-8x7B-v0.1", "olmo-2-0425-1b": "allenai/OLMo-2-0425-1B",
    "olmo-2-1124-13b": "allenai/OLMo-2-1124-13B", "olmo-2-1124-7b": "allenai/OLMo-2-1124-7B",
    "phi-4": "microsoft/phi-4", "phi-4-mini": "microsoft/Phi-4-mini-instruct", "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B",
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B", "qwen2.5-14b": "Qwen/Qwen2.5-14B", "qwen2.5-32b": "Qwen/Qwen2.5-32B",
    "qwen2.5-3b": "Qwen/Qwen2.5-3B", "qwen2.5-72b": "Qwen/Qwen2.5-72B", "qwen2.5-7b": "Qwen/Qwen2.5-7B",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B", "qwen3-1.7b": "Qwen/Qwen3-1.7B", "qwen3-14b": "Qwen/Qwen3-14B",
    "qwen3-235b-a22b": "Qwen/Qwen3-235B-A22B", "qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B", "qwen3-32b": "Qwen/Qwen3-32B",
    "qwen3-4b": "Qwen/Qwen3-4B", "qwen3-8b": "Qwen/Qwen3-8B", "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M", "smollm2-360m": "HuggingFaceTB/SmolLM2-360M",
    "smollm3-3b": "HuggingFaceTB/SmolLM3-3B",
}


def values(question: Question, advice: Advice) -> dict[str, str]:
    """What each placeholder stands for."""
    micro = advice.lora.micro_batch
    yes_no = {"recompute": advice.lora.recompute, "four_bit": question.four_bit, "keep": not advice.lora.recompute}
    return {
        "model": HUB_IDS[question.model] if question.model else OWN_MODEL, "rank": str(advice.rank),
        "alpha": str(ALPHA), "rate": rate(advice.rate), "below": rate(advice.sweep[0]), "above": rate(advice.sweep[2]),
        "length": str(question.length), "steps": str(advice.steps), "batch": str(advice.batch), "micro": str(micro),
        "passes": str(advice.batch // micro), "samples": str(SAMPLES), "prompts": str(advice.batch // SAMPLES),
        "groups": str(max(SAMPLES, micro)), "adapter": "qlora" if question.four_bit else "lora",
        **{name: str(value) for name, value in yes_no.items()},
        **{f"{name}_lower": str(value).lower() for name, value in yes_no.items()},
    }


def rate(value: float) -> str:
    """A learning rate of two digits.

    >>> rate(4.7413e-4), rate(1e-3)
    ('4.7e-4', '1.0e-3')
    """
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}e{int(power)}"


def filled(text: str, found: dict[str, str]) -> str:
    """A template with its placeholders replaced.

    >>> filled("r=XrankX", {"rank": "8"})
    'r=8'
    """
    for name, value in found.items():
        text = text.replace(f"X{name}X", value)
    return text


@cache
def template(task: str, file: str) -> str:
    """The text of one tab's file."""
    return (FOLDER / f"{task}-{file}.txt").read_text(encoding="utf-8")


def highlighted(task: str, file: str) -> str:
    """The same as the theme's coloured code, placeholders whole."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    return highlight(template(task, file), get_lexer_by_name(LEXERS[Path(file).suffix]), HtmlFormatter(nowrap=True))


def tabs(question: Question, advice: Advice) -> str:
    """The tabs, filled for one question; each has its templates beside it, for the page to fill anew."""
    found = values(question, advice)
    parts = []
    for index, (label, file) in enumerate(TABS.items()):
        language = LEXERS[Path(file).suffix]
        for_both = {task: highlighted(task, file) for task in ("sft", "rl")}
        stored = "".join(f'<template data-task="{task}">{text}</template>' for task, text in for_both.items())
        parts.append(
            f'<input type="radio" name="lk-tab" id="lk-tab-{index}" {"checked" if index == 0 else ""}>'
            f'<label class="sd-tab-label" for="lk-tab-{index}">{html.escape(label)}</label>'
            f'<div class="sd-tab-content"><div class="highlight-{language} notranslate"><div class="highlight">'
            f'<pre tabindex="0" class="lk-code">{filled(for_both[question.task], found)}</pre></div></div>'
            f"{stored}</div>")
    return f'<div class="sd-tab-set lk-tabs">{"".join(parts)}</div>'
