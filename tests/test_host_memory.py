"""What is left to a process, by the machine and by its control groups."""

from __future__ import annotations

import math

from lorakit.sweep import host_memory

GB = 10**9


def group(folder, limit, used, cache, second=True):
    names = ("memory.max", "memory.current", "inactive_file") if second else (
        "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip((*names[:2], "memory.stat"), (limit, used, f"anon 1\n{names[2]} {cache}"), strict=True):
        (folder / name).write_text(f"{text}\n")


def test_the_tightest_control_group_counts_and_its_page_cache_is_free(tmp_path):
    group(tmp_path / "box", 8 * GB, 6 * GB, GB)
    group(tmp_path / "box/job", "max", 5 * GB, 0)
    (tmp_path / "membership").write_text("0::/box/job\n")
    assert min(host_memory._groups(tmp_path, tmp_path / "membership")) == 3 * GB
    group(tmp_path / "memory", 4 * GB, 3 * GB, 0, second=False)  # of a container, whose own path is the host's
    (tmp_path / "membership").write_text("4:memory:/of/the/host\n0::/\n")
    assert min(host_memory._groups(tmp_path, tmp_path / "membership")) == GB
    assert min(host_memory._groups(tmp_path, tmp_path / "absent")) == math.inf


def test_only_a_process_that_held_nearly_all_was_killed_for_memory(monkeypatch):
    assert host_memory.available_bytes() > 0
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 8.0 * GB)
    assert host_memory.killed_for_memory(7.5 * GB)
    assert not host_memory.killed_for_memory(0.6 * GB)
