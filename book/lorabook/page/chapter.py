"""A chapter's bookkeeping in one object: its records, verdicts and numbers, and the guards of its sentences."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import HTML, Markdown

from lorabook import experiments
from lorabook.claims.ledger import CLAIMS, Claim, Verdict, VerdictChanged, expect_verdict, ledger, on_first_runs
from lorabook.experiments.results import MissingRecordsError, Results, recorded, results, store
from lorabook.page.new_seeds import beside_the_first_runs
from lorabook.page.rendering import RenderingError, glue, setup
from lorabook.page.verdict_words import block
from lorakit.local_models import cache_folder
from lorakit.records import Record

ABSENT = "(not in the live size)"


class Chapter:
    """One chapter at one profile and size.

    Args:
        name: the chapter's file without its number, such as `rank`; its claims are those of that file, and its
            numbers are glued as `rank-…`.
        profile, size: the chapter's parameters; `$LORAKIT_SIZE` goes before the size on cpu.
    """

    def __init__(self, name: str, profile: str = "cpu", size: str = "record") -> None:
        self.started, self.opened = time.perf_counter(), time.time()
        self.name, self.profile = name, profile
        self.size = os.environ.get("LORAKIT_SIZE", size) if profile == "cpu" else size
        self.results: dict[str, Results] = {}

    def sweep(self, experiment: str | Sequence[str], profile: str = "cpu", size: str | None = None, *,
              optional: bool = False) -> Results:
        """The records of an experiment as a sweep; `results` holds every one that the chapter asked for.

        Args:
            experiment: its name, or the names of several that make one sweep, such as one of each seed.
            profile: of the runs; a chapter reads those of cpu unless it says otherwise. Runs of another profile than
                its own are read and never trained.
            size: None for the chapter's own, and `record` for the experiments of other chapters, which those train;
                `record` at any size of the build.
            optional: return what there is, even nothing, instead of failing.
        """
        names = [experiment] if isinstance(experiment, str) else experiment
        parts = [recorded(name, profile) if self.size == "live" and "record" in (size, self._size_of(name)) else
                 results(name, profile, size or self.size, optional=optional, train=profile == self.profile)
                 for name in names]
        self.results |= {name if profile == "cpu" else f"{name}, {profile}": part
                         for name, part in zip(names, parts, strict=True)}
        return reduce(add, parts)

    def _size_of(self, experiment: str) -> str:
        own = {one.name for one in experiments.of_chapter(self.name)}
        return self.size if experiment in own else "record"

    @cached_property
    def runs(self) -> Path:
        """The folder of the runs that the page itself makes: `lk.run(specs, page.runs)` finds their records there.

        At the live size it is a new one, so they are trained in view.
        """
        if self.size == "live":
            return Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        return store().root.parent / "do-it" / self.profile / self.name

    @property
    def trains(self) -> bool:
        """Whether this build may train what has no record, and so needs the base's weights."""
        return self.size == "live" or os.environ.get("LORAKIT_MISSING") == "train"

    @property
    def weights(self) -> Path | None:
        """The folder for what the page's runs learn; None where nothing is trained, since records hold no weights."""
        if not self.trains:
            return None
        return self.runs if self.size == "live" else cache_folder() / "do-it" / self.profile / self.name

    def recorded(self, name: str, make: Callable[[], Any] | None = None) -> Any:
        """What `make()` returned when the page's runs were made: the output of a cell that needs their weights.

        Args:
            name: of the record, `page.runs/NAME.json`.
            make: returns what JSON can hold; without it None stands for what nothing has written yet.

        Raises:
            MissingRecordsError: there is no record, and this build may not make one.
        """
        path = self.runs / f"{name}.json"
        if not path.exists() and make is not None:
            if not self.trains:
                raise MissingRecordsError(f"{path.name} of this page lacks: `lorabook refresh {self.name}` makes it")
            write_recorded(path, make())
        return json.loads(path.read_text(encoding="utf-8"))["value"] if path.exists() else None

    def made(self, runs: Iterable[Record]) -> Markdown:
        """When and where these runs of `page.runs` were made, as a line to show under them.

        Raises:
            MissingRecordsError: some were trained just now, though this build may only read; a refresh may train.
        """
        made = [record.provenance for record in runs]
        last = max(p["date"] for p in made)
        new = sum(datetime.fromisoformat(p["date"]).timestamp() >= self.opened - 1 for p in made)
        if new and self.size == "record" and os.environ.get("LORAKIT_MISSING") != "train":
            raise MissingRecordsError(f"{new} of {len(made)} runs of this page had no record; they are trained now, in "
                                      f"{self.runs}: commit them, or let `lorabook refresh` train them")
        seconds, devices = sum(p["seconds"] for p in made), " and ".join(sorted({p["device"] for p in made}))
        runs_made = "1 run" if len(made) == 1 else f"{len(made)} runs"
        where = "made just now" if new else f"recorded on {last[:10]}"
        return Markdown(f"*{runs_made}, {where}: {seconds:.0f} s of training on {devices}.*")

    @property
    def seconds(self) -> float:
        """Since the chapter was opened."""
        return time.perf_counter() - self.started

    @cached_property
    def claims(self) -> list[Claim]:
        """The claims that this chapter tests; all of them for a page that tests none, such as `what-to-do`."""
        return [claim for claim in CLAIMS if claim.chapter.partition("-")[2] == self.name] or list(CLAIMS)

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """By claim, what the committed runs of record size say."""
        return {verdict.claim.id: verdict for verdict in ledger(store(), self.claims)}

    def verdict_table(self, *, why: bool = False) -> HTML:
        """Each claim with its verdict, where it was measured and what decided or, if asked, the whole reason."""
        return HTML("".join(block(verdict, why=why) for verdict in self.verdicts.values()))

    def on_new_seeds(self, *claims: str) -> Markdown:
        """A list of what first runs and runs on new seeds say, of these claims or of all that have any."""
        return Markdown(beside_the_first_runs(self.verdicts[claim] for claim in claims or self.verdicts))

    def glue(self, form: str = "", /, **values: Any) -> None:
        """Name numbers and words for the prose: `page.glue(".2f", best_rate=x)` is ``{glue:text}`rank-best-rate` ``.

        Args:
            form: of all of them, such as `.2f`; empty for words.
            **values: by name, where `_` becomes `-`. A function is called; at the live size, whose runs are fewer,
                what it cannot find is said to be missing there.
        """
        for name, value in values.items():
            key = f"{self.name}-{name.replace('_', '-')}"
            try:
                glue(key, value() if callable(value) else value, form)
            except (LookupError, ArithmeticError, RenderingError):
                if self.size == "record" or not callable(value):
                    raise
                glue(key, ABSENT)

    def expect(self, base: str | None = None, /, **verdicts: str) -> None:
        """Guard sentences that suppose verdicts: `page.expect(C3_RL="does not hold")`; nothing at the live size.

        Args:
            base: of whose first runs the sentences speak, such as `tiny`; None for what heads the ledger.
            **verdicts: an outcome by claim, where `_` becomes `-`.

        Raises:
            VerdictChanged: the records say something else.
        """
        for claim, outcome in verdicts.items() if self.size == "record" else ():
            name = claim.replace("_", "-")
            among = [on_first_runs(self.verdicts[name], base)] if base else self.verdicts.values()
            expect_verdict(name, outcome, among)

    def says(self, condition: Any | Callable[[], Any], words: str) -> None:
        """Guard a sentence, caption or figure of the page: the build stops where the records no longer say it.

        Nothing is asked at the live size, whose runs are too few for any sentence.

        Args:
            condition: what makes it true; a function is called at the record size alone.
            words: the sentence in short; the page of guards prints it beside the condition.

        Raises:
            VerdictChanged: it is no longer true.
        """
        if self.size == "record" and not (condition() if callable(condition) else condition):
            raise VerdictChanged(f"the records no longer say: {words}")

    def card(self, *sweeps: Results) -> None:
        """Glue what the card at the end states of these runs: seconds, runs, minutes, megabytes and the first date."""
        made = [record.provenance for sweep in sweeps for record in sweep]
        self.glue(",", runs=len(made))
        self.glue(".0f", seconds=self.seconds, minutes=sum(p["seconds"] for p in made) / 120)
        peaks = [p["peak_bytes"] for p in made if p["peak_bytes"]]  # None where nobody counts
        self.glue(megabytes=f"{max(peaks) / 1e6:,.0f}" if peaks else "an unknown number of")
        self.glue(made=min(p["date"] for p in made)[:10])


def write_recorded(path: Path, value: Any) -> None:
    """Write what `Chapter.recorded` reads, with its date."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"date": datetime.now(UTC).isoformat(timespec="seconds"), "value": value}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def chapter(name: str, profile: str = "cpu", size: str = "record") -> Chapter:
    """The bookkeeping of a chapter; charts and tables of the notebook take the book's look from here on."""
    setup()
    pd.set_option("display.max_colwidth", None)
    return Chapter(name, profile, size)
