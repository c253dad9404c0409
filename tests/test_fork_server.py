"""Workers that are forked from a server: what they inherit, what they do not, and when they end."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from waiting import LONG

from lorakit.specs import SFTSpec
from lorakit.sweep import fork_server
from lorakit.sweep.fork_server import ForkedProcess
from lorakit.sweep.workers import Worker, WorkerError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")

SAYS = """
import json, os, sys
raise RuntimeError(json.dumps({"folder": os.getcwd(), "variable": os.environ["LORAKIT_TEST"], "parent": os.getppid(),
                               "threads": os.environ["OMP_NUM_THREADS"], "torch": "torch" in sys.modules}))
"""

WITHOUT_IMPORTS = """
import sys, types
if 'lorakit.sweep.fork_server' in sys.orig_argv:
    sys.modules['lorakit.sweep.worker'] = types.ModuleType('lorakit.sweep.worker')
"""


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def started(worker: Worker) -> ForkedProcess:
    process = worker._process = worker._start()
    assert isinstance(process, ForkedProcess)
    return process


@pytest.fixture
def server_without_imports(tmp_path, monkeypatch):
    """This process has another server for a while, which imports next to nothing."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_IMPORTS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(fork_server, "_server", None)
    yield
    fork_server._server.stop()


def test_workers_share_a_server_and_have_folder_path_and_variables_of_now(tmp_path, monkeypatch):
    (tmp_path / "says_now.py").write_text(SAYS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LORAKIT_TEST", "a value")
    spec = SFTSpec(model="tiny-w32-s0", dataset="new-skills", learning_rate=1e-3)
    with Worker("cpu") as first, Worker("cpu", threads=3) as other:
        server = parent_of(started(first).pid)
        found = other.ask({"do": "run", "engine": "packed", "specs": [spec.to_json()], "sources": ["says_now:SOURCE"]})
    assert json.loads(found["error"].removeprefix("RuntimeError: ")) == {
        "folder": str(tmp_path), "variable": "a value", "parent": server, "threads": "3",
        "torch": True}, "torch was imported before the fork"


@pytest.mark.usefixtures("server_without_imports")
def test_how_a_worker_ended_and_what_it_held_are_known():
    with Worker("cpu") as worker:
        process = started(worker)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
        assert 1e6 < process.peak_bytes < 1e9


@pytest.mark.usefixtures("server_without_imports")
def test_a_variable_that_a_library_may_read_starts_another_server(monkeypatch):
    with Worker("cpu") as worker, Worker("cpu") as other:
        started(worker)
        server = fork_server._server
        monkeypatch.setenv("LORAKIT_TEST", "1")
        started(other)
        other.stop()
        monkeypatch.setenv("HF_HUB_TEST", "1")
        other._process = other._start()
        assert not isinstance(other._process, ForkedProcess), "a worker of the server still lives"
        assert fork_server._server is server
        other.stop(), worker.stop()
        started(other)
        assert fork_server._server is not server
        assert server.ended()


@pytest.mark.usefixtures("server_without_imports")
def test_a_server_that_was_killed_takes_its_workers_along_and_is_replaced():
    with Worker("cpu") as worker:
        started(worker)
        server = fork_server._server._process
        server.kill(), server.wait()
        with pytest.raises(WorkerError, match="was ended by SIGKILL"):
            worker.ask({"do": "probe", "specs": []})
        started(worker)


@pytest.mark.usefixtures("server_without_imports")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_server_ends_with_its_parent_even_where_a_copy_of_the_parent_lives_on():
    with Worker("cpu") as worker:
        process, server = started(worker), fork_server._server
        ends, held = os.pipe()
        if (copy := os.fork()) == 0:
            os.close(held)
            os.read(ends, 1)
            os._exit(0)
        try:
            server._connection.close()  # as the end of this process would
            assert server._process.wait(timeout=LONG) == 0
        finally:
            os.close(ends), os.close(held)
            os.waitpid(copy, 0)
        assert process.stdout.read() == "", "its end of the pipe is closed: it has ended too"
