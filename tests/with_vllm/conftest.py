"""vLLM loads here, or every test that needs it fails and says why."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from stop_rewards import vowels

import lorakit as lk
from lorakit.rewards import register_reward
from lorakit.sweep.worker import device_name

LOADS = """
import torch
from vllm.platforms import current_platform
current_platform.import_kernels()
assert current_platform.is_cpu() or current_platform.is_cuda(), f"no platform: {current_platform.device_name!r}"
assert hasattr(torch.ops._C, "rms_norm"), "its kernels are missing"
"""


@pytest.fixture(scope="session")
def vllm_loads():
    """A process of its own: on a processor that lacks an instruction, loading kills it."""
    done = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"vLLM does not load on {device_name('cpu')} (exit status {done.returncode}):\n"
                    f"{done.stderr[-2000:]}", pytrace=False)


@pytest.fixture(scope="session", autouse=True)
def reachable():
    """Worker processes import the reward from this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        yield


@pytest.fixture(scope="session")
def spec():
    return lk.GRPOSpec(task="copy", reward=register_reward(vowels), learning_rate=1e-3, steps=24, evaluations=8,
                       evaluation_problems=16, max_completion_length=12, merge_to_sample=True,
                       lora=lk.LoRASpec(rank=8))


@pytest.fixture(scope="session")
def sampled(spec, vllm_loads, tmp_path_factory):
    """Records of two runs in a row with vLLM, by one call, and the folder that holds their adapters."""
    folder = tmp_path_factory.mktemp("sampled")
    specs = lk.vary(replace(spec, use_vllm=True), seed=[0, 1])
    return lk.run(specs, folder / "runs", engine="trl", processes=1, save_to=folder / "adapters"), folder
