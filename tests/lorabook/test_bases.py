"""The book's bases: what a name pins is what is loaded."""

import pytest

from lorabook.bases import smollm2
from lorabook.source import SOURCE
from lorakit.bases.models import ModelError, embedded_record, load_model
from lorakit.sources import LORAKIT


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_smollm2_is_taken_only_from_the_file_that_its_name_pins(tmp_path, monkeypatch):
    path = tmp_path / "other.gguf"
    monkeypatch.setenv("LORAKIT_SMOLLM2_GGUF", str(path))
    with pytest.raises(ModelError, match="which does not exist"):
        load_model(smollm2.SMOLLM2)
    path.write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"has sha256 .*, expected .*: delete it"):
        load_model(smollm2.SMOLLM2)


@pytest.mark.parametrize("path", sorted(SOURCE.weights.glob("*.safetensors")), ids=lambda path: path.stem)
def test_an_embedded_base_is_the_one_that_is_listed(path):
    model, _ = load_model(path.stem)
    record = embedded_record(path.stem)
    assert record["sha256"].startswith(SOURCE.pins["models"][path.stem])
    assert sum(p.numel() for p in model.parameters()) == record["parameters"]
    assert {"config", "parameters", "sha256", "pretraining"} <= record.keys()


def test_each_base_of_the_list_is_embedded_or_smollm2():
    listed = {path.stem for path in SOURCE.weights.glob("*.safetensors")} | {smollm2.SMOLLM2}
    assert SOURCE.pins["models"].keys() == listed
    assert not listed & LORAKIT.pins["models"].keys()
