"""Shards: parts of a list of specs that need no common list, disk or process."""

from __future__ import annotations

import random
import shutil

import pytest

import lorakit as lk
from lorakit.cli import main
from lorakit.packed.packing import pack_key, work
from lorakit.records import Store
from lorakit.sweep.shards import ShardError, read_shard, shard_of

SWEEP = """
model: tiny-w32-s0
batch_size: 2
evaluations: 2
evaluation_tokens: 64
grid: {steps: [3, 4], rank: [2, null], learning_rate: [1e-3], seed: [0, 1]}
"""


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_shards_hold_each_run_once_and_about_as_much_work(count):
    base = lk.SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3)
    specs = lk.vary(base, steps=[100, 200], rank=[1, 16, None], seed=range(12))
    parts = [shard_of(specs, number, count) for number in range(1, count + 1)]
    assert sorted(spec.id for part in parts for spec in part) == sorted(spec.id for spec in specs)
    loads = [sum(map(work, part)) for part in parts]
    largest = max(sum(work(spec) for spec in part if pack_key(spec) == key)
                  for part in parts for key in {pack_key(spec) for spec in part})
    assert max(loads) - min(loads) <= largest
    assert parts == [shard_of([*specs, *specs[:5]], number, count) for number in range(1, count + 1)]


def test_neighbours_of_one_shape_stay_together():
    base = lk.SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3)
    specs = lk.vary(base, rank=[1, 16, 64, None], seed=range(4))
    random.Random(0).shuffle(specs)
    assert all(len({pack_key(spec) for spec in shard_of(specs, number, 4)}) == 1 for number in range(1, 5))


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "3/", "3/0", "-1/8", "a/b", "3/8/2", "1.0/2", "٣/8"])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(ShardError, match="allowed: I/N, the I-th of N parts, such as 3/8, with I from 1 to N"):
        read_shard(text)


def test_the_union_of_shards_is_the_store_of_the_whole(tmp_path, capsys):
    file, whole, union = tmp_path / "sweep.yaml", tmp_path / "whole", tmp_path / "union"
    file.write_text(SWEEP)
    assert main(["run", str(file), "--store", str(whole), "--processes", "1", "--quiet"]) == 0
    union.mkdir()
    for number in (1, 2):  # each on a machine of its own
        store = tmp_path / f"machine-{number}"
        assert main(["run", str(file), "--store", str(store), "--shard", f"{number}/2", "--processes", "1",
                     "--quiet"]) == 0
        (made,) = store.glob("*.jsonl")
        assert made.name == f"runs-{number}of2.jsonl"
        shutil.copy(made, union)
    lines = [line for path in union.iterdir() for line in path.read_text().splitlines()]
    merged, expected = ({record.id: record for record in Store(root).records(None, "runs")} for root in (union, whole))
    assert merged.keys() == expected.keys()
    assert len(lines) == len(expected) == 8
    for run, record in expected.items():
        assert merged[run].metrics == pytest.approx(record.metrics, abs=1e-6)
    capsys.readouterr()
    assert main(["run", str(file), "--store", str(union), "--quiet"]) == 0
    assert "8 of 8 runs recorded" in capsys.readouterr().out
    assert sorted(path.name for path in union.iterdir()) == ["runs-1of2.jsonl", "runs-2of2.jsonl"], "nothing new"
    assert main(["run", str(file), "--store", str(union), "--shard", "9/9"]) == 0
    assert "shard 9/9 holds no run" in capsys.readouterr().out
    assert main(["run", str(file), "--store", str(union), "--shard", "10/9"]) == 1
    assert "shard '10/9'; allowed: I/N" in capsys.readouterr().err
