"""Kill a refresh at random points, start it again, and compare what it leaves with one that nobody disturbed.

    python tests/lorabook/kill_refresh.py --kills 50

A small book: two chapters and an experiment of four runs. A refresh that comes through is compared, and the next kills
strike one that begins anew. Tests name the places, instead: `killed_at`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lorabook.benchmarks.refresh_time import HEAD

LONG = 600.0  # seconds: no refresh of so small a book takes as long
ROOT = Path(__file__).parents[2]
CHAPTER = HEAD + """```

```{code-cell} ipython3
import json
from pathlib import Path
for line in sorted(Path(f"results/{profile}/first.jsonl").read_text().splitlines()):
    record = json.loads(line)
    print(record["id"], record["status"], round(record["metrics"]["test_loss"], 3))
```
"""
LORABOOK = """
import sys
from lorabook import experiments
from lorabook.cli import main
from lorabook.experiments import Experiment
from lorabook.rehearsal import classes
from lorakit.specs import LoRASpec, SFTSpec, vary
base = SFTSpec(model="tiny-w32-s0", dataset="random-associations", learning_rate=1e-3, steps=30, batch_size=2,
               evaluations=2, evaluation_tokens=64, lora=LoRASpec(rank=2))
first = Experiment("first", "Is it there?", {(profile, "record"): lambda: vary(base, rank=[2, None], seed=range(2))
                                             for profile in ("cpu", "gpu")}, probes=())
experiments.EXPERIMENTS["first"], experiments.CHAPTERS["first"] = first, "first"
experiments.of_chapter = lambda topic: [first] if topic == "first" else []
every, classes.trained_by_trl = classes.spec_classes, lambda spec: False
classes.spec_classes = lambda profile: every(profile)[:1]
sys.exit(main(sys.argv[1:]))
"""


def small_book(folder: Path) -> Path:
    """A clone with two chapters and no records."""
    (folder / "book" / "results" / "cpu").mkdir(parents=True)
    for title in ("01-first", "02-second"):
        (folder / "book" / f"{title}.md").write_text(CHAPTER, encoding="utf-8")
    return folder


DIES = """
import os, signal
from lorabook import refresh
from lorakit.records import Store
left = {place}

def pass_place():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def mortal(call):
    def wrapped(*given):
        pass_place()
        call(*given)
        pass_place()
    return wrapped

Store.append, refresh.write_whole = mortal(Store.append), mortal(refresh.write_whole)
"""


def start(root: Path, before: str = "") -> subprocess.Popen[str]:
    """A refresh of a book, as a process, which does something before."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'book'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", before + LORABOOK, "refresh"], cwd=root, text=True,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[str], status: int = 0) -> None:
    """Wait for it; anything but this exit status is an error with what it said."""
    said = process.communicate(timeout=LONG)[0]
    assert process.returncode == status, said


def killed_at(root: Path, place: int) -> None:
    """Refresh a book up to a place: each record and each file of a notebook has one before and one behind it."""
    finish(start(root, DIES.format(place=place)), -signal.SIGKILL)


def left_by(root: Path) -> tuple[dict[str, dict[str, object]], dict[str, str]]:
    """The numbers of a book's records, each line's id but once, and its executed notebooks."""
    lines = [json.loads(line) for line in (root / "book/results/cpu/first.jsonl").read_text().splitlines()]
    records = {line["id"]: {"ended": [line["status"] == "ok"], **line["metrics"], **line["curve"]} for line in lines}
    assert len(records) == len(lines), "a run was recorded twice"
    executed = root / "_build" / "executed"
    assert {path.suffix for path in executed.iterdir()} <= {".ipynb", ".json", ".partial"}
    return records, {path.name: path.read_text(encoding="utf-8") for path in sorted(executed.glob("*.ipynb"))}


def require_same(one: Path, other: Path) -> None:
    """Two books are equal: their records up to what other runs of a pack change in rounding, their notebooks wholly."""
    (records, notebooks), (wanted, executed) = left_by(one), left_by(other)
    assert len(records) == 4
    assert len(notebooks) == 2
    assert records.keys() == wanted.keys()
    for name, found in wanted.items():
        assert records[name].keys() == found.keys()
        for column, values in found.items():
            assert records[name][column] == pytest.approx(values, rel=1e-4, abs=1e-6), column
    assert notebooks == executed


def kill_and_compare(kills: int, folder: Path, seed: int = 0, say: object = print) -> list[str]:
    """Kill so often; returns a line for each attempt, the last of which came through.

    Raises:
        AssertionError: a refresh failed by itself, or left something else than the undisturbed one.
    """
    chance, log = random.Random(seed), []
    whole, begun = small_book(folder / "whole"), time.monotonic()
    finish(start(whole))
    took = time.monotonic() - begun
    log.append(f"undisturbed: {took:.1f} s")
    done, round_, book = 0, 0, small_book(folder / "0")
    for _ in range(10 * (kills + 1)):
        process, after = start(book), chance.uniform(0.05, 1.0) * took
        if done < kills:
            try:
                process.wait(after)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                done += 1
                log.append(f"kill {done} of book {round_} after {after:.1f} s: {there(book)}")
                say(log[-1])
                continue
        finish(process)
        require_same(book, whole)
        log.append(f"book {round_} came through, equal to the undisturbed one")
        say(log[-1])
        if done >= kills:
            return log
        round_ += 1
        book = small_book(folder / str(round_))
    raise RuntimeError(f"{done} of {kills} kills struck: the others came too late")


def there(book: Path) -> str:
    """What a book has: runs, and executed chapters."""
    records, executed = book / "book/results/cpu/first.jsonl", book / "_build" / "executed"
    runs = len(records.read_text().splitlines()) if records.exists() else 0
    notebooks, inputs = (len(list(executed.glob(f"*.{kind}"))) for kind in ("ipynb", "json"))
    return f"{runs} runs, {notebooks} notebooks, inputs of {inputs}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kill_and_compare(given.kills, Path(scratch), given.seed, lambda line: print(line, flush=True))
