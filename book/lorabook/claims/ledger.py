"""The ledger: each claim of the sources with its rule, and the verdict that the records give on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lorabook import experiments
from lorabook.claims import CLAIMS
from lorabook.claims.claim import Claim
from lorabook.claims.decisions import HOLDS, OPEN, OUTCOMES, UNTESTED, Finding, Limit, Outcome, Shown
from lorabook.claims.evidence import Evidence, Scale
from lorabook.claims.regime import pretraining_facts
from lorabook.experiments import PROFILES
from lorakit.analysis.frames import runs, tidy
from lorakit.analysis.statistics import GridEdgeError
from lorakit.grpo_spec import GRPOSpec
from lorakit.names import UnknownNameError

if TYPE_CHECKING:
    from lorakit.records import Store
    from lorakit.specs import SFTSpec


class UnknownClaimError(UnknownNameError):
    """No claim, or no verdict, has this id."""


class VerdictChanged(RuntimeError):  # noqa: N818 - named for what happened: the records say something else now
    """The records no longer say what a chapter's prose says."""


@dataclass(frozen=True)
class Verdict(Shown):
    """What the records say of a claim at one scale; `others` are those at the other scales that have records.

    Without seeds it is exact: computed or counted, nothing that another seed could change. `first_record` is the date
    of the claim's first record.
    """

    claim: Claim
    outcome: Outcome
    reason: str
    limit: Limit | None = None
    seeds: int = 0
    scale: Scale | None = None
    regime: str | None = None
    others: tuple[Verdict, ...] = ()
    first_record: str | None = None
    limits: tuple[Limit, ...] = ()

    @classmethod
    def of(cls, claim: Claim, found: Finding, seeds: int, scale: Scale | None) -> Verdict:
        """The verdict that a finding gives."""
        return cls(claim, found.outcome, found.reason, found.limit, seeds, scale, found.regime, limits=found.limits)

    @property
    def after_records(self) -> bool:
        """Whether the rule was written or changed after the first record that it judges."""
        return bool(self.first_record) and (self.claim.changed or self.claim.written) > str(self.first_record)


def evaluate(claim: Claim, evidence: Iterable[Evidence]) -> Verdict:
    """The verdict at the largest scale whose records are complete (if none is complete, the largest of all).

    Size is the base's number of parameters, then tokens. Only runs of the record size belong into `evidence`. No
    verdict but `inconclusive` comes from too few seeds, from missing runs, or from a best rate at its grid's edge; of a
    claim that is judged `by_dataset`, missing runs leave out their dataset alone.
    """
    verdicts = _by_size([(claim, piece) for piece in evidence])
    if not verdicts:
        names = ", ".join(claim.experiments)
        return Verdict(claim, UNTESTED, f"There are no records of the record size yet (experiment: {names}).")
    return replace(verdicts[0], others=tuple(verdicts[1:]))


def _by_size(pieces: Iterable[tuple[Claim, Evidence]]) -> list[Verdict]:
    """The verdicts: complete and tested ones first, then by size; of one size those that hold come last.

    So a claim that holds on one of several bases of one size does not head the ledger as holding. A base's old runs,
    seen before their rule was changed, come after its new ones, whatever these say.
    """
    found = [(piece, _judge(claim, piece)) for claim, piece in pieces if len(piece.curves)]
    renewed = {(piece.profile, piece.model) for piece, one in found
               if one.claim.again and not piece.missing and one.outcome != UNTESTED}
    found.sort(key=lambda pair: (
        pair[0].missing > 0, pair[1].outcome == UNTESTED, -(pair[0].scale.parameters or 0),
        not pair[1].claim.again and (pair[0].profile, pair[0].model) in renewed, pair[1].outcome == HOLDS,
        not pair[1].claim.again, -(pair[0].scale.tokens or 0), pair[0].model))
    return [verdict for _, verdict in found]


def _judge(claim: Claim, evidence: Evidence) -> Verdict:
    if claim.computed:
        raise ValueError(f"{claim.id} has no rule for training runs: it is computed, from the store")
    try:
        finding = _refusal(evidence, claim.seeds or evidence.seeds_needed) or claim(evidence)
    except GridEdgeError as error:
        finding = Finding(OPEN, f"{error}.")
    return Verdict.of(claim, finding, finding.seeds or evidence.seeds, evidence.scale)


def _from_store(claim: Claim, store: Store, **sources: Any) -> Verdict:
    if claim.computed:
        verdicts = [Verdict.of(claim, found, found.seeds, scale) for scale, found in claim(store)]
    else:
        whole = [(one, piece) for one in (claim, *claim.twins) for piece in gather(one, store, **sources)]
        verdicts = _by_size(whole)
    if not verdicts:
        return evaluate(claim, []) if not claim.computed else Verdict(claim, UNTESTED, "Nothing has been counted yet.")
    dated = [replace(verdict, first_record=first_record(verdict.claim, store)) for verdict in verdicts]
    return replace(dated[0], others=tuple(dated[1:]))


def first_record(claim: Claim, store: Store) -> str | None:
    """When the first record of a claim's experiments was made, to the minute (UTC); None without records."""
    dates = [str(record.provenance["date"])[:16] for profile in PROFILES for name in (*claim.experiments, *claim.files)
             for record in store.records(profile, name) if record.provenance.get("date")]
    return min(dates, default=None)


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
    specs_of = specs_of or (lambda name, profile: experiments.get(name).specs(profile, "record"))
    found = []
    for profile in PROFILES:
        named = [spec for name in claim.experiments for spec in specs_of(name, profile)]
        specs = {spec.id: spec for spec in named}
        records = store.find(list(specs))  # failed runs are not among them: they count as missing
        for model in sorted({spec.model for spec in specs.values()}):
            ids = [key for key, spec in specs.items() if spec.model == model]
            mine = [records[key] for key in ids if key in records]
            known = facts(model)
            missing = Counter(_dataset(specs[key]) for key in ids if key not in records and claim.needs(specs[key]))
            parts = claim.by_dataset and bool({_dataset(specs[key]) for key in ids} - missing.keys())
            found.append(Evidence(profile, model, tidy(mine), runs(mine), 0 if parts else missing.total(),
                                  known.get("peak_learning_rate"), known.get("parameters"), "hidden_size" in known,
                                  missing if parts else {}))
    return found


def _dataset(spec: SFTSpec | GRPOSpec) -> str:
    """As the column of frames says it."""
    return spec.task if isinstance(spec, GRPOSpec) else spec.dataset


def verdict(claim_id: str, store: Store, claims: Sequence[Claim] = CLAIMS, **sources: Any) -> Verdict:
    """The verdict on one claim from the records; `sources` as in `gather`.

    Raises:
        UnknownClaimError: no claim has this id.
    """
    claim = _by_id(claim_id, {claim.id: claim for claim in claims})
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
        outcome: one of `OUTCOMES` in `lorabook.claims.decisions`.

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


def on_first_runs(found: Verdict, model: str) -> Verdict:
    """Of a verdict and its others, the one by the claim's own rule on its first runs of a base.

    Raises:
        UnknownClaimError: there is none.
    """
    every = (found, *found.others)
    own = [one for one in every if one.claim.twins] or every
    base = [one for one in own if one.scale and one.scale.model.partition("@")[0] == model]
    if not base:
        raise UnknownClaimError(f"{found.claim.id} has no verdict on {model!r} by its first rule")
    return base[0]


def _by_id(claim_id: str, known: Mapping[str, Any]) -> Any:
    if claim_id not in known:
        raise UnknownClaimError(f"no claim {claim_id!r}; known: {', '.join(known)}")
    return known[claim_id]
