"""Worker processes for a CPU on Linux, forked from one that has imported torch and transformers already.

Their imports take seconds; a fork takes some hundredths, and shares the memory of the imports. The server imports and
forks, and does nothing else: what a worker loads and trains ends with the worker. It has one connection, to the process
that started it, and ends with that process, and its workers with it.

    request   {"do": "start", "folder": …, "path": [sys.path], "environment": {…}} and three handles: the worker's
              standard input, output and error
              {"do": "kill" | "wait", "pid": 123}
    answer    the process id to `start` (null where no process could be forked), and [exit status, most bytes held] to
              `wait`
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import IO, Any

OURS = ("LORAKIT_", "PYTEST_")  # variables that no import depends on


class ForkedProcess:
    """A worker that a server forked, with the methods of `subprocess.Popen` that workers need.

    Args:
        server: its parent.
        pid: of the worker.
        stdin, stdout: this side of its pipes.
    """

    def __init__(self, server: ForkServer, pid: int, stdin: IO[str], stdout: IO[str]) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None
        self.peak_bytes = 0.0
        self._server = server

    def __enter__(self) -> ForkedProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        try:
            self.stdin.close()
        finally:
            self.wait()

    def kill(self) -> None:
        """End it at once."""
        if self.returncode is None:
            with contextlib.suppress(OSError, EOFError):  # the server has ended, and its workers with it
                self._server.ask({"do": "kill", "pid": self.pid})

    def wait(self) -> int:
        """Its exit status, as soon as it has ended; `peak_bytes` is then the most that it held."""
        if self.returncode is None:
            try:
                self.returncode, self.peak_bytes = self._server.ask({"do": "wait", "pid": self.pid})
            except (OSError, EOFError):
                self.returncode = -signal.SIGKILL
        return self.returncode


class ForkServer:
    """The server of this process, started with its environment.

    Args:
        environment: of the server; a worker may have another.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment, self.living = _of_imports(os.environ), 0
        self._lock = threading.Lock()
        self._connection, there = Pipe()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lorakit.sweep.fork_server", str(there.fileno())], env=environment,
                pass_fds=[there.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL)

    def ask(self, request: dict[str, Any], handles: list[int] | None = None) -> Any:
        """What the server answers; raises OSError or EOFError where it has ended."""
        with self._lock:
            try:
                self._connection.send_bytes(json.dumps(request).encode())
                for handle in handles or ():
                    send_handle(self._connection, handle, self._process.pid)
                answer = json.loads(self._connection.recv_bytes())
            except BaseException:  # interrupted: its next answer would be to this request
                self._connection.close()
                raise
            self.living += {"start": answer is not None, "wait": -1}.get(request["do"], 0)
            return answer

    def fork(self, environment: dict[str, str], path: list[str], log: IO[str]) -> ForkedProcess:
        """A worker with this environment and `sys.path`, in the folder of this process."""
        (there_in, here_in), (here_out, there_out) = os.pipe(), os.pipe()
        stdin, stdout = os.fdopen(here_in, "w", encoding="utf-8"), os.fdopen(here_out, encoding="utf-8")
        try:
            pid = self.ask({"do": "start", "folder": str(Path.cwd()), "path": path,
                            "environment": environment}, [there_in, there_out, log.fileno()])
            if pid is None:
                raise OSError("no process could be forked")
        except BaseException:
            for pipe in (stdin, stdout):
                pipe.close()
            raise
        finally:
            for handle in (there_in, there_out):
                os.close(handle)
        return ForkedProcess(self, pid, stdin, stdout)

    def ended(self) -> bool:
        """Whether it was killed, or could not import."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """End the server and its workers."""
        self._connection.close()
        self._process.wait()

    def forget(self) -> None:
        """Close what a copy of this process got of the connection, so that the server ends with the first."""
        self._connection.close()


_server: ForkServer | None = None
_starting = threading.Lock()


def fork(environment: dict[str, str], path: list[str], log: IO[str]) -> ForkedProcess | None:
    """A forked worker, or None where it has to be started as a process of its own.

    A variable of the environment that changed since the server started may be one that a library reads when it is
    imported: another server is started then, unless workers of the first still train.
    """
    global _server
    if sys.platform != "linux":
        return None
    with _starting:
        if _server is not None:
            same, ended = _server.environment == _of_imports(os.environ), _server.ended()
            if not same and _server.living and not ended:
                return None
            if not same or ended:
                _server.stop()
                _server = None
        try:
            _server = _server or ForkServer(environment)
            return _server.fork(environment, path, log)
        except (OSError, EOFError):  # it could not import, or was killed
            return None


def _of_imports(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(OURS)}


@atexit.register
def _stop() -> None:
    if _server is not None:
        _server.stop()


def _forget() -> None:
    global _server, _starting
    if _server is not None:
        _server.forget()
    _server, _starting = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def main() -> None:
    """Import what training needs, then fork on request until the parent has ended."""
    connection = Connection(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: each worker hears it itself
    import lorakit.sweep.worker  # noqa: F401 - all that the workers share

    gc.freeze()  # workers then share the pages of what was imported
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            os._exit(0)
        if request["do"] == "start":
            answer: Any = _start(connection, request)
        elif request["do"] == "kill":
            with contextlib.suppress(ProcessLookupError):  # it was waited for meanwhile
                os.kill(request["pid"], signal.SIGKILL)
            answer = None
        else:
            _, status, usage = os.wait4(request["pid"], 0)
            answer = [os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024]
        connection.send_bytes(json.dumps(answer).encode())


def _start(connection: Connection, request: dict[str, Any]) -> int | None:
    handles, parent = [recv_handle(connection) for _ in range(3)], os.getpid()
    try:
        pid: int | None = os.fork()
    except OSError:  # no room for another process: the living ones go on
        pid = None
    if pid == 0:
        try:
            connection.close()
            _become_worker(handles, request, parent)
        except BaseException:  # noqa: BLE001 - said in the log of the worker
            traceback.print_exc()
        finally:
            os._exit(1)
    for handle in handles:
        os.close(handle)
    return pid


def _become_worker(handles: list[int], request: dict[str, Any], parent: int) -> None:
    for standard, handle in enumerate(handles):
        os.dup2(handle, standard)
        os.close(handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[:] = dict.fromkeys([*request["path"], *sys.path])
    importlib.invalidate_caches()
    from lorakit.sweep.worker_process import serve

    serve(parent)


if __name__ == "__main__":
    main()
