"""The claims of the sources, in our own words, each with the rule that judges it and the experiments that feed it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorakit.study.evidence import Evidence, Finding, Scale
from lorakit.study.rules import rank

if TYPE_CHECKING:
    from lorakit.records import Store


@dataclass(frozen=True)
class Claim:
    """One claim of a source, and how it is judged.

    Args:
        id: such as `C1`.
        source: citation key in the book's references.
        statement: the claim in our own words, as a clause that can follow "that".
        rule_text: the rule that `evaluate` or `compute` follows, in words, fixed before the records.
        scope: about what the source makes the claim.
        experiments: names in `lorakit.study.experiments`.
        chapter: document that shows the evidence.
        evaluate: the rule in code, for a claim about training: pure, from the runs of one base model to a finding.
        compute: instead, for a claim that no seed can change (exact computation, counted operations): from the store,
            which it need not read, to a finding per scale, the largest first; scale None: about no base in particular.
    """

    id: str
    source: str
    statement: str
    rule_text: str
    scope: str
    experiments: tuple[str, ...]
    chapter: str
    evaluate: Callable[[Evidence], Finding] | None = None
    compute: Callable[[Store], Sequence[tuple[Scale | None, Finding]]] | None = None


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="C1",
        source="schulman2025lora",
        statement="LoRA of high rank ends at the test loss of full fine-tuning on small and medium-sized datasets",
        rule_text=rank.C1_RULE,
        scope="Post-training on instruction and reasoning data, Llama 3 and Qwen3 models of 1B to 30B parameters.",
        experiments=("rank",),
        chapter="02-rank",
        evaluate=rank.equal_to_full,
    ),
    Claim(
        id="C2",
        source="schulman2025lora",
        statement="past its capacity LoRA leaves the common loss curve at a step that grows with its rank, and from "
        "there learns more slowly instead of stopping at a floor",
        rule_text=rank.C2_RULE,
        scope="Datasets that exceed what the adapter can hold.",
        experiments=("rank",),
        chapter="02-rank",
        evaluate=rank.rank_sets_departure,
    ),
    Claim(
        id="C4",
        source="schulman2025lora",
        statement="at one learning rate the first steps are the same for every rank",
        rule_text=rank.C4_RULE,
        scope="LoRA with the scale alpha / rank, alpha the same for all ranks.",
        experiments=("rank",),
        chapter="02-rank",
        evaluate=rank.same_first_steps,
    ),
)
