"""Mathematical equality by sympy, in a process that ends after 2 seconds of work; this process never parses."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from lorakit.rewards.notation import LONGEST_EXPRESSION, unwrapped

SECONDS = 30.0  # of the clock, for a child that its own limit of 2 s of processor time does not end
SECONDS_TO_START = 120.0
TOO_LONG = getattr(signal, "SIGPROF", 0)  # what ends a child whose 2 s are over
TRIES = 2  # of a pair whose process died
PLAIN = re.compile(r"[+-]?[0-9]{1,40}(?:\.[0-9]{1,40})?")


class UngradableError(ValueError):
    """The right answer itself cannot be read, so nothing can be said about a completion."""


class MathVerifyError(RuntimeError):
    """The grading process cannot start."""


def require_sympy() -> None:
    """Raise unless sympy is installed.

    Raises:
        MissingExtraError: which package to install.
    """
    if importlib.util.find_spec("sympy") is None:
        from lorakit import MissingExtraError

        raise MissingExtraError("the reward 'math' compares expressions with the package sympy: run "
                                "`pip install '.[train]'` in a clone of lorakit, or choose 'boxed' or 'marked', "
                                "which compare numbers and text", name="sympy")


def same_mathematics(given: str, answer: str) -> bool | None:
    r"""Whether two answers in LaTeX, numbers or words say the same; None if `given` cannot be read within 2 s and 1 GB.

    Equal texts and plain numbers are decided here, everything else in the grading process. An expression counts as its
    value: whoever answers `4+1` for 5 is right.

    Raises:
        UngradableError: the right answer cannot be read.
        MissingExtraError: sympy is not installed.

    >>> same_mathematics("42", "42"), same_mathematics("41.5", "42")
    (True, False)
    """
    given, answer = unwrapped(given), unwrapped(answer)
    if given == answer:
        return True
    if PLAIN.fullmatch(given) and PLAIN.fullmatch(answer):
        return Fraction(given) == Fraction(answer)
    if max(len(given), len(answer)) > LONGEST_EXPRESSION:
        verdict = "unreadable" if len(answer) <= LONGEST_EXPRESSION else "ungradable"
    else:
        try:
            verdict = _verdict(given, answer)
        except _LostError:
            verdict = "unreadable"
    if verdict == "ungradable":
        raise UngradableError(answer)
    return None if verdict == "unreadable" else verdict == "right"


def is_gradable(answer: str) -> bool:
    r"""Whether a right answer can be compared with others than its own text.

    >>> is_gradable("42"), is_gradable("x" * 301)
    (True, False)
    """
    answer = unwrapped(answer)
    if len(answer) > LONGEST_EXPRESSION:
        return False
    try:
        return _verdict("", answer) != "ungradable"
    except _LostError:
        return False


@lru_cache(maxsize=4096)
def _verdict(given: str, answer: str) -> str:
    return _process.ask(given, answer)


class _LostError(Exception):
    """The grading process died or was late for a reason other than the pair: no verdict to keep."""


class _GradingProcess:
    """One child at a time, started when first needed, killed when late, started again when needed again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, given: str, answer: str) -> str:
        with self._lock:
            for _ in range(TRIES):
                try:
                    if self._owner != os.getpid() or (self._child is not None and self._child.poll() is not None):
                        self._stop()
                    child = self._child or self._start()
                    with contextlib.suppress(OSError):  # a dead child: its end is the reply
                        print(json.dumps([given, answer]), file=child.stdin, flush=True)
                    verdict = self._replies.get(timeout=SECONDS)
                except queue.Empty:
                    self._stop()
                    raise _LostError from None
                except BaseException:  # Ctrl-C: the reply that is on its way belongs to no later question
                    self._stop()
                    raise
                if verdict is not None:
                    return verdict
                spent = child.wait() == -TOO_LONG
                self._stop()
                if spent:
                    return "unreadable"
            raise _LostError

    def _start(self) -> subprocess.Popen[str]:
        require_sympy()
        script = Path(__file__).with_name("symbolic_worker.py")
        self._child = subprocess.Popen([sys.executable, "-P", str(script)], stdin=subprocess.PIPE, text=True,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="ascii")
        self._owner = os.getpid()
        self._replies: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, args=(self._child, self._replies), daemon=True).start()
        try:
            ready = self._replies.get(timeout=SECONDS_TO_START)
        except queue.Empty:
            ready = None
        if ready != "ready":
            self._stop()
            raise MathVerifyError(f"the grading process did not start: run `python {script}` to see why")
        return self._child

    @staticmethod
    def _listen(child: subprocess.Popen[str], replies: queue.Queue[str | None]) -> None:
        assert child.stdout is not None
        with contextlib.suppress(ValueError):  # closed by _stop
            for line in child.stdout:
                replies.put(line.strip())
        replies.put(None)

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is not None and self._owner == os.getpid():
            with contextlib.suppress(OSError), child:  # what was not sent is lost
                child.kill()


_process = _GradingProcess()
atexit.register(_process._stop)
