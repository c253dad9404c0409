"""On a real GPU: `pytest -m gpu`. Without one they are skipped, or fail where LORAKIT_GPU=1 promises it."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from test_cuda import ENGINES, SFT

from lorakit.specs import vary
from lorakit.sweep import sweeps
from lorakit.sweep.devices import default_device

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _a_gpu():
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
