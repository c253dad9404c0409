"""On a real GPU: `pytest -m gpu`. Without one they are skipped, or fail where LORAKIT_GPU=1 promises it."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from plain_training import data, largest_difference, spec, tiny
from test_cuda import ENGINES, SFT
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel

from lorakit.packed.engine import train_pack
from lorakit.specs import vary
from lorakit.sweep import sweeps
from lorakit.sweep.devices import default_device

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _a_gpu():
    require_gpu()


def require_gpu():
    if os.environ.get("LORAKIT_GPU") != "1" and default_device() == "cpu":
        pytest.skip("no GPU here, and none was promised (LORAKIT_GPU=1)")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("base", "engine"), ENGINES.values(), ids=ENGINES)
def test_every_engine_trains_to_its_record(tmp_path, base, engine, dtype):
    specs = vary(replace(base, dtype=dtype), rank=[2, None])
    records = sweeps.run(specs, tmp_path, engine=engine, device="cuda", progress=False)
    assert [record.status for record in records] == ["ok", "ok"]
    assert all(record.provenance["peak_bytes"] > 0 for record in records)


def test_losses_are_those_of_a_cpu(tmp_path):
    specs = vary(replace(SFT, dtype="float64", steps=10), rank=[2, None], seed=range(2))
    there, here = (sweeps.run(specs, tmp_path / device, device=device, progress=False) for device in ("cuda", "cpu"))
    for one, other in zip(there, here, strict=True):
        assert one.metrics["test_loss"] == pytest.approx(other.metrics["test_loss"], rel=1e-6)


def test_tf32_rounds_float32_products_and_nothing_else(tmp_path):
    plain = replace(SFT, steps=10, batch_size=8)
    records = sweeps.run(vary(plain, tf32=[True, False]), tmp_path, device="cuda", progress=False)
    rounded, exact = (record.metrics["test_loss"] for record in records)
    assert rounded == pytest.approx(exact, rel=1e-2)
    assert rounded != exact


@pytest.mark.parametrize("fields", [{}, {"micro_batch": 1, "accumulation": 2}, {"recompute": True}], ids=str)
@pytest.mark.parametrize("rank", [4, None])
def test_cuda_graphs_take_the_same_steps(monkeypatch, rank, fields):
    """Replayed at every step but the first few; with recompute, layers are compiled and become no graphs."""
    replay, replays = torch.cuda.CUDAGraph.replay, []
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: replays.append(graph) or replay(graph))
    chosen = [spec(rank=rank, dtype="float64", steps=6, seed=seed, **fields) for seed in range(2)]
    plain = train_pack(chosen, tiny(dtype=torch.float64, layers=4).to("cuda"), data())
    assert not replays
    counters.clear()
    found = train_pack([replace(one, torch_compile=True) for one in chosen],
                       tiny(dtype=torch.float64, layers=4).to("cuda"), data())
    assert counters["stats"]["unique_graphs"] >= 1, "nothing was compiled"
    graphs = {id(graph) for graph in replays}
    assert len(graphs) < len(replays) if not fields.get("recompute") else not replays
    assert max(largest_difference(one.curve, other.curve) for one, other in zip(found, plain, strict=True)) <= 1e-6


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("rank", [4, None])
def test_sixteen_bits_run_on_the_flash_kernel_alone(rank, compiles):
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        (result,) = train_pack([spec(rank=rank, dtype="bfloat16", steps=3, torch_compile=compiles)],
                               tiny(dtype=torch.bfloat16).to("cuda"), data())
    assert result.status == "ok"
