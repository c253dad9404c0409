"""Waiting for an event, never for a time; and processes that are ended at a place, not at a moment.

What is to be ended in its midst says that it has come there and stays, so that neither a slow nor a fast machine
changes what the signal meets.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONG = 300.0  # seconds: nothing that a test waits for takes as long, on a loaded machine either
TESTS = Path(__file__).parent


def wait_until(event: Callable[[], bool], what: str, seconds: float = LONG) -> None:
    """Look again and again; a hang is a failure with a name."""
    last = time.monotonic() + seconds
    while not event():
        if time.monotonic() > last:
            raise TimeoutError(f"{what} did not come in {seconds:g} s")
        time.sleep(0.01)


def stay(file: Path) -> None:
    """In the process that is to be ended: say that it has come here, and go no further."""
    file.touch()
    wait_until(lambda: False, f"the signal at {file.name}", 2 * LONG)


def stay_at_first_record(file: Path) -> None:
    """From now on this process stays where it has written its first record."""
    from lorakit.records import Store

    append = Store.append

    def held(store: Store, *given: object) -> None:
        append(store, *given)
        stay(file)

    Store.append = held


class Started:
    """A script of Python in a process of its own, which finds the tests and what this process finds.

    Args:
        said: a file that gets what it says.
    """

    def __init__(self, script: str, given: tuple[str, ...], said: Path) -> None:
        paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        self.said = said
        with said.open("w") as output:
            self.process = subprocess.Popen([sys.executable, "-c", script, *given], stdout=output, stderr=output,
                                            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)})

    def reach(self, file: Path) -> None:
        """Wait until it, or a process of its, stays at a file; its end before that is a failure that says why."""
        wait_until(lambda: file.exists() or self.process.poll() is not None, str(file))
        assert self.process.poll() is None, self.said.read_text()


@contextmanager
def killed_behind(script: str, *given: str, said: Path) -> Iterator[Started]:
    """Run a script, and kill it at the end of the block."""
    started = Started(script, given, said)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait(LONG)
