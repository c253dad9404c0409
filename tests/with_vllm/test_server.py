"""GRPO that samples from a vLLM server, a process of its own: weights come through a folder and, where there are two
GPUs, from one to the other."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from urllib.request import urlopen

import pytest
import torch

import lorakit as lk
from lorakit.reference.vllm_server import ServedModelError
from lorakit.sweep.sweeps import SweepError

SECONDS = 600  # that a server may take to load


@pytest.fixture(scope="module", params=["a folder", "NCCL"])
def server(request, vllm_loads, tmp_path_factory):
    """`HOST:PORT`; what it takes are the settings that `lorakit.reference.vllm_server.command` names."""
    environment, ways = {**os.environ, "VLLM_SERVER_DEV_MODE": "1"}, []
    if request.param == "NCCL":
        if torch.cuda.device_count() < 2:
            pytest.skip("weights go from a learner's GPU to a server's: two are needed")
        environment["CUDA_VISIBLE_DEVICES"], ways = "1", ["--weight-transfer-config", '{"backend": "nccl"}']
    folder = tmp_path_factory.mktemp("served")
    model, tokenizer = lk.load_model("tiny")
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "base"), "--host",
               "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--logprobs-mode",
               "processed_logprobs", "--max-logprobs", "-1", "--gpu-memory-utilization", "0.3", *ways]
    with (folder / "said").open("w") as said, subprocess.Popen(
            command, stdout=said, stderr=said, env=environment) as process:
        try:
            for _ in range(SECONDS):
                assert process.poll() is None, (folder / "said").read_text()[-3000:]
                with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health"):
                    break
                time.sleep(1)
            else:
                pytest.fail(f"no server answers after {SECONDS} s:\n{(folder / 'said').read_text()[-3000:]}")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def test_two_runs_in_a_row_learn_from_what_the_server_samples(spec, server, tmp_path):
    """Each begins from the base, although the one before left the server with what it had learnt."""
    specs = lk.vary(replace(spec, use_vllm=True), seed=[0, 1])
    for record in lk.run(specs, tmp_path, vllm_server=server):
        assert (record.status, record.provenance["engine"], record.provenance["vllm_mode"]) == ("ok", "trl", "server")
        found = record.metrics
        print({name: value for name, value in found.items() if "gap" in name}, record.curve["reward"])
        assert found["sampler_base_gap_first"] <= 1e-3
        assert found["sampler_gap_mean"] <= found["sampler_gap_max"] <= 1e-3
        assert found["sampler_base_gap_last"] > 1
        assert found["base_drift"] < 1e-6
        assert record.curve["reward"][-1] > 0.7


def test_full_fine_tuning_with_a_reference(spec, server, tmp_path):
    full = replace(spec, lora=None, learning_rate=1e-4, kl_coefficient=0.1, use_vllm=True, steps=3, evaluations=2)
    (record,) = lk.run([full], tmp_path, vllm_server=server)
    assert record.metrics["sampler_gap_max"] <= 1e-3


def test_another_model_and_another_dtype_are_said(spec, server, tmp_path):
    other = replace(spec, model="tiny-w32-s0", use_vllm=True, steps=1, evaluations=2)
    with pytest.raises(SweepError, match=r"(?s)another model than tiny-w32-s0@.*nats a token.*vllm serve FOLDER"):
        lk.run([other], tmp_path, vllm_server=server)
    with pytest.raises(ServedModelError, match=r"(?s)computes in float32, the spec in bfloat16.*--dtype bfloat16"):
        lk.run([replace(spec, dtype="bfloat16", use_vllm=True)], tmp_path / "none", vllm_server=server)
    assert not (tmp_path / "none").exists()
