"""How much memory this machine, or the container that we are in, still has to give."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

UNKNOWN = 4e9  # bytes, where the system does not say
NEAR = 0.8  # of what is available: a process killed with that much was killed for it


def available_bytes() -> float:
    """Bytes that processes can still take before the system, or the limit of our control group, ends one of them."""
    return min(_machine(), *_groups())


def _machine() -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not on this system
        return UNKNOWN


def _groups(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> list[float]:
    """What each limited control group of ours, and each of its parents, has left; page cache counts as free."""
    left = [float("inf")]
    with contextlib.suppress(OSError):
        for line in membership.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            top = root / "memory" if controllers else root
            names = (("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file") if controllers else
                     ("memory.max", "memory.current", "inactive_file"))
            folder = top / path.strip("/")
            for place in (folder, *folder.parents):  # in a container the path may be the host's: its top is ours then
                if place == top or top in place.parents:
                    left += _left(place, *names)
    return left


def _left(folder: Path, limit: str, usage: str, cache: str) -> list[float]:
    try:
        most, used = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, usage))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return [] if most == "max" else [max(0.0, float(most) - float(used) + float(stat.get(cache, 0)))]
    except (OSError, ValueError):
        return []


def killed_for_memory(peak_bytes: float) -> bool:
    """Whether a process that was killed, and whose memory is free again, had taken nearly all that there was.

    Args:
        peak_bytes: the most memory that it held.
    """
    return peak_bytes >= NEAR * available_bytes()
