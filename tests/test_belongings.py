"""What specs name that lies on one machine alone reaches another one's cache whole."""

from __future__ import annotations

import sys

import pytest

import lorakit as lk
from lorakit.local_models import cache_folder, checkpoint_folder
from lorakit.sweep.belongings import belongings, lacking, take


@pytest.fixture
def move(tmp_path, monkeypatch):
    """`move(found)`: to a machine with an empty cache, in parts; returns the places that it lacked."""
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "here"))

    def go(found):
        sent = {place: [(file.name, file.read_bytes()) for file in files] for place, files in found.items()}
        monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "there"))
        lacked = lacking(found)
        for place in lacked:
            take(place, ((name, iter([data[:10], data[10:]])) for name, data in sent[place]))
        assert lacking(found) == []
        return lacked

    return go


def test_a_saved_model_is_found_by_its_hash_where_its_folder_does_not_exist(move, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "tokenizer_config.json", "model.safetensors", "optimizer.pt"):
        (folder / name).write_text("{}")
    spec = lk.SFTSpec(model=str(folder), dataset="d@1", learning_rate=1e-3)
    pin = spec.model.partition("@")[2]
    assert move(belongings([spec])) == [f"models/{pin}"]
    copy = checkpoint_folder(pin)
    assert sorted(path.name for path in copy.iterdir()) == ["config.json", "model.safetensors", "tokenizer_config.json"]


def test_functions_in_files_of_ones_own_travel_with_a_task_and_its_grader(move, tmp_path, monkeypatch):
    (tmp_path / "my_measures.py").write_text("def sharpness(subject):\n    return []\n")
    (tmp_path / "my_rewards.py").write_text("def pay(prompts, completions, **columns):\n    return [1] * len(prompts)")
    monkeypatch.syspath_prepend(tmp_path)
    import my_rewards

    reward = lk.register_reward(my_rewards.pay)
    task = lk.register_task("own", [{"prompt": f"{i} "} for i in range(60)], grader=reward)
    spec = lk.GRPOSpec(model="tiny", task=task, learning_rate=1e-3)
    lacked = move(belongings([spec], ["my_measures:sharpness", "statistics:mean", "lorakit.probes:measure"]))
    assert sorted(place.partition("/")[0] for place in lacked) == ["modules", "modules", "tasks"]
    files = {path.name for path in cache_folder().glob("modules/*/*.py")}
    assert files == {"my_measures.py", "my_rewards.py"}, "what is installed everywhere stays"
    sys.modules.pop("my_rewards")


def test_what_arrives_in_part_is_not_there(move, tmp_path):
    (tmp_path / "here" / "datasets").mkdir(parents=True)
    (tmp_path / "here" / "datasets" / "1.json").write_text("{}")
    found = belongings([lk.SFTSpec(model="m@2", dataset="d@1", learning_rate=1e-3)])

    def broken():
        yield b"{"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        take("datasets/2.json", [("2.json", broken())])
    assert [path.name for path in (tmp_path / "here" / "datasets").iterdir()] == ["1.json"]
    assert lacking(["datasets/2.json"]) == ["datasets/2.json"]
    assert move(found) == ["datasets/1.json"]
