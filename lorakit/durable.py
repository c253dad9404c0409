"""Lines in a file that survive a kill, two writers and a full disk: appended durably."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import lock_descriptor


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


def require_writable(folder: Path, file: Path | None = None) -> None:
    """Make a folder, and see that it takes files and that `file`, if it exists in it, takes lines.

    Raises:
        StoreError: a full disk, no permission, or a file where the folder should be.
    """
    with _store_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            _write(probe.fileno(), bytes(2**16))
    if file is not None and file.exists():
        with _store_errors(file), file.open("ab"):
            pass


def write_whole(path: Path, text: str) -> None:
    """Put a text into a file, whole or not at all, whatever else on this machine writes or reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, made if need be and held by this process alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    fd = os.open(path, _flags(os.O_RDWR | os.O_CREAT), 0o644)
    try:
        lock_descriptor(fd, poll_interval=0.01)
        if is_new:
            sync_folder(path.parent)
        yield fd
    finally:
        os.close(fd)


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


def sync_folder(folder: Path) -> None:
    """See that a file that was put into a folder, or replaced in it, is so after a loss of power."""
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
