"""Mathematical equality by math-verify, in a process that ends after 2 seconds of work; this process never parses."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import queue
import re
import subprocess
import sys
import threading
from functools import lru_cache
from pathlib import Path

from lorakit.train.rewards.answers import BLANK, number, same_answer

SECONDS = 10.0  # of the clock, for a child that its own limit of 2 s of processor time does not end
SECONDS_TO_START = 120.0
LONGEST_EXPRESSION = 300
DEEPEST = 12
REFUSED = re.compile(
    r"[0-9]{31,}"  # more digits than an answer has
    r"|\^\s*\{?\s*[+-]?[0-9]{5,}"  # exponents beyond 9999
    r"|\^[^{}^]{0,3}\^|\^\s*\{[^{}]*\^|\*"  # powers of powers; a programmer's signs
    r"|[0-9]{4,}\s*!|[)}!]\s*!"  # factorials of large or unknown numbers
    r"|__|[$#@`\"]|\\(?:input|include|write|read|open|def|let|csname|catcode|href|url|boxed)(?![a-zA-Z])")
PROSE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{3,}")  # a word outside \text{…} that is no command
WORDS = re.compile(r"\\(?:text|textbf|mathrm|mbox|operatorname)\s*\{([^{}]*)\}")
ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-z]*matrix\}")


class UngradableError(ValueError):
    """The right answer itself cannot be read, so nothing can be said about a completion."""


class MathVerifyError(RuntimeError):
    """The grading process cannot start."""


def require_math_verify() -> None:
    """Raise unless math-verify is installed.

    Raises:
        MissingExtraError: which package to install.
    """
    if importlib.util.find_spec("math_verify") is None:
        from lorakit import MissingExtraError

        raise MissingExtraError("the reward 'math' compares expressions with the package math-verify: run "
                                "`pip install '.[train]'` in a clone of lorakit, or choose 'boxed' or 'marked', "
                                "which compare numbers and text", name="math_verify")


def admissible(expression: str) -> bool:
    r"""Whether an expression is short, flat and plain enough to be read at all.

    >>> admissible(r"\frac{1}{2}"), admissible("9^{9^{9}}"), admissible("import os"), admissible("the answer is 5")
    (True, False, False, False)
    """
    if not 0 < len(expression) <= LONGEST_EXPRESSION or not (expression.isascii() and expression.isprintable()):
        return False
    depth = 0
    for character in expression:
        depth += (character in "({[") - (character in ")}]")
        if depth > DEEPEST:
            return False
    words = WORDS.findall(expression)
    if any(len(text.split()) > 2 or re.search(r"[^a-zA-Z .]", text) for text in words):
        return False
    rest = ENVIRONMENT.sub(" ", WORDS.sub(" ", expression))
    return not REFUSED.search(expression) and not PROSE.search(rest)


@lru_cache(maxsize=4096)
def same_mathematics(given: str, answer: str) -> bool | None:
    r"""Whether two LaTeX expressions are equal; None if `given` cannot be read, or not within 2 s and 1 GB.

    Numbers and equal texts are decided here, everything else in the grading process. An expression counts as its
    value: whoever answers `4+1` for 5 is right.

    Raises:
        UngradableError: the right answer cannot be read.
        MissingExtraError: math-verify is not installed.

    >>> same_mathematics("42", "42"), same_mathematics("41", "42")
    (True, False)
    """
    answer = answer.strip(BLANK).strip("$")
    if number(given) is not None and number(answer) is not None:
        return same_answer(given, answer)
    if given == answer:
        return True
    if not admissible(given):
        return None
    if not admissible(answer):
        raise UngradableError(answer)
    verdict = _process.ask(given, answer)
    if verdict == "ungradable":
        raise UngradableError(answer)
    return None if verdict == "unreadable" else verdict == "right"


class _GradingProcess:
    """One child at a time, started when first needed, killed when late, started again when needed again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, given: str, answer: str) -> str:
        with self._lock:
            if self._owner != os.getpid() or (self._child is not None and self._child.poll() is not None):
                self._stop()
            child = self._child or self._start()
            try:
                print(json.dumps([given, answer]), file=child.stdin, flush=True)
                verdict = self._replies.get(timeout=SECONDS)
            except (OSError, queue.Empty):
                verdict = None
            if verdict is None:  # late, or dead (out of memory)
                self._stop()
            return verdict or "unreadable"

    def _start(self) -> subprocess.Popen[str]:
        require_math_verify()
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
            raise MathVerifyError(f"the grading process did not start: run `python {script}` to see why; math-verify "
                                  "0.9 with latex2sympy2-extended 1.11 is known to work")
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
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):  # what was not sent is lost
                    if pipe is not None:
                        pipe.close()


_process = _GradingProcess()
atexit.register(_process._stop)
