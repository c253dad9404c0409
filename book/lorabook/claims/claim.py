"""What a claim is: a rule in code with the source's statement as its docstring, and what the page says of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lorabook.claims.decisions import Limit, rule_words


@dataclass(frozen=True)
class Claim:
    """One claim of a source, and how it is judged; called, it judges.

    Args:
        id: such as `C1`.
        rule: for a claim about training, from the `Evidence` of one base model to a finding; for a `computed` one, from
            the store, which it need not read, to (scale, finding) pairs, the largest scale first.
        statement: the claim in our own words, as a clause that can follow "that".
        rule_text: what is measured, and the decision over it.
        source: citation key in the book's references.
        chapter: document that shows the evidence.
        scope: about what the source makes the claim.
        limits: what decides, in the order of the rule's text.
        experiments: names in `lorabook.experiments`.
        files: of records that are no experiment's.
        needs: which of their runs the rule cannot do without.
        by_dataset: whether a dataset whose runs are whole is judged while those of others are missing.
        computed: whether nothing of it rests on `Evidence`.
        seeds: that a verdict needs where it is not the profile's number.
        written: when the rule was first written, to the minute (UTC).
        changed: the day on which it was changed; empty if never.
        why: the reason of that change, or of a rule that was written after its records, in whole sentences.
        twins: the same claim on other runs, with rules of their own.
        again: whether these are new runs, for a rule that was written or changed after the first ones.
        stopped: how long runs are that stop before any arm has finished learning, such as `75 steps`; else empty.
    """

    id: str
    rule: Callable[[Any], Any]
    statement: str
    rule_text: str
    source: str
    chapter: str
    scope: str
    limits: Sequence[Limit] = ()
    experiments: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    needs: Callable[[Any], bool] = lambda spec: True
    by_dataset: bool = False
    computed: bool = False
    seeds: int | None = None
    written: str = ""
    changed: str = ""
    why: str = ""
    twins: tuple[Claim, ...] = ()
    again: bool = False
    stopped: str = ""

    def __call__(self, given: Any) -> Any:
        """What the rule says of it."""
        return self.rule(given)


def claim(id: str, *, limits: Sequence[Limit] = (), corrected: bool = True,  # noqa: A002 - the claim's own word
          **fields: Any) -> Callable[[Callable[[Any], Any]], Claim]:
    """Make a claim of the rule below; the fields are those of `Claim`.

    The first paragraph of the rule's docstring is the claim; the others say what is measured, with constants of its
    module in braces. How the limits decide is generated and follows them.
    """
    def make(rule: Callable[[Any], Any]) -> Claim:
        text = (inspect.getdoc(rule) or "").format_map(getattr(rule, "__globals__", {}))
        statement, *measured = (" ".join(part.split()) for part in text.split("\n\n"))
        words = " ".join(filter(None, (*measured, rule_words(limits, corrected))))
        return Claim(id=id, rule=rule, statement=statement, rule_text=words, limits=limits, **fields)

    return make
