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
        source: citation key in the book's references.
        chapter: document that shows the evidence.
        scope: about what the source makes the claim.
        rule: for a claim about training, from the `Evidence` of one base model to a finding; for a `computed` one, from
            the store, which it need not read, to (scale, finding) pairs, the largest scale first. The first paragraph
            of its docstring is the claim in our own words, as a clause that can follow "that"; the others say what is
            measured, with constants of its module in braces.
        limits: what decides, in the order of the rule's text.
        experiments: names in `lorabook.experiments`.
        computed: whether nothing of it rests on `Evidence`.
        seeds: that a verdict needs where it is not the profile's number.
        corrected: whether "does not hold" takes Bonferroni's correction.
    """

    id: str
    source: str
    chapter: str
    scope: str
    rule: Callable[[Any], Any]
    limits: Sequence[Limit] = ()
    experiments: tuple[str, ...] = ()
    computed: bool = False
    seeds: int | None = None
    corrected: bool = True

    def __call__(self, given: Any) -> Any:
        """What the rule says of it."""
        return self.rule(given)

    @property
    def statement(self) -> str:
        """The claim, as a clause."""
        return self._paragraphs[0]

    @property
    def rule_text(self) -> str:
        """What is measured, and the decision over it as its limits give it."""
        return " ".join(filter(None, (*self._paragraphs[1:], rule_words(self.limits, self.corrected))))

    @property
    def _paragraphs(self) -> list[str]:
        text = (inspect.getdoc(self.rule) or "").format_map(getattr(self.rule, "__globals__", {}))
        return [" ".join(part.split()) for part in text.split("\n\n")]


def claim(id: str, **fields: Any) -> Callable[[Callable[[Any], Any]], Claim]:  # noqa: A002 - the claim's own word
    """Make a claim of the rule below; the fields are those of `Claim`."""
    return lambda rule: Claim(id=id, rule=rule, **fields)
