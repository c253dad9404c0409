"""The command line as a user meets it: files of specs, exit statuses, JSON, version and completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import lorakit as lk
from lorakit.cli import main
from lorakit.spec_file import read_specs
from lorakit.specs import SpecError

SWEEP = """
- model: tiny
  steps: 3
  evaluations: 2
  evaluation_tokens: 64
  grid: {rank: [2, null], learning_rate: [1e-3]}
- task: copy
  learning_rate: 1e-4
"""


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return path


def typed(*arguments, **environment):
    return subprocess.run([sys.executable, "-m", "lorakit.cli", *map(str, arguments)], capture_output=True,
                          text=True, check=False, env=os.environ | environment)


def test_a_file_of_specs_holds_entries_of_both_kinds_with_grids(sweep, tmp_path):
    lora, full, rl = read_specs(sweep)
    assert (lora.lora, full.lora, rl.task.partition("@")[0]) == (lk.LoRASpec(rank=2), None, "copy")
    assert lora.learning_rate == 1e-3
    as_json = tmp_path / "sweep.json"
    as_json.write_text(json.dumps([spec.to_json() for spec in (lora, full, rl)] * 2))
    assert read_specs(as_json) == [lora, full, rl]


@pytest.mark.parametrize(("text", "words"), [
    ("learning_rat: 1e-3", "entry 1 of 1: SFTSpec has no field 'learning_rat'; did you mean 'learning_rate'"),
    ("- learning_rate: 1e-3\n- {learning_rate: 1e-3, grid: {rank: 4}}", r"entry 2 of 2: axis 'rank' needs a list"),
    ("learning_rate: 1e-3\nmodel: tinny", "unknown model 'tinny'; did you mean 'tiny'"),
    ("kind: dpo", "kind='dpo'; allowed: sft, grpo"), ("just words", "'just words' is no spec"), ("[]", "holds no spec"),
    ("learning_rate: 1e-3\ngrid: [4]", r"grid=\[4\]; allowed: names of fields"), ("a: [", "cannot be read"),
])
def test_a_file_that_cannot_be_meant_is_refused_with_its_entry(tmp_path, text, words):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=words):
        read_specs(path)


@pytest.mark.slow
def test_a_user_runs_a_file_and_exports_its_adapter(tmp_path):
    (tmp_path / "sweep.yaml").write_text(SWEEP.partition("- task")[0])
    store, adapters = tmp_path / "records", tmp_path / "adapters"
    done = typed("run", tmp_path / "sweep.yaml", "--store", store, "--processes", 1, "--device", "cpu", "--quiet",
                 "--json")
    assert done.returncode == 0, done.stderr
    assert "runs done" not in done.stderr
    lora, full = json.loads(done.stdout)
    assert {lora["status"], full["status"]} == {"ok"}
    assert main(["export", lora["id"], str(adapters), "--store", str(store), "--device", "cpu"]) == 0
    assert (adapters / lora["id"] / "adapter_model.safetensors").exists()


def test_calculators_print_words_or_json(capsys):
    settings = ["--rank", "16", "--alpha", "32", "--learning-rate", "2e-4"]
    for call in (["estimate", "llama-3.1-8b", "--gpu", "H200"], ["recommend", "llama-3.1-8b", "--tokens", "1000000"],
                 ["translate", "unsloth", "--to", "rslora", *settings]):
        assert main(call) == 0
        assert capsys.readouterr().out.count("\n") < 10
        assert main([*call, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)


def test_exit_statuses_tell_what_went_wrong(capsys, sweep, tmp_path):
    assert main(["recommend", "lama-3.1-8b"]) == 1
    assert "did you mean 'llama-3.1-8b'" in capsys.readouterr().err
    assert main(["export", "abc", str(tmp_path), "--store", str(tmp_path)]) == 1
    assert "no run 'abc'" in capsys.readouterr().err
    assert main(["estimat"]) == 2
    assert "Did you mean 'estimate'" in capsys.readouterr().err
    assert main(["run", "no-such-file.yaml"]) == 2
    assert "does not exist" in capsys.readouterr().err
    budget = ["--time-budget", "0.001", "--device", "cpu", "--processes", "1"]
    call = ["run", str(sweep), "--store", str(tmp_path / "records"), *budget]
    assert main(call) == 1
    assert "run them in two calls" in capsys.readouterr().err
    sweep.write_text(SWEEP.partition("- task")[0])
    assert main(call) == 3
    assert "0 of 2 runs recorded" in capsys.readouterr().out


def test_version_and_completion_without_torch():
    code = "import sys; sys.modules['torch'] = None; from lorakit.cli import main; main(['--version'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"lorakit {lk.__version__}\n"
    completed = typed(_LORAKIT_COMPLETE="complete_bash", COMP_WORDS="lorakit reco", COMP_CWORD="1")
    assert completed.stdout.split() == ["recommend"]
