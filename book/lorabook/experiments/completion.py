"""Train what a chapter's experiments lack, and count what was trained, what is missing and what is not defined."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lorabook import experiments
from lorabook.experiments.results import place_of
from lorabook.probes import functions
from lorakit.epochs import stale
from lorakit.records import Store
from lorakit.sweep.devices import DeviceError


@dataclass(frozen=True)
class Completion:
    """What became of the runs of a chapter's experiments.

    Args:
        profile, size: what was asked for.
        defined: runs that they define for it.
        trained: of these, now.
        missing: of these, still without a record.
        undefined: names of the experiments that define none.
        failures: why runs failed, an entry an experiment.
    """

    profile: str
    size: str
    defined: int
    trained: int
    missing: int
    undefined: tuple[str, ...]
    failures: tuple[str, ...]

    def __str__(self) -> str:
        names = f" ({', '.join(self.undefined)})" if self.undefined else ""
        return (f"{self.defined} runs defined for {self.profile}, {self.size}: trained {self.trained}, "
                f"missing {self.missing}; experiments not defined: {len(self.undefined)}{names}")


def complete(topic: str, profile: str, size: str, store: Store, report: Callable[[str], None] = print,
             seconds: float | None = None, before: Callable[[], None] = lambda: None,
             vllm_server: str | None = None) -> Completion:
    """Train every run that the experiments of a chapter define and the records lack.

    Args:
        topic: the chapter's name without its number, such as `rank`.
        profile, size: which of the experiments' definitions.
        store: the book's records.
        report: is called with one line before each sweep; the sweep's own progress goes to standard error.
        seconds: that there are for all of it; None: as many as it takes.
        before: is called before records of the book are added.
        vllm_server: that samples where every run of an experiment uses vLLM.

    Raises:
        DeviceError: there is a GPU that torch cannot use; nothing was trained.
    """
    from lorakit.sweep import sweeps

    ends = None if seconds is None else time.monotonic() + seconds
    defined = trained = missing = 0
    undefined, failures = list[str](), list[str]()
    for experiment in experiments.of_chapter(topic):
        specs = experiment.specs(profile, size)
        if not specs:
            undefined.append(experiment.name)
            continue
        place, file = place_of(experiment.name, size, store)
        ids = {spec.id for spec in specs}

        def current(place: Store = place, ids: set[str] = ids) -> set[str]:
            found = place.find(ids)
            return found.keys() - {record.id for record in stale(found.values())}

        there = current()
        left = None if ends is None else ends - time.monotonic()
        if len(there) < len(ids) and (left is None or left > 0):
            report(f"{experiment.name}: training {len(ids) - len(there)} of {len(ids)} runs")
            if place is store:
                before()
            server = vllm_server if all(getattr(spec, "use_vllm", False) for spec in specs) else None
            try:
                sweeps.run(specs, place, profile=profile, experiment=file, engine=experiment.engine_for(specs),
                           probes=functions(experiment.probes, profile), stale="retrain", progress=True,
                           time_budget=left, vllm_server=server)
            except DeviceError:  # concerns every run
                raise
            except Exception as error:  # noqa: BLE001 - one experiment must not stop the others
                failures.append(f"{experiment.name}: {error}")
        after = current()
        defined, trained, missing = defined + len(ids), trained + len(after - there), missing + len(ids - after)
    return Completion(profile, size, defined, trained, missing, tuple(undefined), tuple(failures))
