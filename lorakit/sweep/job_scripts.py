"""Scripts that train a file of specs in shards elsewhere: Slurm's job array, Hugging Face Jobs, SkyPilot."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from textwrap import indent
from typing import cast

from lorakit.specs import AnySpec, SFTSpec, UnknownNameError
from lorakit.sweep.belongings import belongings
from lorakit.sweep.scripts import template
from lorakit.sweep.shards import shard_of
from lorakit.theory.configs import ConfigError
from lorakit.theory.estimate import Estimate, EstimateError, estimate
from lorakit.theory.fitting import require_fit
from lorakit.theory.hardware import find_gpu

MARGIN, START = 1.5, 1200  # the limit over what is predicted, and seconds to start, install and load
LAST = 300  # seconds of the limit in which nothing trains: records are written, and pushed
BYTES_BESIDE = 16e9  # of a host's memory beside the weights of the base, which pass through it
NAME = __name__.partition(".")[0]
FLAVORS = {"T4": "t4-small", "L4": "l4x1", "A10": "a10g-small", "L40S": "l40sx1", "A100 80GB": "a100-large",
           "H200": "h200"}  # of `hf jobs run`, with one card
SKYPILOT = {"A100 40GB": "A100", "A100 80GB": "A100-80GB", "RTX A6000": "RTXA6000", "RTX 4090": "RTX4090",
            "RTX 3090": "RTX3090", "RTX 5090": "RTX5090"}  # where its names are not ours


class JobScriptError(ValueError):
    """No script can be made of what was given."""


@dataclass(frozen=True)
class Job:
    """A sweep in shards on a kind of card.

    Args:
        file: of the specs, as `read_specs` takes it.
        specs: that it holds.
        gpu: of each shard.
        shards: how many.
        hours: of the longest shard; None predicts them.
        store: folder of the records, where the shards run.
        experiment: names the files of the records.

    Raises:
        JobScriptError: hours that cannot be meant, or none where they cannot be predicted (RL, unknown bases).
        DoesNotFitError: runs that one card cannot hold.
        UnknownGPUError: another card.
    """

    file: Path
    specs: Sequence[AnySpec]
    gpu: str
    shards: int = 1
    hours: float | None = None
    store: str = "lorakit-runs"
    experiment: str = "runs"

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise JobScriptError(f"shards={self.shards}; allowed: 1 or more")
        if self.hours is not None and not 0 < self.hours < 1e4:
            raise JobScriptError(f"hours={self.hours:g}; allowed: of the longest shard, above 0")
        for name in (self.store, self.experiment):
            if not re.fullmatch(r"[\w./-]+", name):
                raise JobScriptError(f"{name!r} cannot stand in a script; allowed: letters, digits, '.', '_', '-', '/'")
        require_fit(self.specs, self.gpu)

    def estimates(self) -> list[Estimate]:
        """Of each shard."""
        shards = (shard_of(self.specs, number, self.shards) for number in range(1, self.shards + 1))
        try:
            return [estimate(None, cast(list[SFTSpec], shard), self.gpu) for shard in shards if shard]
        except (EstimateError, UnknownNameError, ConfigError) as error:
            raise JobScriptError(f"the time of these runs cannot be predicted ({str(error).partition(';')[0]}): give "
                                 "the hours of the longest shard (--hours), for example from `lorakit plan` on one "
                                 "such card") from None

    @property
    def seconds(self) -> int:
        """The time limit of a shard: what is predicted with a margin, in whole minutes."""
        longest = max(one.seconds for one in self.estimates()) if self.hours is None else self.hours * 3600
        return 60 * math.ceil((MARGIN * longest + START) / 60)

    @property
    def gigabytes(self) -> int:
        """Of the host's memory."""
        if self.hours is not None:
            return 64
        return math.ceil((2 * max(one.memory["weights"] for one in self.estimates()) + BYTES_BESIDE) / 1e9)

    def about(self) -> str:
        """Comments: what is asked for and what it is predicted to cost."""
        lines = [f"{len(self.specs)} runs of {self.file.name} in {self.shards} shards, each on one {self.gpu}."]
        if self.hours is None:
            parts = self.estimates()
            longest, total = max(part.hours for part in parts), sum(part.hours for part in parts)
            costs = [part.cost for part in parts if part.cost is not None]
            price = f"{sum(costs):,.2f} dollars" if len(costs) == len(parts) else "at a price that is not known here"
            lines += [f"Predicted: {longest:.2g} hours for the longest shard, {total:.3g} of a card in all, {price}.",
                      f"Assumed: one run after another (packs of small runs need less); {parts[0].assumption}."]
        lines.append(f"The limit is {MARGIN:g} times that and {START // 60} minutes to start. What a limit, or a lost "
                     "machine, leaves undone the same command does next time.")
        return "\n".join(f"# {line}" for line in lines)

    def values(self) -> dict[str, object]:
        """What stands in all scripts."""
        return {"name": NAME, "about": self.about(), "shards": self.shards, "experiment": self.experiment,
                "store": self.store, "gigabytes": self.gigabytes,
                "options": f"--store {self.store} --experiment {self.experiment} --device cuda "
                           f"--time-budget {self.seconds - LAST}"}


def script(kind: str, job: Job, package: str | None = None, repo: str | None = None) -> str:
    """A script that trains each shard: a job array of `slurm`, or jobs that a loop starts, of `hf-jobs` or `skypilot`.

    Args:
        package: where there is no common disk, what pip is to install, such as `git+https://host/name@COMMIT` or the
            address of a wheel.
        repo: there, `owner/name` of the records on the Hub.

    Raises:
        JobScriptError: another kind, a card that it does not have, or specs that name what lies on this machine alone.
    """
    card = find_gpu(job.gpu).name
    values = job.values() | {"file": quote(str(job.file)), "numbers": " ".join(map(str, range(1, job.shards + 1)))}
    if kind == "slurm":
        hours, minutes = divmod(job.seconds // 60, 60)
        return template("slurm.sh").substitute(values, limit=f"{hours:02d}:{minutes:02d}:00")
    if kind not in ("hf-jobs", "skypilot"):
        raise JobScriptError(f"kind={kind!r}; allowed: slurm, hf-jobs, skypilot")
    if package is None or repo is None:
        raise JobScriptError(f"{kind} needs --package (what pip installs there, such as git+https://host/name@COMMIT) "
                             "and --repo (owner/name on the Hub, where the records go)")
    if kind == "hf-jobs" and card not in FLAVORS:
        raise JobScriptError(f"Hugging Face Jobs have no single {card}; allowed: {', '.join(FLAVORS)}")
    work = _work(job, package, repo)
    if kind == "hf-jobs":
        return template("hf-jobs.sh").substitute(values, work=work, flavor=FLAVORS[card], minutes=job.seconds // 60)
    return template("skypilot.sh").substitute(values, work=indent(work, "  "), card=SKYPILOT.get(card, card))


def _work(job: Job, package: str, repo: str) -> str:
    """What a machine does that has nothing yet: install, get what others pushed, train, push."""
    if own := sorted(belongings(job.specs)):
        raise JobScriptError(f"these specs name what lies on this machine alone ({', '.join(own)}): train them with "
                             "Ray, which sends it, or with Slurm on a disk that all nodes see")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise JobScriptError(f"repo={repo!r}; allowed: owner/name of a repository on the Hub, for the records")
    if not re.fullmatch(r"[\w.+:/@=&?#~-]+", package):
        raise JobScriptError(f"package={package!r}; allowed: what pip installs, such as git+https://host/name@COMMIT "
                             "or the address of a wheel")
    values = job.values() | {"package": package, "repo": repo, "file": f"specs{job.file.suffix}"}
    return template("work.sh").substitute(values).rstrip()
