"""Worker processes that train: started, asked, and replaced when they die."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lorakit.sources import sources
from lorakit.sweep import fork_server
from lorakit.sweep.host_memory import killed_for_memory

SEVERAL_GPUS = Path(__file__).with_name("several_gpus.yaml")  # accelerate's configuration


class WorkerError(RuntimeError):
    """A worker process ended while it was working; the message says how.

    Args:
        message: how it ended, with what it last said.
        out_of_memory: it was killed while it held nearly all memory that there was.
    """

    def __init__(self, message: str, out_of_memory: bool = False) -> None:
        super().__init__(message)
        self.out_of_memory = out_of_memory


def is_last(event: dict[str, Any]) -> bool:
    """Whether an event ends the answer to a request."""
    return not event.keys() & {"step", "warning"}


class Worker:
    """One process of `lorakit.sweep.worker_process`, started at the first request. Use as a context manager.

    For a CPU it is forked from a process that has imported torch and transformers (`lorakit.sweep.fork_server`, Linux);
    for a GPU, and for a run of several processes, it is started anew, since CUDA does not survive a fork.

    Args:
        device: `cpu` or `cuda`.
        threads: of the process.
        visible: `CUDA_VISIBLE_DEVICES` of the process, None for that of this one.
        shards: processes that train one run together, each with a share of its weights; the first speaks for all.
    """

    def __init__(self, device: str, threads: int = 1, visible: str | None = None, shards: int = 1) -> None:
        self.device, self.threads, self.visible, self.shards = device, threads, visible, shards
        self._process: subprocess.Popen[str] | fork_server.ForkedProcess | None = None
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed on exit

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._log.close()

    def kill(self) -> None:
        """End what the process is doing; whoever waits for its answer gets a WorkerError."""
        if (process := self._process) is not None:
            process.kill()

    def stop(self) -> None:
        """End the process and give all it held back; the next request starts a new one."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError), process:  # what was not sent is lost
                process.kill()

    def placed(self) -> contextlib.AbstractContextManager[None]:
        """While a pack trains: here a processor waits for the worker already."""
        return contextlib.nullcontext()

    def rest(self) -> None:
        """Give back what others may need while there is no pack to train: here nothing."""

    def ask(self, request: dict[str, Any], on_step: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """Send a request and return its last event, the one without `step` or `warning`; `on_step` gets the others.

        Raises:
            WorkerError: the process ended (killed, out of memory); the next request starts a new one.
        """
        for event in self.events(request):
            if on_step and not is_last(event):
                on_step(event)
        return event

    def events(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Send a request and give its events as they come, until the last one; raises as `ask` does."""
        if self._process is None:
            self._process = self._start()
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps({"sources": list(sources()), **request, "device": self.device}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # said below, with what the process last said
        for line in process.stdout:
            if not line.endswith("\n"):  # it was ended while it wrote
                break
            event: dict[str, Any] = json.loads(line)
            yield event
            if is_last(event):
                return
        code, peak_bytes = _end(process)
        self.stop()
        out_of_memory = code == -9 and killed_for_memory(peak_bytes)
        how = f"ended with exit status {code}" if code >= 0 else f"was ended by {_signal(-code)}"
        if out_of_memory:
            how += f" while it held {peak_bytes / 1e9:.1f} GB, nearly all memory that there was"
        self._log.seek(0)
        last = self._log.read()[-600:].strip()
        raise WorkerError(f"the training process {how}. {last}".strip(), out_of_memory)

    def launcher(self) -> list[str]:
        """What starts the process, or all that share a run: accelerate on GPUs; on a CPU it would start one alone."""
        if self.shards == 1:
            return [sys.executable]
        if self.device == "cpu":
            return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={self.shards}"]
        return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(SEVERAL_GPUS),
                "--num_processes", str(self.shards)]

    def _start(self) -> subprocess.Popen[str] | fork_server.ForkedProcess:
        threads = str(self.threads)
        paths = [path for path in (os.environ.get("PYTHONPATH"), *sys.path) if path]  # it finds what we find
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
                                    "LORAKIT_SHARDS_ON": self.device, "TOKENIZERS_PARALLELISM": "false",
                                    "PYTHONUNBUFFERED": "1",
                                    "PYTHONPATH": os.pathsep.join(paths)}
        if self.visible is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.visible
        if self.device == "cpu" and self.shards == 1:
            here = [str(Path.cwd()), *environment["PYTHONPATH"].split(os.pathsep)]
            if (forked := fork_server.fork(environment, here, self._log)) is not None:
                return forked
        return subprocess.Popen([*self.launcher(), "-m", "lorakit.sweep.worker_process", str(os.getpid())],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
                                encoding="utf-8", env=environment)


def _end(process: subprocess.Popen[str] | fork_server.ForkedProcess) -> tuple[int, float]:
    """Wait for a process; its exit status and the most bytes that it held (0 where the system does not say)."""
    if isinstance(process, fork_server.ForkedProcess):
        return process.wait(), process.peak_bytes
    if hasattr(os, "wait4"):
        with contextlib.suppress(ChildProcessError):  # somebody else waited for it
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, float(usage.ru_maxrss) * (1 if sys.platform == "darwin" else 1024)
    return process.wait(), 0.0


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
