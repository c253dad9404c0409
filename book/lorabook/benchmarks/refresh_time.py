"""P8: what a refresh does when nothing, a line of prose or one configuration has changed; and how long that takes."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from statistics import median
from unittest import mock

from lorabook import experiments
from lorabook.benchmarks.benchmark import Setting, to_record
from lorabook.experiments import Experiment
from lorabook.experiments.results import store
from lorabook.refresh import CHAPTER_FILES, Refreshed, refresh
from lorakit.records import Record
from lorakit.specs import LoRASpec, SFTSpec, vary

HEAD = """---
jupytext:
  text_representation:
    format_name: myst
kernelspec:
  name: python3
  display_name: Python 3
---

# One experiment

```{code-cell} ipython3
:tags: [parameters]

profile = "cpu"
size = "record"
"""
CHAPTER = HEAD + """```

```{code-cell} ipython3
from pathlib import Path
len(Path(f"results/{profile}/timed.jsonl").read_text().splitlines())
```
"""


def refresh_time(setting: Setting) -> Iterator[Record]:
    """The record of a small book with one experiment, and, unless it is a rehearsal, of the chapters of this one.

    Raises:
        RuntimeError: a refresh trained what had not changed, or did not train what had.
    """
    with tempfile.TemporaryDirectory() as folder:
        trained = small_book(Path(folder))
    wanted = {"first": 2, "nothing": 0, "prose": 0, "configuration": 1}
    if trained != wanted:
        raise RuntimeError(f"a refresh trained {trained}, and {wanted} had changed")
    metrics: dict[str, float] = {f"trained_{change}": count for change, count in trained.items()}
    chapters = [] if setting.quick else sorted(store().root.parent.glob(CHAPTER_FILES))
    if chapters:
        with tempfile.TemporaryDirectory() as folder:
            metrics |= timed(Path(folder), chapters)
        setting.say(f"P8: {len(chapters)} chapters in {metrics['build_seconds']:.0f} s, nothing to do in "
                    f"{metrics['nothing_seconds']:.2f} s")
    yield to_record(setting, "refresh", {"goal": "P8", "chapters": [path.stem for path in chapters]}, metrics)


def small_book(root: Path) -> dict[str, int]:
    """Runs that a refresh of a book with one chapter trains at first, and after each kind of change."""
    (root / "book" / "results" / "cpu").mkdir(parents=True)
    page = root / "book" / "01-timed.md"
    page.write_text(CHAPTER, encoding="utf-8")
    base = SFTSpec(model="tiny-w32-s0", dataset="random-associations", learning_rate=1e-3, steps=2, batch_size=2,
                   evaluations=2, evaluation_tokens=64, lora=LoRASpec(rank=2))
    specs = vary(base, seed=range(2))
    trained = {}

    def again(change: str) -> None:
        one = Experiment("timed", "Is anything trained?", {("cpu", "record"): lambda: specs}, probes=())
        with (mock.patch.object(experiments, "of_chapter", lambda topic: [one] if topic == "timed" else []),
              mock.patch.dict(experiments.EXPERIMENTS, {"timed": one})):
            trained[change] = sum(chapter.trained for chapter in _quiet(root))

    again("first")
    again("nothing")
    page.write_text(CHAPTER + "\nA line of prose.\n", encoding="utf-8")
    again("prose")
    specs[1] = vary(base, seed=[2])[0]
    again("configuration")
    return trained


def timed(root: Path, chapters: list[Path]) -> dict[str, float]:
    """Seconds of executing these chapters, of a refresh with nothing to do, and of one after an edit of prose.

    Runs that the records lack are not trained, as in a build of the book.
    """
    (root / "book").mkdir()
    for path in chapters:
        shutil.copy(path, root / "book")
    for folder in ("results", "do-it"):
        (root / "book" / folder).symlink_to(chapters[0].parent / folder)

    def seconds() -> float:
        started = time.perf_counter()
        with mock.patch("lorakit.sweep.sweeps.run"):
            _quiet(root)
        return time.perf_counter() - started

    build, nothing = seconds(), [seconds() for _ in range(3)]
    first = root / "book" / chapters[0].name
    first.write_text(first.read_text(encoding="utf-8") + "\nA line of prose.\n", encoding="utf-8")
    return {"build_seconds": build, "nothing_seconds": median(nothing), "prose_seconds": seconds(),
            "nothing_over_build": median(nothing) / build}


def _quiet(root: Path) -> list[Refreshed]:
    with redirect_stderr(StringIO()):
        return refresh(root=root, report=lambda line: None)
