"""Lines in a file that survive a kill, two writers and a full disk: appended durably, or replaced all or none."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl


class StoreError(OSError):
    """The disk refused a write; everything written before is still there."""


def append_line(path: Path, line: bytes) -> None:
    r"""Add a line, durably and alone: when this returns, it is on the disk, whole.

    Half a line that a killed writer left stays in the file, on a line of its own.

    Args:
        line: without its end.

    Raises:
        StoreError: a full disk, or no permission; the file is as it was before.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "new" / "file"
    >>> append_line(path, b"one")
    >>> append_line(path, b"two")
    >>> path.read_bytes()
    b'one\ntwo\n'
    """
    with _store_errors(path), _locked(path) as fd:
        size = os.lseek(fd, 0, os.SEEK_END)
        start = b"\n" if size and _last_byte(path) != b"\n" else b""
        try:
            _write(fd, start + line + b"\n")
        except OSError:
            with contextlib.suppress(OSError):  # should this fail, too, readers skip the half line
                os.ftruncate(fd, size)
            raise


def rewrite_lines(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace every line by `change(line)`, all or none, while other writers wait.

    Raises:
        FileNotFoundError: there is no such file.
        StoreError: a full disk, or no permission; the file is as it was before.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: there is nothing to change")
    new = path.with_name(path.name + ".tmp")
    with _store_errors(path), _locked(path) as held:
        data = b"\n".join(change(line) for line in path.read_bytes().split(b"\n"))
        try:
            fd = os.open(new, _flags(os.O_WRONLY | os.O_CREAT | os.O_TRUNC), os.fstat(held).st_mode & 0o777)
            try:
                _write(fd, data)
            finally:
                os.close(fd)
            new.replace(path)
            _sync_folder(path.parent)
        finally:
            new.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, made if need be and held by this process alone."""
    if sys.platform == "win32":
        warnings.warn("no file locks on Windows: let only one process at a time write records",
                      RuntimeWarning, stacklevel=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        is_new = not path.exists()
        fd = os.open(path, _flags(os.O_RDWR | os.O_CREAT), 0o644)
        try:
            if sys.platform != "win32":
                fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_at(fd, path):
                if is_new:
                    _sync_folder(path.parent)
                yield fd
                return
        finally:
            os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    """False when `rewrite_lines` put another file there while this process waited for the lock."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _flags(flags: int) -> int:
    return flags | getattr(os, "O_BINARY", 0)  # Windows would write \r\n


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data):]  # a nearly full disk takes less than it is given
    os.fsync(fd)


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = ("make room on that disk" if full
                  else "see that the folder can be written to and that its file system has locks")
        message = (f"could not write {path} ({error.strerror}); {advice} and run again: "
                   "all earlier records are kept, and only what is missing will run")
        raise StoreError(error.errno, message) from error
