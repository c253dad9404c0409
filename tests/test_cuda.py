"""The GPU path on a machine without a GPU: a stand-in for CUDA in the worker processes (`cuda_stand_in`)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest

from lorakit.grpo_spec import GRPOSpec
from lorakit.records import Record, Store
from lorakit.specs import LoRASpec, SFTSpec, vary
from lorakit.sweep import sweeps
from lorakit.sweep.devices import DeviceError, Devices
from lorakit.sweep.workers import Worker

SFT = SFTSpec(model="tiny-w32-s0", dataset="new-skills", learning_rate=1e-3, steps=2, batch_size=2,
              evaluations=2, evaluation_tokens=64, lora=LoRASpec(rank=2))
RL = GRPOSpec(model="tiny-w32-s0", task="copy", learning_rate=1e-3, steps=2, prompts_per_step=2, group_size=2,
              max_completion_length=4, evaluations=2, evaluation_problems=4, lora=LoRASpec(rank=2))
HOPPER, ADA = "NVIDIA H100 80GB HBM3", "NVIDIA L40S"


@pytest.fixture(scope="module")
def gpu_worker(machine):
    """One training process on a GPU, for all that need nothing of their own."""
    machine(HOPPER)
    with Worker("cuda") as worker:
        yield worker


def ask(worker: Worker, specs, engine: str = "packed", do: str = "run"):
    event = worker.ask({"do": do, "engine": engine, "specs": [spec.to_json() for spec in specs]})
    assert "error" not in event, event.get("traceback", event["error"])
    return event["probe"] if do == "probe" else [Record.from_json(record) for record in event["records"]]


ENGINES = {"sft-packed": (SFT, "packed"), "sft-trl": (SFT, "trl"), "sft-peft": (SFT, "peft"),
           "rl-packed": (RL, "packed"), "rl-trl": (RL, "trl")}


@pytest.mark.parametrize(("base", "engine"), ENGINES.values(), ids=ENGINES)
def test_every_engine_trains_on_a_gpu_up_to_its_record(gpu_worker, base, engine):
    for dtype, lora in product(("float32", "bfloat16"), (base.lora, None)):
        pack = [replace(base, dtype=dtype, lora=lora, seed=seed, tf32=dtype == "float32")
                for seed in range(2 if engine == "packed" else 1)]
        records = ask(gpu_worker, pack, engine)
        assert [record.id for record in records] == [spec.id for spec in pack]
        for record in records:
            assert record.status == "ok"
            assert record.provenance["device"] == HOPPER
            assert record.provenance["peak_bytes"] > 0
            assert record.metrics["delta_norm"] >= (record.spec["kind"] == "sft") * 1e-9


@pytest.mark.parametrize("base", [SFT, RL], ids=["sft", "rl"])
def test_a_probe_counts_the_memory_of_the_gpu(gpu_worker, base):
    facts = ask(gpu_worker, [base], do="probe")
    assert facts["free_bytes"] == 80e9
    assert 0 < facts["bytes"] < 80e9


def test_each_pack_has_its_own_peak(gpu_worker):
    large, small = ((replace(SFT, batch_size=size),) for size in (64, 1))
    peaks = [ask(gpu_worker, pack)[0].provenance["peak_bytes"] for pack in (small, large, small)]
    assert peaks[0] == peaks[2] < peaks[1]


def test_a_sweep_uses_every_visible_gpu_one_process_each(machine, tmp_path):
    seen = machine(HOPPER, ADA)
    records = sweeps.run(vary(SFT, rank=[2, None], seed=range(2)), tmp_path)
    assert {record.provenance["device"] for record in records} == {HOPPER, ADA}
    assert sorted(seen.read_text().split()) == ["0", "1", "None"]  # one to ask what there is
    assert len(Store(tmp_path).records(None, "runs")) == 4


def test_devices_are_the_visible_ones(machine, monkeypatch):
    machine()
    assert Devices().device == "cuda"
    monkeypatch.setattr("lorakit.sweep.devices._usable_gpus", lambda: ["C", "A"])
    assert Devices().gpus == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    asked = Devices("cuda:1")
    assert asked.processes == ["0"]
    two = Devices("cuda", 3)
    assert two.processes == ["2", "0", "2"]
    assert two.sharing == 2
    with pytest.raises(DeviceError, match=r"device='cuda:2', but torch sees 2 GPUs here: cuda:0 \(C\), cuda:1 \(A\)"):
        Devices("cuda:2").processes  # noqa: B018 - asks torch


def test_on_a_cpu_nothing_is_asked(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    assert Devices("cpu", 3).processes == [None] * 3
    assert Devices("cpu", 3).sharing == 3
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("LORAKIT_DEVICE", raising=False)
    assert Devices().device == "cpu"


@pytest.mark.parametrize(("stand_in", "visible", "why"), [
    (False, None, "built without CUDA"),
    (True, "", "sees none, since CUDA_VISIBLE_DEVICES='': unset it"),
    (True, None, "finds none: does the driver answer"),
])
def test_a_gpu_that_torch_cannot_use_stops_the_sweep_before_it_starts(machine, monkeypatch, tmp_path, stand_in, visible,
                                                                      why):
    machine(*[HOPPER] * (visible is not None), stand_in=stand_in)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(DeviceError, match=f"nothing was trained: .*{why}.*device='cpu'"):
        sweeps.run([SFT], tmp_path)
    assert not list(tmp_path.rglob("*.jsonl"))


@pytest.mark.parametrize("device", ["gpu", "cuda0", "CUDA", "cuda:", "mps"])
def test_a_misspelt_device_is_refused_in_words(device, tmp_path):
    with pytest.raises(ValueError, match=r"allowed: cpu, cuda .all visible GPUs., or one GPU such as cuda:1"):
        sweeps.run([SFT], tmp_path, device=device)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_run_takes_the_micro_batches_that_fit_its_gpu(gpu_worker, machine):
    """The same run on a large card, and on one that holds a part of its batch only."""
    spec = replace(SFT, batch_size=32, max_length=64, steps=1)
    (whole,) = ask(gpu_worker, [spec])
    machine(ADA, memory=4.5e6)
    with Worker("cuda") as worker:
        (record,) = ask(worker, [spec])
    assert record.provenance["peak_bytes"] <= 4.5e6 < whole.provenance["peak_bytes"]
    assert record.id == spec.id
    assert record.spec["micro_batch"] < 32
    assert record.metrics["train_loss"] == pytest.approx(whole.metrics["train_loss"], rel=1e-6)


def test_gpu_tests_run_where_a_gpu_is_and_fail_where_one_was_promised(machine, monkeypatch, tmp_path):
    import test_gpu

    def one(folder):
        test_gpu.require_gpu()
        test_gpu.test_every_engine_trains_to_its_record(tmp_path / folder, SFT, "packed", "float32")

    assert test_gpu.pytestmark.name == "gpu"
    machine(ADA)
    monkeypatch.setenv("LORAKIT_GPU", "0")
    one("there")
    machine(stand_in=False)
    monkeypatch.setenv("PATH", os.pathsep.join(os.environ["PATH"].split(os.pathsep)[1:]))
    with pytest.raises(pytest.skip.Exception, match="no GPU here, and none was promised"):
        one("here")
    monkeypatch.setenv("LORAKIT_GPU", "1")
    with pytest.raises(DeviceError, match="nothing was trained"):
        one("here")


def test_no_worker_takes_the_stand_in_for_its_own():
    assert not [place for place in sys.path if place.endswith("cuda_stand_in")], "collected: see norecursedirs"
