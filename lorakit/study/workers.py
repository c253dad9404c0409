"""Worker processes that train: started, asked, and replaced when they die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any


class WorkerError(RuntimeError):
    """A worker process ended while it was working; the message says how."""


class Worker:
    """One process of `lorakit.train.worker`, started at the first request. Use as a context manager.

    Args:
        device: `cpu` or `cuda`.
        threads: of the process.
        visible: `CUDA_VISIBLE_DEVICES` of the process, None for that of this one.
    """

    def __init__(self, device: str, threads: int = 1, visible: str | None = None) -> None:
        self.device, self.threads, self.visible = device, threads, visible
        self._process: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed on exit

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._log.close()

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def ask(self, request: dict[str, Any], on_step: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        """Send a request and return its last event: `probe`, `records` or `error`.

        Raises:
            WorkerError: the process died (out of memory, killed); the next request starts a new one.
        """
        if self._process is None:
            self._process = self._start()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({**request, "device": self.device}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # told below, with what the process last said
        for line in process.stdout:
            event: dict[str, Any] = json.loads(line)
            if "step" not in event:
                return event
            if on_step:
                on_step(event["step"], event["steps"])
        code = process.wait()
        self.stop()
        self._log.seek(0)
        last = self._log.read()[-600:].strip()
        reason = "was killed, probably because memory ran out" if code == -9 else f"ended with exit status {code}"
        raise WorkerError(f"the training process {reason}. {last}")

    def _start(self) -> subprocess.Popen[str]:
        threads = str(self.threads)
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
                                    "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        if self.visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.visible
        return subprocess.Popen([sys.executable, "-m", "lorakit.train.worker"], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=self._log, text=True, encoding="utf-8", env=environment)
