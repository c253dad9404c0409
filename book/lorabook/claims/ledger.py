"""The ledger: each claim of the sources with its rule, and the verdict that the records give on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lorabook.claims import CLAIMS
from lorabook.claims.claim import Claim
from lorabook.claims.decisions import OPEN, OUTCOMES, UNTESTED, Finding, Limit, Outcome, effect_label
from lorabook.claims.evidence import Evidence, Scale
from lorabook.claims.regime import pretraining_facts
from lorakit.analysis.frames import runs, tidy
from lorakit.analysis.statistics import GridEdgeError, Interval

if TYPE_CHECKING:
    from lorakit.records import Store

PROFILES = ("cpu", "gpu", "paper")


class UnknownClaimError(KeyError):
    """No claim, or no verdict, has this id."""

    def __str__(self) -> str:
        return str(self.args[0])


class VerdictChanged(RuntimeError):  # noqa: N818 - named for what happened: the records say something else now
    """The records no longer say what a chapter's prose says."""


@dataclass(frozen=True)
class Verdict:
    """What the records say of a claim at one scale; `others` are those at the other scales that have records.

    Without seeds it is exact: computed or counted, nothing that another seed could change.
    """

    claim: Claim
    outcome: Outcome
    reason: str
    limit: Limit | None = None
    seeds: int = 0
    scale: Scale | None = None
    regime: str | None = None
    others: tuple[Verdict, ...] = ()

    @classmethod
    def of(cls, claim: Claim, found: Finding, seeds: int, scale: Scale | None) -> Verdict:
        """The verdict that a finding gives."""
        return cls(claim, found.outcome, found.reason, found.limit, seeds, scale, found.regime)

    @property
    def effect(self) -> str | None:
        """What the effect is, in words with its unit."""
        return effect_label(self.limit)

    @property
    def interval(self) -> Interval | None:
        """Of the effect, 95 %."""
        return self.limit.span if self.limit else None


def evaluate(claim: Claim, evidence: Iterable[Evidence]) -> Verdict:
    """The verdict at the largest scale whose records are complete (if none is complete, the largest of all).

    Size is the base's number of parameters, then tokens. Only runs of the record size belong into `evidence`. No
    verdict but `inconclusive` comes from too few seeds, from missing runs, or from a best rate at its grid's edge.
    """
    pieces = [piece for piece in evidence if len(piece.curves)]
    if not pieces:
        names = ", ".join(claim.experiments)
        return Verdict(claim, UNTESTED, f"There are no records of the record size yet (experiment: {names}).")
    pieces.sort(key=lambda e: (e.missing > 0, -(e.scale.parameters or 0), -(e.scale.tokens or 0), e.model))
    verdicts = [_judge(claim, piece) for piece in pieces]
    return replace(verdicts[0], others=tuple(verdicts[1:]))


def _judge(claim: Claim, evidence: Evidence) -> Verdict:
    if claim.computed:
        raise ValueError(f"{claim.id} has no rule for training runs: it is computed, from the store")
    try:
        finding = _refusal(evidence, claim.seeds or evidence.seeds_needed) or claim(evidence)
    except GridEdgeError as error:
        finding = Finding(OPEN, f"{error}.")
    return Verdict.of(claim, finding, evidence.seeds, evidence.scale)


def _from_store(claim: Claim, store: Store, **sources: Any) -> Verdict:
    if not claim.computed:
        return evaluate(claim, gather(claim, store, **sources))
    verdicts = [Verdict.of(claim, found, found.seeds, scale) for scale, found in claim(store)]
    if not verdicts:
        return Verdict(claim, UNTESTED, "Nothing has been counted yet.")
    return replace(verdicts[0], others=tuple(verdicts[1:]))


def _refusal(evidence: Evidence, seeds: int) -> Finding | None:
    if evidence.missing:
        return Finding(OPEN, f"Needs every run of its experiments; {evidence.missing} have no record.")
    if evidence.seeds < seeds:
        return Finding(OPEN, f"Needs {seeds} seeds, the records have {evidence.seeds}.")
    return None


def gather(
    claim: Claim,
    store: Store,
    specs_of: Callable[[str, str], Sequence[Any]] | None = None,
    facts: Callable[[str], Mapping[str, Any]] = pretraining_facts,
) -> list[Evidence]:
    """The record-size runs of a claim's experiments, one `Evidence` for each profile and base model.

    Args:
        store: of `lorakit.records`.
        specs_of: (experiment, profile) to its specs of the record size; None asks `lorabook.experiments`.
        facts: model name to what is known of its pre-training: `peak_learning_rate`, `parameters`, and of an embedded
            base alone `hidden_size`.
    """
    specs_of = specs_of or _record_specs
    found = []
    for profile in PROFILES:
        named = [spec for name in claim.experiments for spec in specs_of(name, profile)]
        specs = {spec.id: spec for spec in named}
        records = store.find(list(specs))  # failed runs are not among them: they count as missing
        for model in sorted({spec.model for spec in specs.values()}):
            ids = [key for key, spec in specs.items() if spec.model == model]
            mine = [records[key] for key in ids if key in records]
            known = facts(model)
            found.append(Evidence(profile, model, tidy(mine), runs(mine), len(ids) - len(mine),
                                  known.get("peak_learning_rate"), known.get("parameters"), "hidden_size" in known))
    return found


def _record_specs(experiment: str, profile: str) -> Sequence[Any]:
    from lorabook.experiments import get

    return get(experiment).specs(profile, "record")


def verdict(claim_id: str, store: Store, **sources: Any) -> Verdict:
    """The verdict on one claim from the records; `sources` as in `gather`.

    Raises:
        UnknownClaimError: no claim has this id.
    """
    claim = _by_id(claim_id, {claim.id: claim for claim in CLAIMS})
    return _from_store(claim, store, **sources)


def ledger(store: Store | None = None, claims: Sequence[Claim] = CLAIMS, **sources: Any) -> list[Verdict]:
    """The verdict on every claim, in the ledger's order, from a store or the book's; `sources` as in `gather`.

    Raises:
        MissingRecordsError: no store was given, and the book's records are not here; it says where they are.
    """
    if store is None:
        from lorabook.experiments import results

        store = results.store()
    return [_from_store(claim, store, **sources) for claim in claims]


def expect_verdict(claim_id: str, outcome: str, verdicts: Iterable[Verdict]) -> Verdict:
    """Guard a sentence of the book: return the verdict if it is the one that the sentence supposes.

    Args:
        outcome: one of `holds`, `does not hold`, `inconclusive`, `not tested at this scale`.

    Raises:
        VerdictChanged: the records say something else; the build stops until prose and records agree.
        UnknownClaimError: there is no verdict on this claim.
        ValueError: no such outcome.
    """
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome={outcome!r} does not exist; allowed: {', '.join(OUTCOMES)}")
    found: Verdict = _by_id(claim_id, {verdict.claim.id: verdict for verdict in verdicts})
    if found.outcome != outcome:
        raise VerdictChanged(
            f"{claim_id}: the prose says {outcome!r}, the records say {found.outcome!r} "
            f"({found.scale or 'no records'}, {found.seeds} seeds). {found.reason} "
            "Rewrite the sentence, or find out why the records changed."
        )
    return found


def _by_id(claim_id: str, known: Mapping[str, Any]) -> Any:
    if claim_id not in known:
        raise UnknownClaimError(f"no claim {claim_id!r}; known: {', '.join(known)}")
    return known[claim_id]
