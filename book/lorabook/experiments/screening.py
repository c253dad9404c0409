"""Screen rates, choose, confirm: what the studies of SmolLM2-135M lack, in as many seconds as a machine is there for.

    python -m lorabook.experiments.screening --profile gpu --seconds 540 --new $OUT/records.jsonl
    python -m lorabook.experiments.screening --take records.jsonl

The first trains in a store and writes every new record also to one file, the second adds such a file to the store.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lorabook import experiments
from lorabook.experiments import smollm2
from lorabook.experiments.results import store as book_store
from lorabook.probes import functions
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


def choose(study: Study, profile: str, store: Store) -> dict[str, float]:
    """The rate of each arm with the best mean validation result over the screened seeds; of equals, the lower rate.

    Raises:
        NotScreenedError: runs are missing, or a best rate is an end of its arm's grid.
    """
    arms = {name: (arm.lora, arm.full_targets) for name, arm in study.arms(profile).items()}
    specs = [spec for name in study.screens for spec in experiments.get(name).specs(profile, "record")
             if (spec.lora, spec.full_targets) in arms.values()]
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


def session(studies: list[Study], profile: str, seconds: float, store: Store, new: Path | None = None,
            processes: int | None = None, device: str | None = None) -> None:
    """Train what the studies lack, one after another, until the time is up; says what was chosen and what is left.

    Args:
        seconds: for everything; a pack that is predicted to end later is not started.
        new: gets a line for each new record, with the name of its experiment.
        processes: worker processes; several share a GPU.
    """
    from lorakit.sweep.sweeps import run

    end = time.monotonic() + seconds
    known = {record.id for place in store.files for record in store.records(*place)}

    def train(name: str, specs: list[Any]) -> None:
        left = end - time.monotonic()
        if left > 0 and store.missing(specs):
            records = run(specs, store, profile=profile, experiment=name, time_budget=left, processes=processes,
                          device=device, probes=functions(("base text",), profile))
            fresh = [record for record in records if record.id not in known]
            known.update(record.id for record in fresh)
            if new is not None:
                with new.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps({"profile": profile, "experiment": name, "record": record.to_json()})
                                    + "\n" for record in fresh)
        print(f"{name}: {len(store.missing(specs))} of {len(specs)} runs missing", flush=True)

    for study in studies:
        for name in study.screens:
            train(name, experiments.get(name).specs(profile, "record"))
        try:
            rates = choose(study, profile, store)
        except NotScreenedError as error:
            print(error, flush=True)
            continue
        print(f"{study.name}: chosen {rates}", flush=True)
        for name, specs in study.confirm(profile, rates).items():
            train(name, specs)


def take(file: Path, store: Store) -> int:
    """Add the records of such a file that the store lacks; returns how many."""
    count = 0
    for line in file.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        record = Record.from_json(entry["record"])
        if store.find([record.id], record.provenance.get("engine")):
            continue
        store.append(entry.get("profile", "gpu"), entry["experiment"], record)
        count += 1
    return count


def _rank(profile: str, rates: Mapping[str, float]) -> dict[str, list[Any]]:
    base = smollm2.base_run(profile)
    return {"smollm2-rank-confirmed": smollm2.confirm(smollm2.rank_arms(base), rates),
            "smollm2-rank-early": smollm2.confirm_early(base, rates["rank 16"])}


def _rl_arms(task: str, profile: str) -> dict[str, Any]:
    return smollm2.rl_arms(smollm2.rl_base(profile, task))


def _rl(task: str, profile: str, rates: Mapping[str, float]) -> dict[str, list[Any]]:
    arms = _rl_arms(task, profile)
    ten = {"rank 1": float(f"{10 * rates['full']:.3g}")}
    seeds = (*smollm2.E3_SCREENED, *smollm2.FRESH_RL)
    specs = smollm2.confirm(arms, rates, smollm2.FRESH_RL) + smollm2.confirm(arms, ten, seeds)
    return {f"smollm2-grpo-{task}-confirmed": list({spec.id: spec for spec in specs}.values())}


def _plain(name: str, arms: Callable[[str], Mapping[str, Any]], profile: str,
           rates: Mapping[str, float]) -> dict[str, list[Any]]:
    return {name: smollm2.confirm(arms(profile), rates)}


def _layer_arms(profile: str) -> dict[str, Any]:
    return smollm2.layer_arms(smollm2.base_run(profile))


STUDIES = (
    Study("E1", tuple(f"smollm2-rank-{seed}" for seed in smollm2.SCREENED),
          lambda profile: smollm2.rank_arms(smollm2.base_run(profile)), _rank),
    *(Study(f"E3, {task}", tuple(f"smollm2-grpo-{task}-{seed}" for seed in smollm2.E3_SCREENED),
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
    parser.add_argument("--new", type=Path)
    parser.add_argument("--only", nargs="*", help="names of studies: " + "; ".join(study.name for study in STUDIES))
    parser.add_argument("--take", type=Path)
    given = parser.parse_args()
    store = book_store()
    if given.take:
        print(f"{take(given.take, store)} records added")
        return
    wanted = [study for study in STUDIES if not given.only or study.name in given.only]
    session(wanted, given.profile, given.seconds, store, given.new, given.processes, given.device)


if __name__ == "__main__":
    main()
