"""Which runs a process is training, so that another one on the same store leaves them to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout


class Reservations:
    """Locks on runs, one file each, which the system opens again when their owner ends, however it ends.

    Args:
        root: of the store; the files lie in its folder `.running`.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / ".running"
        self._locks: dict[str, FileLock] = {}

    def take(self, names: Iterable[str]) -> list[str]:
        """Reserve these runs; returns the ones that no other process holds."""
        taken = []
        for name in names:
            lock = FileLock(self.folder / f"{name}.lock", blocking=False, thread_local=False)
            # Held; or the folder, which the lock makes, has just been taken away: mkdir then says that it exists.
            with contextlib.suppress(Timeout, FileNotFoundError, FileExistsError):
                lock.acquire()
                self._locks[name] = lock
                taken.append(name)
        return taken

    def release(self, names: Iterable[str]) -> None:
        """Give runs back, and take the traces away."""
        for name in list(names):
            if (lock := self._locks.pop(name, None)) is not None:
                Path(lock.lock_file).unlink(missing_ok=True)  # held, so nobody else is in it
                lock.release()
        with contextlib.suppress(OSError):  # others are at work
            self.folder.rmdir()
