"""Whatever happens to a writer, the resumed store equals the uninterrupted one."""

import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from waiting import LONG

import lorakit
from lorakit.durable import StoreError, write_whole
from lorakit.records import Record, Store
from lorakit.specs import SFTSpec

SCRIPT = Path(__file__).with_name("stand_in_trainer.py")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(lorakit.__file__).parents[1])}


def start(what, root, *arguments):
    return subprocess.Popen([sys.executable, SCRIPT, what, root, *map(str, arguments)],
                            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=LONG)
    assert process.returncode == 0, err
    return out


def contents(root):
    return {(r.id, str(r.metrics), str(r.curve)) for r in Store(root).records("cpu", "rank")}


def uninterrupted(root, runs):
    finish(start("train", root, 0, runs))
    assert Store(root).problems == []
    result = contents(root)
    assert len(result) == runs
    return result


def record_of(seed):
    spec = SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, seed=seed)
    return Record.from_run(spec, "ok", {"test_loss": 1.0 + seed}, {}, {"date": "2026-01-01"})


def test_a_file_is_one_of_its_texts_whole_where_threads_write_it(tmp_path):
    texts = [str(number) * 100_000 for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda text: [write_whole(tmp_path / "file", text) for _ in range(20)], texts))
    assert (tmp_path / "file").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_fifty_kills_at_random_points_lose_nothing(tmp_path):
    expected = uninterrupted(tmp_path / "whole", 150)
    assert int(finish(start("kill_often", tmp_path / "killed", 0, 150, 50, 20261121))) == 50
    torn = len(Store(tmp_path / "killed").problems)
    assert torn >= 10, "too few kills fell inside a line for the test to mean anything"
    survivors = contents(tmp_path / "killed")
    assert 20 < len(survivors) < 150
    assert survivors < expected
    finish(start("train", tmp_path / "killed", 0, 150))
    assert contents(tmp_path / "killed") == expected
    whole = [line for line in (tmp_path / "killed/cpu/rank.jsonl").read_bytes().split(b"\n") if line.endswith(b"}}")]
    assert len(whole) == 150, "a run whose line was whole has run again"
    assert len(Store(tmp_path / "killed").problems) == torn


def test_two_writers_at_once(tmp_path):
    expected = uninterrupted(tmp_path / "whole", 100)
    root = tmp_path / "shared"
    root.mkdir()
    writers = [start("train_beside_others", root, 0, 70), start("train_beside_others", root, 30, 100)]
    for writer in writers:
        finish(writer)
    assert Store(root).problems == []
    assert contents(root) == expected


@pytest.mark.parametrize("spare_bytes", [0, 1, 200, 1500])
def test_a_limit_on_file_size_leaves_the_store_as_it_was(tmp_path, spare_bytes):
    expected = uninterrupted(tmp_path / "whole", 12)
    root = tmp_path / "full"
    uninterrupted(root, 5)
    error = json.loads(finish(start("fill_disk", root, 0, 12, spare_bytes)))
    assert error["type"] == "StoreError"
    assert "make room on that disk and run again" in error["message"]
    assert error["kept"] is (spare_bytes < 500)  # 1,500 bytes are room for some whole lines, which then stay
    assert Store(root).problems == []
    assert contents(root) == expected


def fill_after(monkeypatch, written):
    """From now on the disk takes so many bytes, then is full."""
    real, left = os.write, written

    def write(fd, data):
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = real(fd, data[:left])
        left -= count
        return count

    monkeypatch.setattr(os, "write", write)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.append("cpu", "rank", record_of(0))
    path = store.path("cpu", "rank")
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        fill_after(patch, 100)
        with pytest.raises(StoreError, match=r"rank\.jsonl.*make room.*only what is missing will run") as caught:
            store.append("cpu", "rank", record_of(1))
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["rank.jsonl"]
    store.append("cpu", "rank", record_of(1))
    assert store.records("cpu", "rank") == [record_of(0), record_of(1)]


def test_a_disk_so_broken_that_the_half_line_stays_loses_nothing_either(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.append("cpu", "rank", record_of(0))

    def broken(fd, size):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        fill_after(patch, 100)
        patch.setattr(os, "ftruncate", broken)
        with pytest.raises(StoreError):
            store.append("cpu", "rank", record_of(1))
    assert store.records("cpu", "rank") == [record_of(0)]
    store.append("cpu", "rank", record_of(1))
    assert store.records("cpu", "rank") == [record_of(0), record_of(1)]


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "cpu").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="see that the folder can be written to"):
        Store(tmp_path).append("cpu", "rank", record_of(0))


def test_a_torn_last_line_is_skipped_reported_and_never_glued_to(tmp_path):
    store = Store(tmp_path)
    for seed in (0, 1):
        store.append("cpu", "rank", record_of(seed))
    path = store.path("cpu", "rank")
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in [*range(first + 1, len(whole) - 2, 37), len(whole) - 2]:
        path.write_bytes(whole[:cut])
        assert store.records("cpu", "rank") == [record_of(0)]
        assert len(store.problems) == 1
        assert "rank.jsonl:2: skipped, torn last line" in store.problems[0]
        store.append("cpu", "rank", record_of(2))
        assert store.records("cpu", "rank") == [record_of(0), record_of(2)]
        assert path.read_bytes() == whole[:cut] + b"\n" + record_of(2).to_line().encode() + b"\n"
        assert "rank.jsonl:2: skipped: not JSON" in store.problems[0]


def test_a_line_that_lacks_only_its_end_is_whole(tmp_path):
    store = Store(tmp_path)
    store.append("cpu", "rank", record_of(0))
    path = store.path("cpu", "rank")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert store.problems == []
    store.append("cpu", "rank", record_of(1))
    assert store.records("cpu", "rank") == [record_of(0), record_of(1)]


def test_a_line_reaches_the_disk_before_it_counts(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.append("cpu", "rank", record_of(0))
    calls = []
    for name in ("write", "fsync", "replace", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, real=real, name=name: (calls.append(name), real(*args))[1])
    store.append("cpu", "rank", record_of(1))
    assert calls == ["write", "fsync"]
