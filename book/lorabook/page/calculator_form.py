"""The calculator as a part of its page: the form, the answer to a first question, and what each line rests on."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorabook.page.calculator import ALPHA, LIMITS, MODELS, SAMPLES, Advice, Question, advise, browser_data
from lorabook.page.code_tabs import HUB_IDS, OWN_MODEL, rate, tabs
from lorakit.theory.hardware import GPUS
from lorakit.theory.memory import CONTEXT_BYTES

# A line of the answer: what to set, and the words around its numbers; {name} stands for a value of `shown`.
LINES = {
    "rank": "{rank} ({rank-from})",
    "layers": "all linear ones: attention and MLP",
    "alpha": "{alpha}, at every rank",
    "learning rate": "{rate}; also try {below} and {above}",
    "full fine-tuning's rate": "{full-rate}",
    "batch": "{batch} sequences{in-groups}: {micro} at a time, {passes} times{recompute}; {steps} steps in all",
    "memory": "{memory} GB of {card} GB{fits}",
    "time": "{time}{learner}",
    "price": "{price}",
    "full fine-tuning": "{full-memory} GB{full-fits}; {full-time}, {full-micro} at a time{full-recompute}",
}
ANSWER_HEADS = ("decision", "start here", "how sure and why; what it was measured on")
HEADLINE = "Rank {rank}, alpha {alpha}, all linear layers, learning rate {rate}"
DEFAULT_MODELS = ("smollm2-360m", "qwen3-0.6b", "llama-3.2-1b", "qwen3-4b", "llama-3.1-8b", "qwen3-14b", "qwen3-32b")


@dataclass(frozen=True)
class Support:
    """What a line of the answer rests on.

    Args:
        measured: on what, in a few words.
        sure: high, medium or low, and why.
        chapter: the page with the evidence, and its short name.
        because: the reason in a sentence, for the two first answers; {name} stands for a value of `shown`.
    """

    measured: str
    sure: str
    chapter: tuple[str, str]
    because: str = ""


def shown(question: Question, advice: Advice) -> dict[str, str]:
    """The values of the answer as text; `calculator-page.js` writes the same."""
    lora, full = advice.lora, advice.full
    return {
        "rank": f"{advice.rank:,}", "rank-from": rank_from(question, advice), "floor": f"{advice.floor:,}",
        "alpha": str(ALPHA), "rate": rate(advice.rate),
        "below": rate(advice.sweep[0]), "above": rate(advice.sweep[2]), "full-rate": rate(advice.full_rate),
        "batch": f"{advice.batch:,}", "in-groups": in_groups(question, advice),
        "micro": f"{lora.micro_batch:,}",
        "passes": f"{advice.batch // lora.micro_batch:,}", "steps": f"{advice.steps:,}",
        "recompute": ", with recompute" if lora.recompute else "",
        "memory": short(lora.needed / 1e9), "card": short(GPUS[question.gpu].bytes / 1e9),
        "fits": ": fits" if lora.fits else ": does not fit", "time": duration(lora.seconds),
        "price": "no list price" if lora.cost is None else f"{lora.cost:,.2f} dollars",
        "full-memory": short(full.needed / 1e9), "full-fits": ": fits" if full.fits else ": does not fit",
        "learner": ", sampling not counted" if question.task == "rl" else "",
        "full-time": duration(full.seconds), "full-micro": f"{full.micro_batch:,}",
        "full-recompute": ", with recompute" if full.recompute else "",
    }


def rank_from(question: Question, advice: Advice) -> str:
    """Where the rank comes from: the data, or whoever asks."""
    return (f"yours; the floor is {advice.floor:,}" if question.rank
            else f"the floor, {advice.floor:,}, times four to eight")


def in_groups(question: Question, advice: Advice) -> str:
    """By reward, the prompts of a step and the samples of each; else nothing."""
    prompts = advice.batch // SAMPLES
    return f" ({prompts:,} prompt{'s' * (prompts > 1)} × {SAMPLES} samples)" if question.task == "rl" else ""


def short(value: float) -> str:
    """Three digits, or whole from a hundred on.

    >>> short(0.21937), short(53.36), short(1234.5)
    ('0.219', '53.4', '1,234')
    """
    return f"{value:,.0f}" if value >= 100 else f"{float(f'{value:.3g}'):g}"


def duration(seconds: float) -> str:
    """Minutes, or from two hours on hours.

    >>> duration(790), duration(18_998)
    ('13.2 minutes', '5.28 hours')
    """
    return f"{short(seconds / 60)} minutes" if seconds < 7200 else f"{short(seconds / 3600)} hours"


def fragment(support: Mapping[str, Mapping[str, Support]], question: Question | None = None) -> str:
    """The calculator's HTML, answered for one question; without script it stays as it is, and shows a table besides.

    Args:
        support: for each task (`sft`, `rl`) and line what it rests on.
        question: the first one.
    """
    first = question or Question()
    advice = advise(first)
    rests = {task: {line: [one.measured, one.sure, *one.chapter] for line, one in lines.items()}
             for task, lines in support.items()}
    data = page_data() | {"support": rests}
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return (f'{two_answers(support)}<div class="lk-calculator" data-task="{first.task}">'
            f'<span id="sft"></span><span id="rl"></span>{form(first)}'
            f'<p class="lk-headline">{HEADLINE.format(**shown(first, advice))}</p>'
            '<p class="lk-notes" role="status"></p>'
            f"{answer_table(shown(first, advice), support[first.task])}{memory_bar()}"
            f"<noscript>{defaults_table(DEFAULT_MODELS)}</noscript>{tabs(first, advice)}"
            f'<script type="application/json" class="lk-data">{text}</script></div>'
            '<script src="../_static/calculator.js"></script><script src="../_static/calculator-page.js"></script>')


FIRST = {"sft": Question(), "rl": Question(task="rl", amount=10_000 * SAMPLES)}
DATA = {"sft": "{amount:,} label tokens, supervised", "rl": "{prompts:,} prompts by reward (GRPO)"}
BECAUSE = ("rank", "learning rate")
CARD = ("<b>Rank {rank}, alpha {alpha}, rate {rate}</b> All linear layers; {batch} sequences a step{in-groups}; sweep "
        "{below} and {above} too. H100: {memory} GB, {time}, {price}{learner}.")


def two_answers(support: Mapping[str, Mapping[str, Support]]) -> str:
    """What to set for the first model in either task, and why: two cards that open the calculator there."""
    cards = []
    for task, question in FIRST.items():
        data = DATA[task].format(amount=question.amount, prompts=question.amount // SAMPLES)
        values = shown(question, advise(question))
        why = "".join(f"<p><i>Why this {line.split()[-1]}?</i> {sure(support[task][line].sure.partition(': ')[0])} "
                      f"{html.escape(support[task][line].because.format(**values))}</p>" for line in BECAUSE)
        cards.append(f"<section><h3>{HUB_IDS[str(question.model)].partition('/')[2]}, {data}</h3>"
                     f"<p>{CARD.format(**values)}</p>{why}"
                     f'<a href="#{task}">Its memory, price and code</a></section>')
    return f'<div class="lk-two">{"".join(cards)}</div>'


def page_data() -> dict[str, Any]:
    """What the page's scripts read: the calculator's numbers, names on the hub, and the words around the values."""
    data = browser_data()
    for name, hub in HUB_IDS.items():
        data["models"][name]["hub"] = hub
    return data | {"headline": HEADLINE, "lines": LINES, "ownModel": OWN_MODEL}


def form(question: Question) -> str:
    """The fields; a browser without script does not see them."""
    models = options([*MODELS, ""], question.model or "", {"": "another: width, layers, vocabulary"})
    number = ('<label{hide}>{label} <input type="number" name="{name}" min="{low}" max="{high}" step="1" '
              'value="{value}"></label>')

    def field(name: str, label: str, value: object, hide: str = "") -> str:
        low, high, _ = LIMITS[name]
        return number.format(name=name, label=label, low=low, high=high, value=value, hide=hide)

    own = "".join(field(name, label, value, ' class="lk-own" hidden') for name, label, value in
                  (("width", "width", 2048), ("layers", "layers", 24), ("vocabulary", "vocabulary", 100_000)))
    return (
        '<form class="lk-form" hidden><div class="lk-fields">'
        f'<label>Model <select name="model">{models}</select></label>'
        f'<label>Task <select name="task">{options(["sft", "rl"], question.task, TASK_NAMES)}</select></label>'
        f'{field("amount", "<span class=lk-amount>Label tokens</span>", question.amount)}'
        f'<label>GPU <select name="gpu">{options(GPUS, question.gpu)}</select></label>{own}</div>'
        "<details><summary>Length, batch, rank, 4 bits</summary><div class='lk-fields'>"
        f'{field("length", "Tokens of a sequence", question.length)}{field("batch", "Sequences of a step", "")}'
        f'{field("rank", "Rank", "")}'
        '<label><input type="checkbox" name="four_bit"> base in 4 bits (QLoRA)</label></div></details></form>')


TASK_NAMES = {"sft": "supervised (SFT)", "rl": "by reward (GRPO)"}


def options(values: Sequence[str] | Mapping[str, object], chosen: str, names: Mapping[str, str] | None = None) -> str:
    """The options of a menu."""
    named = names or {}
    return "".join(f'<option value="{value}"{" selected" * (value == chosen)}>{named.get(value, value)}</option>'
                   for value in values)


def answer_table(values: Mapping[str, str], support: Mapping[str, Support]) -> str:
    """One row a line: what to set, how sure that is, what it was measured on, and the chapter."""
    rows = []
    for line, words in LINES.items():
        one = support[line]
        value = html.escape(words.format(**values))
        page, chapter = one.chapter
        rows.append(f'<tr data-line="{line}"><th scope="row">{line}</th><td class="lk-value">{value}</td>'
                    f'<td class="lk-why"><span class="lk-sure">{sure(one.sure)}</span> · '
                    f'<i class="lk-measured">{html.escape(one.measured)}</i> · '
                    f'<a class="lk-chapter" href="{page}.html">{chapter}</a></td></tr>')
    heads = "".join(f'<th scope="col">{head}</th>' for head in ANSWER_HEADS)
    return f'<table class="lk-answer"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def sure(words: str) -> str:
    """Its first word as a chip."""
    level, _, why = words.partition(": ")
    return f'<span class="lk-chip lk-{level}">{level}</span> {html.escape(why)}'


def memory_bar() -> str:
    """Where the page draws the memory, LoRA's and full fine-tuning's, against the card's; empty without script."""
    return f'<div class="lk-bars" data-beside="{CONTEXT_BYTES}" aria-hidden="true"></div>'


def defaults_table(models: Sequence[str]) -> str:
    """The answers to the first question for several models, for a browser without script."""
    heads = ("model", "rank", "alpha", "learning rate", "full's rate", "GB", "time on an H100", "RL: rank", "RL: rate")
    rows = []
    for name in models:
        question = Question(model=name)
        found, paid = advise(question), advise(replace(FIRST["rl"], model=name))
        cells = shown(question, found)
        rows.append([name, cells["rank"], cells["alpha"], cells["rate"], cells["full-rate"], cells["memory"],
                     cells["time"], str(paid.rank), rate(paid.rate)])
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    top = "".join(f"<th scope='col'>{head}</th>" for head in heads)
    return (f'<p>The calculator needs JavaScript. These are its answers for {Question().amount:,} label tokens, and '
            'for GRPO on 10,000 prompts with 8 samples each, 80,000 episodes:</p><table class="numbers">'
            f'<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>')
