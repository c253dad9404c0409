"""The process that reads model text with sympy: pairs of answers as JSON lines in, verdicts out.

It runs as a script of its own (`python -P symbolic_worker.py`). Where the system can limit them, it has 1 GB of memory
and 2 s of processor time a pair, not of the clock, so that a busy machine gives the same verdicts. Once it is ready it
opens no file for writing, starts nothing, reaches no network and evaluates no text.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

MEMORY = 2**30
SECONDS = 2.0
FORBIDDEN = ("subprocess.", "socket.", "shutil.", "ctypes.", "urllib.", "webbrowser.", "tempfile.", "pty.", "ftplib.",
             "http.", "smtplib.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.kill",
             "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink",
             "os.truncate", "os.putenv", "os.startfile", "signal.")
PRACTICE = (("1/2", r"\frac{1}{2}"), ("x^2+x", r"x(x + 1)"), ("5", r"\sqrt{25}"), (r"\{1,2\}", "2,1"), ("x=5", "5"),
            ("x<2", "2>x"), (r"20\%", "0.2"), (r"5 \text{ cm}", "50 mm"), ("3.14", r"\pi"), ("1+i", "(1-i)i"),
            (r"\log_2 8", "3"), (r"\sin x", r"\cos x"), (r"\binom{5}{2}+|x|!", r"\lfloor x \rfloor"),
            (r"\arctan x^{1/3}", r"e^{\sqrt x}"), ("y=2x", "2x-y=0"), ("f(x+1)", "f(1+x)"))


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
    with contextlib.suppress(AttributeError):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)


def main() -> None:
    """Answer requests until standard input closes."""
    limit_memory()
    with contextlib.suppress(AttributeError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from lorakit.rewards.equality import decide

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
