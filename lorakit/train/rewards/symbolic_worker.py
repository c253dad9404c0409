"""The process that meets model text with sympy: pairs of answers as JSON lines in, verdicts out.

It runs as a script of its own (`python -P symbolic_worker.py`). Where the system can limit them, it has 1 GB of memory
and 2 s of processor time a pair, not of the clock, so that a busy machine gives the same verdicts. Once it is ready it
opens no file for writing, starts nothing, reaches no network and evaluates no text.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

MEMORY = 2**30
SECONDS = 2.0
FORBIDDEN = ("subprocess.", "socket.", "shutil.", "ctypes.", "urllib.", "webbrowser.", "tempfile.", "pty.", "ftplib.",
             "http.", "smtplib.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill",
             "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink",
             "os.truncate", "os.putenv", "os.startfile", "signal.")
PRACTICE = (("1/2", r"\frac{1}{2}"), ("x^2", r"x \cdot x"), ("5", r"\sqrt{25}"), (r"\{1,2\}", "2,1"),
            ("(1,2)", "(1,2]"), ("x=5", "5"), ("x<2", "2>x"), (r"10\%", "0.1"), (r"5 \text{ cm}", "5"),
            ("3.14", r"\pi"), ("1+i", "i+1"), (r"\log_2 8", "3"),
            (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"))


def limit_memory() -> None:
    """1 GB of address space and no file output, on systems that have such limits."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: only reading what an import needs is left, and no text becomes code."""
    installed = (sys.prefix, sys.base_prefix, "<frozen")
    source = (arguments[1] if event == "compile" else
              getattr(arguments[0], "co_filename", "") if event == "exec" else installed[0])
    text_to_code = not str(source).startswith(installed)
    writes = event == "open" and (
        (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))
        or bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC)))
    elsewhere = event == "open" and not str(arguments[0]).startswith(installed)
    if text_to_code or writes or elsewhere or event.startswith(FORBIDDEN):
        raise PermissionError(f"{event} while grading")


def allow_seconds() -> None:
    """Let the system end this process after 2 more seconds of processor time."""
    with contextlib.suppress(ImportError, AttributeError):
        import signal

        signal.setitimer(signal.ITIMER_PROF, SECONDS)


def read_numbers_plainly() -> None:
    """Make sympy read a number's digits as a number: by itself it calls `eval` on them."""
    from sympy.core import numbers

    sympify = numbers.sympify

    def plain(value: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(value, str):
            return numbers.Integer(value) if value.lstrip("+-").isdecimal() else numbers.Float(value)
        return sympify(value, *arguments, **options)

    numbers.sympify = plain


def judge() -> Callable[[str, str], str]:
    """A function of (given, answer) that says `right`, `wrong`, `unreadable` (given) or `ungradable` (answer)."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    read_numbers_plainly()
    plain = NormalizationConfig(basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="none",
                                equations=False)
    config = [LatexExtractionConfig(normalization_config=plain, boxed_match_priority=-1)]

    def read(text: str) -> list[Any]:
        found: list[Any] = parse(f"${text}$", extraction_config=config, extraction_mode="first_match",
                                 fallback_mode="no_fallback", parsing_timeout=None)
        return found

    def decide(given: str, answer: str) -> str:
        wanted = read(answer)
        if not wanted:
            return "ungradable"
        found = read(given)
        if not found:
            return "unreadable"
        return "right" if verify(wanted, found, timeout_seconds=None) else "wrong"

    return decide


def main() -> None:
    """Answer requests until standard input closes."""
    import logging

    logging.disable(logging.CRITICAL)
    limit_memory()
    decide = judge()
    for pair in PRACTICE:  # imports what the libraries import late, before imports are watched
        decide(*pair)
    sys.addaudithook(refuse)
    print("ready", flush=True)
    for line in sys.stdin:
        allow_seconds()
        try:
            verdict = decide(*json.loads(line))
        except Exception:  # noqa: BLE001 - RecursionError, MemoryError and whatever sympy raises: no answer
            verdict = "unreadable"
        print(verdict, flush=True)


if __name__ == "__main__":
    main()
