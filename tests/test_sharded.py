"""One run on several GPUs: on this machine two processes of a CPU, with the code that shares weights on GPUs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn
from torch.distributed.tensor import DTensor

from lorakit.grpo_spec import GRPOSpec
from lorakit.reference.sharded import ShardError, require_shards, shard
from lorakit.specs import LoRASpec, SFTSpec, SpecError
from lorakit.sweep import sweeps
from lorakit.sweep.call import check_engine, check_specs, engine_of
from lorakit.sweep.devices import DeviceError, Devices
from lorakit.sweep.worker import run_specs
from lorakit.sweep.workers import SEVERAL_GPUS

FULL = SFTSpec(model="tiny-w32-s0", dataset="reworded-skills", learning_rate=1e-3, steps=4, batch_size=4,
               accumulation=2, evaluations=3, evaluation_tokens=64, lora=None, max_grad_norm=1.0)
LORA = replace(FULL, lora=LoRASpec(rank=2))


def shares(subject):
    """How many weights lie in shares on two processes, and how many are whole."""
    cut = [isinstance(p, DTensor) and p.device_mesh.size() == 2 and p.to_local().numel() < p.numel()
           for p in subject.model.parameters()]
    return [{"cut": sum(cut), "whole": len(cut) - sum(cut)}]


def test_two_processes_with_a_share_each_train_as_one_with_all(tmp_path):
    specs = [replace(FULL, gpus=2), replace(LORA, gpus=2)]
    together = sweeps.run(specs, tmp_path, device="cpu", probes=[shares], progress=False)
    alone = [run_specs([spec], "trl", "cpu")[0][0] for spec in (FULL, LORA)]
    for one, other in zip(together, alone, strict=True):
        assert one.metrics["whole"] == 0 < one.metrics["cut"]
        assert one.status == "ok"
        assert one.id == other.id
        assert one.provenance["engine"] == "trl"
        for name in ("test_loss", "train_loss", "validation_loss", "delta_norm", "first_gradient_norm", "parameters"):
            if name in other.metrics:
                assert one.metrics[name] == pytest.approx(other.metrics[name], rel=1e-5), name
        assert one.curve.keys() == other.curve.keys()
        for name, values in one.curve.items():
            assert values == pytest.approx(other.curve[name], rel=1e-5), name


def test_one_gpu_is_the_default_and_no_number_of_them_makes_another_run():
    assert replace(FULL, gpus=1) == FULL
    assert "gpus" not in FULL.to_json()
    assert replace(FULL, gpus=4).id == FULL.id
    assert SFTSpec.from_json(replace(FULL, gpus=4).to_json()).gpus == 4
    for wrong in ({"gpus": 3}, {"gpus": 0}, {"gpus": 4, "micro_batch": 2}):
        with pytest.raises(SpecError, match=r"gpus=. cannot be run; allowed: 1, or a divisor of the"):
            replace(FULL, **wrong)


def test_what_cannot_train_it_says_so_before_anything_starts(tmp_path, monkeypatch):
    spec = replace(FULL, gpus=2)
    assert engine_of(spec) == "trl"
    for engine in ("packed", "peft"):
        with pytest.raises(ValueError, match="gpus=2: only TRL trains one run on several GPUs; allowed: engine='trl'"):
            check_engine(engine, [spec])
    with pytest.raises(ValueError, match="different numbers of GPUs"):
        check_specs([spec, FULL])
    with pytest.raises(SpecError, match="no field 'gpus'"):
        GRPOSpec(model="m@1", task="t@1", learning_rate=1e-3, gpus=2)
    monkeypatch.setattr("lorakit.sweep.devices._usable_gpus", lambda: ["A", "B", "C", "D", "E"])
    with pytest.raises(DeviceError, match="one run asks for gpus=8, and 5 are visible here"):
        Devices("cuda").workers(3, 8)
    workers = Devices("cuda").workers(3, 2)
    assert [(worker.visible, worker.shards) for worker in workers] == [("0,1", 2), ("2,3", 2)]
    command = workers[0].launcher()
    assert command[1:] == ["-m", "accelerate.commands.launch", "--config_file", str(SEVERAL_GPUS), "--num_processes",
                           "2"]
    for worker in workers:
        worker.__exit__()


def test_shards_that_were_asked_for_and_not_had_stop_the_run():
    with pytest.raises(ShardError, match=r"asked for shards on 8 processors \(gpus=8\) and was started on 1"):
        shard(nn.Linear(2, 2), 8)
    with pytest.raises(ShardError, match="2 weights are whole on each, such as weight: nothing was trained"):
        require_shards(nn.Linear(2, 2), 2)
    with pytest.raises(ShardError, match="was started on 1"):
        run_specs([replace(FULL, gpus=2)], "trl", "cpu")


def test_accelerate_starts_processes_and_wraps_nothing():
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(SEVERAL_GPUS))
    found = {name: getattr(value, "value", value) for name, value in vars(config).items()}
    assert Path(SEVERAL_GPUS).suffix == ".yaml"
    for name, wanted in {
        "compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_GPU", "num_machines": 1, "machine_rank": 0,
        "num_processes": 8, "gpu_ids": "all", "mixed_precision": "no", "downcast_bf16": "no", "use_cpu": False,
        "rdzv_backend": "static", "same_network": True, "main_training_function": "main", "debug": False,
        "enable_cpu_affinity": False, "fsdp_config": {}, "deepspeed_config": {}, "megatron_lm_config": {},
        "parallelism_config": {}, "dynamo_config": {}, "fp8_config": {},
    }.items():
        assert found.pop(name) == wanted, name
    assert not any(found.values()), f"not looked at: {found}"
