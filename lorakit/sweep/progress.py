"""What a sweep says while it works: runs done, where each pack is, tokens a second, and the time left."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from lorakit.log import log

BAR, LINES = 1.0, 60.0  # seconds between two updates


@dataclass
class _AtWork:
    """A pack: its last event, its work and trained tokens in all, and the step at which it began here."""

    event: dict[str, Any]
    work: float
    tokens: float
    began: int

    def share(self) -> float:
        return float(self.event["step"] / self.event["steps"])

    def share_here(self) -> float:
        return float((self.event["step"] - self.began) / self.event["steps"])


class Progress:
    """A bar, or a line now and then, from a thread of its own, so that a long step or evaluation is no silence.

    Args:
        name: of the sweep.
        runs: how many there are to do.
        work: of all of them, in any unit.
        visible: None: a bar on a terminal and in a notebook, a line every minute elsewhere; True: a bar; False:
            warnings alone.
    """

    def __init__(self, name: str, runs: int, work: float, visible: bool | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.runs, self.work, self._clock = name, runs, work, clock
        self.visible = visible is not False
        self.has_bar = visible or (visible is None and _shows_bars())
        self.finished, self._done, self._here, self._tokens, self._first = 0, 0.0, 0.0, 0.0, 0.0
        self._at_work: dict[int, _AtWork] = {}  # by pack
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self.visible:
            if self.has_bar:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # it warns in a notebook without ipywidgets
                    from tqdm.auto import tqdm
                self._bar = tqdm(total=1.0, bar_format="{desc} |{bar}|", file=sys.stderr, dynamic_ncols=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        self._ended.set()
        if self.visible:
            self._thread.join()
            if self._bar is not None:
                self._show()
                self._bar.close()
            else:
                self.say(self.line())

    def say(self, text: str) -> None:
        """A line of the sweep's, if it may speak."""
        if self.visible:
            log.info("%s: %s", self.name, text)

    def warn(self, text: str) -> None:
        """A line that even a quiet sweep says."""
        log.warning("%s: %s", self.name, text)

    def step(self, pack: int, event: dict[str, Any], work: float, tokens: float = 0.0) -> None:
        """Enter how far a pack is.

        Args:
            event: with `step`, `steps`, `value` and `what`.
            work, tokens: of the whole pack; tokens count those trained, padding included.
        """
        self._first = self._first or self._clock()
        before = self._at_work.get(pack)
        self._at_work[pack] = _AtWork(event, work, tokens, before.began if before else event["step"])

    def leave(self, pack: int, runs: int, work: float) -> None:
        """Enter that a pack is no longer at work; `runs` of its runs, of so much work, are through."""
        if runs:
            self._first = self._first or self._clock()
        before = self._at_work.pop(pack, None)
        if before is not None:
            began = before.began / before.event["steps"]
            self._here += work * (1 - began)
            self._tokens += before.tokens * (1 - began if runs else before.share_here())
        self.finished, self._done = self.finished + runs, self._done + work

    def line(self) -> str:
        """Where the sweep is.

        >>> progress = Progress("runs", 3, 30.0, clock=iter([1.0, 61.0, 61.0]).__next__)
        >>> progress.step(0, {"step": 0, "steps": 100, "value": 2.9, "what": "loss"}, 20.0, 1e6)
        >>> progress.step(0, {"step": 50, "steps": 100, "value": 2.5, "what": "loss"}, 20.0, 1e6)
        >>> progress.line()
        '0 of 3 runs done; step 50 of 100, loss 2.5; 8,333 tokens/s; about 2 min left'
        """
        packs = list(self._at_work.values())
        parts = [f"{self.finished} of {self.runs} runs done"]
        for event in (pack.event for pack in packs):
            value = f", {event['what']} {event['value']:.4g}" if event.get("value") is not None else ""
            parts.append(f"step {event['step']} of {event['steps']}{value}")
        if self.finished < self.runs:
            parts += self._rates(packs) if self._first else ["models and data are loaded"]
        return "; ".join(parts)

    def _rates(self, packs: list[_AtWork]) -> list[str]:
        seconds = self._clock() - self._first
        here = self._here + sum(pack.work * pack.share_here() for pack in packs)
        tokens = self._tokens + sum(pack.tokens * pack.share_here() for pack in packs)
        if not here or seconds <= 0:
            return ["the time left is known after the first steps"]
        left = seconds * (self.work - self._done - sum(pack.work * pack.share() for pack in packs)) / here
        return [*([f"{tokens / seconds:,.0f} tokens/s"] if tokens else []),
                f"about {left / 60:.0f} min left" if left >= 60 else f"about {left:.0f} s left"]

    def _show(self) -> None:
        done = self._done + sum(pack.work * pack.share() for pack in list(self._at_work.values()))
        self._bar.n = min(1.0, done / self.work if self.work else 1.0)
        self._bar.set_description_str(f"{self.name}: {self.line()}")

    def _repeat(self) -> None:
        while not self._ended.wait(BAR if self._bar is not None else LINES):
            self._show() if self._bar is not None else self.say(self.line())


def _shows_bars() -> bool:
    """Whether standard error is a terminal or a notebook's, and nobody has switched bars off (`TQDM_DISABLE`)."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    notebook = type(shell).__name__ == "ZMQInteractiveShell"
    return not os.environ.get("TQDM_DISABLE") and (sys.stderr.isatty() or notebook)
