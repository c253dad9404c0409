"""Kill a refresh at random points, start it again, and compare what it leaves with one that nobody disturbed.

    python tests/lorabook/kill_refresh.py --kills 50

A small book: two chapters and an experiment of four runs. A refresh that comes through is compared, and the next kills
strike one that begins anew.
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

from lorabook.benchmarks.refresh_time import HEAD

ROOT = Path(__file__).parents[2]
CHAPTER = HEAD + """```

```{code-cell} ipython3
import json
from pathlib import Path
for line in sorted(Path(f"results/{profile}/first.jsonl").read_text().splitlines()):
    record = json.loads(line)
    print(record["id"], record["status"], round(record["metrics"]["test_loss"], 5))
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


def start(root: Path, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """A refresh of a book, as a process."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'book'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", LORABOOK, "refresh", *arguments], cwd=root, text=True,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def left_by(root: Path) -> tuple[dict[str, object], dict[str, str]]:
    """The records that a book has, each line's id but once, and its executed notebooks."""
    lines = [json.loads(line) for line in (root / "book/results/cpu/first.jsonl").read_text().splitlines()]
    records = {line["id"]: (line["spec"], line["status"], line["metrics"], line["curve"]) for line in lines}
    assert len(records) == len(lines), "a run was recorded twice"
    executed = root / "_build" / "executed"
    assert {path.suffix for path in executed.iterdir()} <= {".ipynb", ".json", ".partial"}
    return records, {path.name: path.read_text(encoding="utf-8") for path in sorted(executed.glob("*.ipynb"))}


def kill_and_compare(kills: int, folder: Path, seed: int = 0, say: object = print) -> list[str]:
    """Kill so often; returns a line for each attempt, the last of which came through.

    Raises:
        AssertionError: a refresh failed by itself, or left something else than the undisturbed one.
    """
    chance, log = random.Random(seed), []
    whole = small_book(folder / "whole")
    begun = time.monotonic()
    process = start(whole)
    said = process.communicate()[0]
    took = time.monotonic() - begun
    assert process.returncode == 0, said
    wanted = left_by(whole)
    assert len(wanted[0]) == 4
    assert len(wanted[1]) == 2
    log.append(f"undisturbed: {took:.1f} s")
    done, round_, book = 0, 0, small_book(folder / "0")
    while True:
        process = start(book)
        after = chance.uniform(0.05, 1.0) * took
        try:
            said = process.communicate(timeout=after if done < kills else None)[0]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            done += 1
            records = book / "book/results/cpu/first.jsonl"
            runs = len(records.read_text().splitlines()) if records.exists() else 0
            notebooks = len(list((book / "_build" / "executed").glob("*.json")))
            log.append(f"kill {done} of book {round_} after {after:.1f} s: {runs} runs, {notebooks} notebooks there")
            say(log[-1])
            continue
        assert process.returncode == 0, said
        assert left_by(book) == wanted
        log.append(f"book {round_} came through, equal to the undisturbed one")
        say(log[-1])
        if done >= kills:
            return log
        round_ += 1
        book = small_book(folder / str(round_))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kill_and_compare(given.kills, Path(scratch), given.seed, lambda line: print(line, flush=True))
