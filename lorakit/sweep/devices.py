"""Where runs train: which device, how many processes, and which GPU each of them gets."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle, islice

from lorakit.sweep.workers import Worker

DEVICE = re.compile(r"cpu|cuda(:\d+)?")


class DeviceError(RuntimeError):
    """There is a GPU, or one was asked for, and torch cannot use it."""


@dataclass
class Devices:
    """The device that a caller asks for, and the processes that train on it.

    Nothing is asked of torch before `processes` is read: a sweep with nothing to do starts no process.

    Args:
        named: `cpu`, `cuda` (all visible GPUs), one GPU such as `cuda:1`, or None: `$LORAKIT_DEVICE`, else `cuda`
            where an NVIDIA GPU answers, else `cpu`.
        wanted: processes, or None: one a GPU; on a CPU one for each core that this process may use, two at the most.

    Raises:
        ValueError: another device.
        DeviceError: from `processes`; torch cannot use the GPUs, or the one that was named.
    """

    named: str | None = None
    wanted: int | None = None
    device: str = field(init=False)

    def __post_init__(self) -> None:
        named = self.named or os.environ.get("LORAKIT_DEVICE") or default_device()
        if not DEVICE.fullmatch(named):
            raise ValueError(f"device={named!r}; allowed: cpu, cuda (all visible GPUs), or one GPU such as cuda:1")
        self.device = named

    @cached_property
    def names(self) -> list[str]:
        """Of all visible GPUs, as their driver has them; none on a CPU."""
        return [] if self.device == "cpu" else _usable_gpus()

    @cached_property
    def gpus(self) -> list[str]:
        """What `CUDA_VISIBLE_DEVICES` calls each GPU that trains; none on a CPU."""
        if self.device == "cpu":
            return []
        found = self.names
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        visible = given.split(",") if given else [str(i) for i in range(len(found))]
        visible = [name.strip() for name in visible[: len(found)]]
        _, _, number = self.device.partition(":")
        if number and int(number) >= len(visible):
            raise DeviceError(f"nothing was trained: device={self.device!r}, but torch sees {len(visible)} GPUs here: "
                              + ", ".join(f"cuda:{i} ({name})" for i, name in enumerate(found)))
        return [visible[int(number)]] if number else visible

    @cached_property
    def processes(self) -> list[str | None]:
        """For each process its `CUDA_VISIBLE_DEVICES`: one GPU only, so that no library takes the others."""
        if self.device == "cpu":
            return [None] * (self.wanted or _cores())
        return list(islice(cycle(self.gpus), self.wanted or len(self.gpus)))

    def workers(self, runs: int, gpus: int = 1) -> list[Worker]:
        """One for each process, not yet started; never more than there are runs.

        Args:
            gpus: that one run takes together; on a CPU as many processes.

        Raises:
            DeviceError: there are fewer.
        """
        if gpus > 1:
            if self.device == "cpu":
                return [Worker("cpu", shards=gpus)]
            if len(self.gpus) < gpus:
                raise DeviceError(f"nothing was trained: one run asks for gpus={gpus}, and {len(self.gpus)} are "
                                  "visible here: show it more (CUDA_VISIBLE_DEVICES, device='cuda'), or take fewer")
            groups = [self.gpus[i : i + gpus] for i in range(0, len(self.gpus) - gpus + 1, gpus)]
            return [Worker("cuda", visible=",".join(group), shards=gpus) for group in groups[:runs]]
        return [Worker(self.device.partition(":")[0], visible=gpu) for gpu in self.processes[:runs]]

    @property
    def sharing(self) -> int:
        """How many processes share one memory."""
        return -(-len(self.processes) // max(1, len(self.gpus)))


def default_device() -> str:
    """`cuda` where an NVIDIA GPU answers, else `cpu`."""
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    return "cuda" if subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0 else "cpu"


def _usable_gpus() -> list[str]:
    done = subprocess.run([sys.executable, "-m", "lorakit.sweep.device"], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    answer = json.loads(lines[-1]) if lines and done.returncode == 0 else {"error": done.stderr.strip()[-600:]}
    if "error" in answer:
        raise DeviceError(f"nothing was trained: {answer['error']}")
    return list(answer["gpus"])


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(2, cores))
