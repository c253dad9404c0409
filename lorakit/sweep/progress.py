"""What a sweep says while it works: runs done, where each pack is, and the time left, on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

ON_TERMINAL, ELSEWHERE = 5.0, 60.0  # seconds between two lines


class Progress:
    """A line now and then from a thread of its own, so that a long step or evaluation is no silence.

    Args:
        name: of the sweep.
        runs: how many there are to do.
        work: of all of them, in any unit.
        visible: True, False, or None: a line every five seconds on a terminal, every minute elsewhere.
    """

    def __init__(self, name: str, runs: int, work: float, visible: bool | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.runs, self.work, self._clock = name, runs, work, clock
        self.every = ON_TERMINAL if visible or (visible is None and sys.stderr.isatty()) else ELSEWHERE
        self.visible = visible is not False
        self.finished, self._done, self._first = 0, 0.0, 0.0
        self._at_work: dict[int, tuple[dict[str, Any], float]] = {}  # by pack: its last event, and its work
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Progress:
        if self.visible:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        self._ended.set()
        if self.visible:
            self._thread.join()
            self.say(self.line())

    def say(self, text: str) -> None:
        """A line of the sweep's, if it may speak."""
        if self.visible:
            print(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def step(self, pack: int, event: dict[str, Any], work: float) -> None:
        """Enter how far a pack is: an event with `step`, `steps`, `value` and `what`."""
        self._first = self._first or self._clock()
        self._at_work[pack] = event, work

    def leave(self, pack: int, runs: int, work: float) -> None:
        """Enter that a pack is no longer at work; `runs` of its runs, of so much work, are through."""
        if runs:
            self._first = self._first or self._clock()
        self._at_work.pop(pack, None)
        self.finished, self._done = self.finished + runs, self._done + work

    def line(self) -> str:
        """Where the sweep is.

        >>> progress = Progress("runs", 3, 30.0, clock=iter([1.0, 61.0]).__next__)
        >>> progress.step(0, {"step": 50, "steps": 100, "value": 2.5, "what": "loss"}, 20.0)
        >>> progress.line()
        '0 of 3 runs done; step 50 of 100, loss 2.5; about 2 min left'
        """
        packs = [event for event, _ in list(self._at_work.values())]
        parts = [f"{self.finished} of {self.runs} runs done"]
        parts += [f"step {e['step']} of {e['steps']}" + (f", {e['what']} {e['value']:.4g}" if e.get("value") is not None
                                                         else "") for e in packs]
        if self.finished < self.runs:
            parts.append(self._left() if self._first else "models and data are loaded")
        return "; ".join(parts)

    def _left(self) -> str:
        done = self._done + sum(work * event["step"] / event["steps"] for event, work in list(self._at_work.values()))
        if not done:
            return "the time left is known after the first steps"
        seconds = (self._clock() - self._first) * (self.work - done) / done
        return f"about {seconds / 60:.0f} min left" if seconds >= 60 else f"about {seconds:.0f} s left"

    def _repeat(self) -> None:
        while not self._ended.wait(self.every):
            self.say(self.line())
