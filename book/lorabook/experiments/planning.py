"""What an experiment, or a chapter, still needs: runs, minutes, bytes and dollars, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from lorabook import experiments
from lorakit.epochs import stale
from lorakit.packed.packing import work
from lorakit.records import Store
from lorakit.specs import SPECS, SFTSpec, read_spec
from lorakit.sweep.devices import Devices
from lorakit.theory.estimate import USABLE, estimate
from lorakit.theory.fitting import least_bytes
from lorakit.theory.hardware import find_gpu, is_known_gpu


@dataclass(frozen=True)
class Needs:
    """What is still to be trained.

    Args:
        name: of an experiment or a chapter.
        profile, size: which of its definitions.
        defined: runs.
        missing: of these, without a record.
        stale: of these, with a record of another numerical epoch; a refresh trains them again.
        seconds: of the missing and stale runs, one after another: estimated for a GPU that was named, else at the pace
            of the profile's records on the same base; None where neither says anything.
        bytes: that the largest of them needs on that GPU, in the micro-batches that it takes; None without a GPU.
        dollars: None without a GPU, or where no price is known.
        unpriced: of the missing and stale runs, those that seconds and dollars leave out.
        too_large: of these, those that one such GPU cannot hold.
        gpu: the card that was named.
    """

    name: str
    profile: str
    size: str
    defined: int
    missing: int
    stale: int
    seconds: float | None = None
    bytes: int | None = None
    dollars: float | None = None
    unpriced: int = 0
    too_large: int = 0
    gpu: str | None = None

    def __str__(self) -> str:
        words = f"{self.missing} of {self.defined} runs missing"
        if self.stale:
            words += f", {self.stale} of another numerical epoch"
        if not self.missing + self.stale:
            return words
        if self.seconds is not None:
            words += f"; about {self.seconds / 60:,.1f} minutes, one after another"
        if self.dollars is not None:
            words += f", {self.dollars:,.2f} dollars"
        if self.bytes:
            words += f", up to {self.bytes / 1e9:.1f} GB"
        if self.unpriced and self.seconds is not None:
            words += f" ({self.unpriced} runs without a time)"
        if self.gpu:
            words += f"; {self.too_large or 'all'} of them {'do not ' * (self.too_large > 0)}fit on one {self.gpu}"
        return words


def needs(name: str, profile: str, size: str, store: Store, gpu: str | None = None) -> Needs:
    """What an experiment needs.

    Args:
        store: its records.
        gpu: a card that need not be here: prices supervised runs on it, and says what fits.

    Raises:
        UnknownNameError, UnknownGPUError: no such experiment, or card.
    """
    experiment = experiments.get(name)
    specs = {spec.id: spec for spec in experiment.specs(profile, size)}
    found = store.find(specs, experiment.engine_for(specs.values()))
    old = {record.id for record in stale(found.values())}
    todo = [spec for key, spec in specs.items() if key not in found or key in old]
    lacks = Needs(name, profile, size, len(specs), len(specs) - len(found), len(old), gpu=gpu)
    if not todo:
        return lacks
    if gpu:
        return replace(lacks, **_priced(todo, gpu))
    paces = _paces(profile, store)
    known = [pace * work(spec) for spec in todo if (pace := paces.get((spec.kind, spec.model))) is not None]
    return replace(lacks, seconds=sum(known) if known else None, unpriced=len(todo) - len(known))


def together(name: str, parts: Sequence[Needs]) -> Needs:
    """What several experiments of one profile and size need; one of which nothing is known makes the sum a part."""
    def total(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    return replace(parts[0], name=name, seconds=total(part.seconds for part in parts),
                   dollars=total(part.dollars for part in parts), bytes=max(part.bytes or 0 for part in parts) or None,
                   **{field: sum(getattr(part, field) for part in parts)
                      for field in ("defined", "missing", "stale", "unpriced", "too_large")})


def seconds_for(dollars: float) -> float:
    """How long all GPUs here may be used for a sum, at their list prices.

    Raises:
        ValueError: no sum of money, no GPU, or one whose price is not known.
        DeviceError: there is a GPU that torch cannot use.
    """
    if not 0 < dollars < 1e9:
        raise ValueError(f"dollars={dollars!r}; allowed: a number above 0")
    cards = Devices().names
    prices = [find_gpu(name).price_per_hour if is_known_gpu(name) else None for name in cards]
    if not prices or None in prices:
        raise ValueError(f"dollars={dollars:g} buys no known time on {', '.join(cards) or 'a machine without a GPU'}: "
                         "the list price is unknown; give seconds (time_budget, --time-budget)")
    return 3600 * dollars / sum(price for price in prices if price)


def _priced(todo: Sequence[Any], gpu: str) -> dict[str, Any]:
    card = find_gpu(gpu)
    least = [least_bytes(spec) for spec in todo]  # 0 where nothing is known of the base's shape
    supervised = [spec for spec, size in zip(todo, least, strict=True) if isinstance(spec, SFTSpec) and size]
    found = {"bytes": max(least) or None, "unpriced": len(todo) - len(supervised),
             "too_large": sum(size > USABLE * card.bytes for size in least)}
    if not supervised:
        return found
    priced = estimate(None, supervised, card)
    return found | {"seconds": priced.seconds, "dollars": priced.cost,
                    "bytes": max(priced.needed, *least) if priced.fits else max(least)}


def _paces(profile: str, store: Store) -> dict[tuple[str, str], float]:
    """Seconds for each token of `work`, by kind and base: the median over the runs that a profile has records of."""
    paces: dict[tuple[str, str], list[float]] = {}
    for record in (one for place, name in store.files if place == profile for one in store.records(place, name)):
        seconds = record.provenance.get("seconds")
        if record.status == "ok" and record.spec.get("kind") in SPECS and isinstance(seconds, int | float):
            spec = read_spec(record.spec)
            paces.setdefault((spec.kind, spec.model), []).append(seconds / work(spec))
    return {key: median(values) for key, values in paces.items()}
