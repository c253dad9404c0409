"""Screen rates, choose, confirm: what the studies of SmolLM2-135M lack, in as many seconds as a machine is there for.

    python -m lorabook.experiments.screening --profile gpu --seconds 540 --processes 6 --new $OUT
    python -m lorabook.experiments.screening --profile gpu --take FOLDER

The first writes new records to a folder and adds them to the book's, the second adds such a folder to the book's.
A call for each arm (`--arms "rank 1" --processes 1`) trains all of its rates and seeds in one pack: several such calls
beside each other use a GPU best, the more so under NVIDIA's MPS.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lorabook import experiments
from lorabook.experiments import smollm2
from lorabook.experiments.results import store as book_store
from lorabook.probes import functions
from lorakit.names import UnknownNameError
from lorakit.records import Record, Store


class NotScreenedError(LookupError):
    """Rates cannot be chosen yet: runs are missing, or a best rate is an end of its grid."""


@dataclass(frozen=True)
class Study:
    """Arms whose rates are screened, and the runs at the chosen rates.

    Args:
        name: for a reader.
        screens: names of the experiments that screen.
        arms: arms by name, for a profile.
        confirm: (profile, chosen rates) to the specs of each confirming experiment.
    """

    name: str
    screens: tuple[str, ...]
    arms: Callable[[str], Mapping[str, Any]]
    confirm: Callable[[str, Mapping[str, float]], Mapping[str, list[Any]]]

    def only(self, names: Sequence[str], profile: str) -> Study:
        """The study of some of its arms.

        Raises:
            UnknownNameError: it has no such arm.
        """
        arms = self.arms(profile)
        for name in names:
            if name not in arms:
                raise UnknownNameError(f"{self.name} has no arm {name!r}; arms: {', '.join(arms)}")
        return replace(self, arms=lambda _: {name: arms[name] for name in names}) if names else self


def choose(study: Study, profile: str, store: Store) -> dict[str, float]:
    """The rate of each arm with the best mean validation result over the screened seeds; of equals, the lower rate.

    Raises:
        NotScreenedError: runs are missing, or a best rate is an end of its arm's grid.
    """
    arms = _settings(study, profile)
    specs = [spec for some in _screens(study, profile).values() for spec in some]
    missing = store.missing(specs)
    if missing:
        raise NotScreenedError(f"{study.name}: {len(missing)} of {len(specs)} screening runs are missing")
    found, chosen = store.find(spec.id for spec in specs), {}
    for name, arm in arms.items():
        results: dict[float, list[float]] = {}
        for spec in specs:
            if (spec.lora, spec.full_targets) == arm:
                results.setdefault(spec.learning_rate, []).append(_cost(found[spec.id]))
        means = {rate: sum(values) / len(values) for rate, values in sorted(results.items())}
        chosen[name] = min(means, key=lambda rate: means[rate])
        if chosen[name] in (min(means), max(means)):
            raise NotScreenedError(f"{study.name}: {chosen[name]:g}, the best rate of {name}, is an end of its grid: "
                                   "widen the grid for every arm, say so in the protocol, and screen again")
    return chosen


def _cost(record: Record) -> float:
    """What validation says against a run: its loss, or its share of wrong answers; infinite where it diverged."""
    loss, accuracy = (record.metrics.get(f"validation_{what}") for what in ("loss", "accuracy"))
    value = loss if accuracy is None else 1 - accuracy
    return math.inf if record.status != "ok" or value is None or not math.isfinite(value) else value


def session(studies: list[Study], profile: str, seconds: float, store: Store, new: Path,
            processes: int | None = None, device: str | None = None) -> None:
    """Train what the studies lack, all that can be trained at once, until the time is up; says what was chosen.

    Runs that confirm follow as soon as the rates of their study can be chosen, in a second call of `lorakit.run`.

    Args:
        seconds: for everything; a pack that is predicted to end later is not started.
        new: a folder for the new records, each written as its pack ends; one that has some goes on from them.
        processes: worker processes; several share a GPU.
    """
    from lorakit.sweep.sweeps import run

    end, fresh = time.monotonic() + seconds, Store(new)
    take(fresh, store, studies, profile)
    while (left := end - time.monotonic()) > 0 and (specs := store.missing(_wanted(studies, profile, store))):
        run(specs, fresh, profile=profile, experiment="session", time_budget=left, processes=processes, device=device,
            probes=functions(("base text",), profile))
        if not take(fresh, store, studies, profile):
            break
    for study in studies:
        try:
            print(f"{study.name}: chosen {choose(study, profile, store)}")
        except NotScreenedError as error:
            print(error)
        for name, specs in _by_experiment(study, profile, store).items():
            print(f"{name}: {len(store.missing(specs))} of {len(specs)} runs missing", flush=True)


def _settings(study: Study, profile: str) -> dict[str, Any]:
    """What is trained in each arm, by its name."""
    return {name: (arm.lora, arm.full_targets) for name, arm in study.arms(profile).items()}


def _screens(study: Study, profile: str) -> dict[str, list[Any]]:
    """The runs that screen the study's arms, by experiment; others may stand beside them there."""
    arms = _settings(study, profile).values()
    return {name: [spec for spec in experiments.get(name).specs(profile, "record")
                   if (spec.lora, spec.full_targets) in arms] for name in study.screens}


def _by_experiment(study: Study, profile: str, store: Store) -> dict[str, list[Any]]:
    """What screens, and once rates can be chosen what confirms."""
    found = _screens(study, profile)
    try:
        return {**found, **study.confirm(profile, choose(study, profile, store))}
    except NotScreenedError:
        return found


def _wanted(studies: list[Study], profile: str, store: Store) -> list[Any]:
    specs = [spec for study in studies for some in _by_experiment(study, profile, store).values() for spec in some]
    return list({spec.id: spec for spec in specs}.values())


def take(new: Store, store: Store, studies: Sequence[Study], profile: str) -> int:
    """Add the records of a session's folder that the store lacks, each to its experiment; returns how many."""
    count = 0
    while True:
        before = count
        for study in studies:
            for name, specs in _by_experiment(study, profile, store).items():
                for record in new.find(spec.id for spec in store.missing(specs)).values():
                    store.append(profile, name, record)
                    count += 1
        if count == before:
            return count


def _rank(profile: str, rates: Mapping[str, float]) -> dict[str, list[Any]]:
    base = smollm2.base_run(profile)
    early = {"smollm2-rank-early": smollm2.confirm_early(base, rates["rank 16"])} if "rank 16" in rates else {}
    return {"smollm2-rank-confirmed": smollm2.confirm(smollm2.rank_arms(base), rates), **early}


def _rl_arms(task: str, profile: str) -> dict[str, Any]:
    return smollm2.rl_arms(smollm2.rl_base(profile, task))


def _rl(task: str, profile: str, rates: Mapping[str, float]) -> dict[str, list[Any]]:
    return {f"smollm2-grpo-{task}-confirmed": smollm2.confirm_rl(profile, task, rates)}


def _plain(name: str, arms: Callable[[str], Mapping[str, Any]], profile: str,
           rates: Mapping[str, float]) -> dict[str, list[Any]]:
    return {name: smollm2.confirm(arms(profile), rates)}


def _layer_arms(profile: str) -> dict[str, Any]:
    return smollm2.layer_arms(smollm2.base_run(profile))


STUDIES = (
    Study("E1", tuple(f"smollm2-rank-{seed}" for seed in smollm2.SCREENED),
          lambda profile: smollm2.rank_arms(smollm2.base_run(profile)), _rank),
    *(Study(f"E3, {task}", smollm2.rl_screens(task),
            partial(_rl_arms, task), partial(_rl, task))
      for task in smollm2.E3_TASKS),
    Study("E2, real text", tuple(f"smollm2-layers-{seed}" for seed in smollm2.BOTH_SCREENED), _layer_arms,
          partial(_plain, "smollm2-layers-confirmed", _layer_arms)),
    Study("E2, GSM8K", tuple(f"smollm2-layers-gsm8k-{seed}" for seed in smollm2.BOTH_SCREENED), smollm2.answer_arms,
          partial(_plain, "smollm2-layers-gsm8k-confirmed", smollm2.answer_arms)),
)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="gpu", choices=("cpu", "gpu"))
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--device")
    parser.add_argument("--new", type=Path, default=Path("screened"), help="folder for new records")
    parser.add_argument("--only", nargs="*", help="names of studies: " + "; ".join(study.name for study in STUDIES))
    parser.add_argument("--arms", nargs="*", default=(), help="names of arms of the one study that --only names")
    parser.add_argument("--take", type=Path)
    given = parser.parse_args()
    store = book_store()
    wanted = [study.only(given.arms, given.profile) for study in STUDIES
              if not given.only or study.name in given.only]
    if given.take:
        print(f"{take(Store(given.take), store, wanted, given.profile)} records added")
        return
    session(wanted, given.profile, given.seconds, store, given.new, given.processes, given.device)


if __name__ == "__main__":
    main()
