"""A run that is killed at a random step and goes on gives the curve of one that is not, in every engine."""

import json
import multiprocessing
import os
import random
import signal
from dataclasses import replace

import pytest
import torch
import toy_rl
from plain_training import data, on_validation, spec, tiny
from test_sft import tokenizer
from waiting import LONG, killed_behind

import lorakit
from lorakit.checkpoints import FOLDER, Checkpoint, CheckpointWarning, head, path_of, remove, unfinished
from lorakit.packed.engine import train_pack
from lorakit.packed.grpo import train_grpo_pack
from lorakit.reference.grpo import train_grpo
from lorakit.reference.peft_loop import train_peft
from lorakit.reference.sft import train_sft
from lorakit.specs import LoRASpec, SFTSpec, vary
from lorakit.sweep.training import packs_of
from lorakit.sweep.worker import run_specs

SPLITS = data()
MADE = {"epoch": 1, "torch": torch.__version__, "device": "cpu"}
BITS = {"dtype": "float64", "steps": 8, "schedule": "cosine", "warmup": 2, "weight_decay": 0.1}
FULL = {"rank": None, "learning_rate": 1e-3}


def supervised(engine, **fields):
    def train(**options):
        runs = [spec(seed=seed, evaluations=4, **{**BITS, **fields}) for seed in range(2 if engine == "packed" else 1)]
        base = tiny(dtype=getattr(torch, runs[0].dtype))
        if engine == "packed":
            return train_pack(runs, base, SPLITS, keep_weights=True, probes=[on_validation], **options)
        if engine == "peft":
            return [train_peft(runs[0], base, SPLITS, keep_weights=True, probes=[on_validation], **options)]
        return [train_sft(runs[0], base, tokenizer(), SPLITS, keep_weights=True, probes=[on_validation], **options)]
    return train


def reinforced(engine, **fields):
    def train(**options):
        runs = [toy_rl.spec(seed=seed, **{**BITS, **fields}) for seed in range(2 if engine == "packed" else 1)]
        base, words, task = toy_rl.model(getattr(torch, runs[0].dtype)), toy_rl.words(), toy_rl.task()
        if engine == "packed":
            return train_grpo_pack(runs, base, words, task, keep_weights=True, probes=[on_validation], **options)
        return [train_grpo(runs[0], base, words, task, keep_weights=True, probes=[on_validation], **options)]
    return train


CASES = {
    "packed": supervised("packed"),
    "packed full": supervised("packed", **FULL),
    "packed full, bfloat16": supervised("packed", **FULL | {"dtype": "bfloat16"}),
    "peft dropout": supervised("peft", lora={"dropout": 0.3}, max_grad_norm=0.5),
    "peft PiSSA": supervised("peft", lora={"pissa": True}, dtype="float32"),
    "peft full, bfloat16": supervised("peft", **FULL | {"dtype": "bfloat16"}),
    "trl dropout": supervised("trl", lora={"dropout": 0.3}, accumulation=2, batch_size=2),
    "trl full, bfloat16": supervised("trl", **FULL | {"dtype": "bfloat16"}),
    "packed RL, two steps a batch, merged": reinforced("packed", iterations=2, merge_to_sample=True,
                                                       kl_coefficient=0.1, dtype="bfloat16"),
    "packed RL, full": reinforced("packed", **FULL),
    "trl RL, two steps a batch, merged": reinforced("trl", iterations=2, merge_to_sample=True, dtype="bfloat16"),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order, and no threads that a forked process would wait for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checkpoint(folder, **fields):
    return Checkpoint(folder, "any", ["a"], MADE, every=0, **fields)


def killed(train, folder, steps):
    """Train in a process of its own, which kills itself after so many steps."""
    def target():
        def on_step(step, *_):
            if step == steps:
                os.kill(os.getpid(), signal.SIGKILL)

        train(on_step=on_step, checkpoint=checkpoint(folder))

    child = multiprocessing.get_context("fork").Process(target=target)
    child.start()
    child.join(LONG)
    assert child.exitcode == -signal.SIGKILL


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.curve.keys() == other.curve.keys()
        for name, column in other.curve.items():
            assert one.curve[name] == pytest.approx(column, rel=0, abs=1e-9, nan_ok=True), name
        for name, value in other.metrics.items():
            assert value is None or one.metrics[name] == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), name
        assert one.tokens == other.tokens
        for name, parts in other.weights.items():
            for mine, theirs in zip(one.weights[name], parts, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_a_killed_run_goes_on_to_the_same_numbers(name, tmp_path):
    train = CASES[name]
    expected = train()
    kills = sorted(random.Random(f"{name} 20261126").sample(range(2, 9), 2))
    for steps in kills:  # the second one goes on from the first one's state
        killed(train, tmp_path, steps)
    mine, seen = checkpoint(tmp_path), []
    found = train(on_step=lambda step, *_: seen.append(step), checkpoint=mine)
    last = kills[1] - 1
    assert mine.resumed_at[-1] in (last, last - 1), "two steps of one batch belong together"
    assert min(step for step in seen if step) >= mine.resumed_at[-1], "what was done is not done again"
    assert_equal(found, expected)


def written(folder, **fields):
    """A checkpoint in the middle of a run of the packed engine, and that run."""
    def stop(step, *_):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CASES["packed"](on_step=stop, checkpoint=checkpoint(folder))
    return path_of(folder, "any", ["a"])


def damage(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def rewrite(path, **changed):
    from safetensors.torch import load_file, save_file

    save_file(load_file(path), path, {"lorakit": json.dumps({**head(path), **changed})})


@pytest.mark.parametrize(("spoil", "words"), [
    (damage, "its checksum differs"), (lambda path: path.write_bytes(path.read_bytes()[:-50]), "is damaged"),
    (lambda path: path.write_bytes(b""), "is damaged"), (lambda path: path.write_bytes(b"\xff" * 100), "is damaged"),
    (lambda path: rewrite(path, made=MADE | {"epoch": 2}), "epoch differ"),
    (lambda path: rewrite(path, made=MADE | {"torch": "1.0"}), "torch differ"),
    (lambda path: rewrite(path, ids=["b"]), "other specs differ"),
])
def test_what_is_damaged_or_foreign_is_left_with_a_warning(spoil, words, tmp_path):
    path = written(tmp_path)
    spoil(path)
    with pytest.warns(CheckpointWarning, match=rf"{path.name} is not used, since .*{words}.*start at their first step"):
        assert checkpoint(tmp_path).load() is None
    assert not path.exists()
    assert checkpoint(tmp_path).load() is None, "and said once"


def test_a_file_names_its_pack_without_torch_and_is_alone(tmp_path):
    path = written(tmp_path)
    assert unfinished(tmp_path) == [("any", ("a",))]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    trained = 2 * sum(a.numel() + b.numel() for a, b in CASES["packed"]()[0].weights.values())
    assert trained * 3 * 8 < path.stat().st_size < trained * 3 * 8 + 20_000, "weights and two moments"
    (tmp_path / "other.safetensors").write_bytes(b"{}")
    assert unfinished(tmp_path) == [("any", ("a",))]
    remove(tmp_path, "any", ["a"])
    assert not path.exists()


def test_a_disk_that_takes_nothing_costs_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    said = []
    results = CASES["packed"](checkpoint=checkpoint(tmp_path, warn=said.append))
    assert len(said) == 8
    assert "more than half of what is free" in said[0]
    assert_equal(results, CASES["packed"]())


def test_a_write_that_fails_keeps_the_state_before(tmp_path, monkeypatch):
    path = written(tmp_path)
    before = path.read_bytes()

    def full(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.warns(CheckpointWarning, match="No space left"):
        checkpoint(tmp_path).save(6, {"a": torch.zeros(2)}, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_checkpoints_are_written_by_time(tmp_path):
    assert not Checkpoint(tmp_path, "any", ["a"], MADE).due()
    assert Checkpoint(tmp_path, "any", ["a"], MADE, every=0).due()
    CASES["packed"](checkpoint=Checkpoint(tmp_path, "any", ["a"], MADE))
    assert not list(tmp_path.iterdir()), "a run of seconds writes none"


STEPS = (5, 14)  # where a worker is killed, behind a checkpoint
HELD = """
import os
from pathlib import Path
from lorakit.checkpoints import Checkpoint
from waiting import stay
save = Checkpoint.save

def held(self, step, *state):
    save(self, step, *state)
    if step in {steps!r}:
        Path({folder!r}, f"pid-{{step}}").write_text(str(os.getpid()))
        stay(Path({folder!r}, f"at-{{step}}"))

Checkpoint.save = held

def nothing(subject):
    return [{{}} for _ in subject.specs]
"""
SWEEP = """
import sys
import lorakit as lk
sys.path.append(sys.argv[2])
specs = [lk.SFTSpec.from_json(spec) for spec in {specs!r}]
lk.run(specs, sys.argv[1], processes=1, device="cpu", checkpoint_every=0, probes=["held:nothing"])
"""


def test_a_sweep_that_is_killed_twice_forms_its_pack_again(tmp_path):
    """Its worker is killed, which the sweep sees to; then all of it, which the next call sees to."""
    specs = vary(SFTSpec(model="tiny", learning_rate=1e-3, lora=LoRASpec(rank=2), steps=24, batch_size=2,
                         max_length=48, dtype="float64", evaluations=5, evaluation_tokens=100), seed=[3, 0])
    folder = tmp_path / "runs" / FOLDER
    (pack,) = packs_of(specs, "packed", 1)
    (tmp_path / "held.py").write_text(HELD.format(steps=STEPS, folder=str(tmp_path)))
    script = SWEEP.format(specs=[spec.to_json() for spec in specs])
    with killed_behind(script, str(tmp_path / "runs"), str(tmp_path), said=tmp_path / "said") as started:
        started.reach(tmp_path / f"at-{STEPS[0]}")
        os.kill(int((tmp_path / f"pid-{STEPS[0]}").read_text()), signal.SIGKILL)
        started.reach(tmp_path / f"at-{STEPS[1]}")
    assert "was ended by SIGKILL; its pack of 2 goes on from its checkpoint" in (tmp_path / "said").read_text()
    assert unfinished(folder) == [("packed", tuple(spec.id for spec in pack.specs))]
    more = [*specs[::-1], replace(specs[0], seed=7)]
    found = lorakit.run(more, tmp_path / "runs", processes=1, device="cpu")
    assert not folder.exists(), "removed with the records"
    expected = {r.id: r for r in run_specs(list(pack.specs), "packed", "cpu")[0]}
    for record in found:
        if record.id in expected:
            assert record.provenance["resumed_at"] == list(STEPS)
            for name, column in expected[record.id].curve.items():
                assert record.curve[name] == pytest.approx(column, abs=1e-9), name
            assert record.metrics == pytest.approx(expected[record.id].metrics, abs=1e-9)
        else:
            assert "resumed_at" not in record.provenance
