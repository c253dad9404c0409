import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch

from lorabook.probes.measure import count_step
from lorakit.bases.models import cache_folder, load_model
from lorakit.specs import LoRASpec
from lorakit.theory.compute import training_flops
from lorakit.theory.memory import training_bytes
from lorakit.theory.shapes import ModelShape

TINY = ModelShape.of("tiny")
ADAPTERS = [None, *[LoRASpec(rank=rank) for rank in (1, 16, 128)], LoRASpec(rank=4, targets="mlp"),
            LoRASpec(rank=4, targets="attention"), LoRASpec(rank=4, targets="all-linear+head"),
            LoRASpec(rank=4, targets=("v_proj", "up_proj")), LoRASpec(rank=4, targets=("lm_head",)),
            LoRASpec(rank=4, train_a=False)]
BATCH, LENGTH = 2, 24


def label(lora):
    return "full" if lora is None else f"{lora.rank}-{lora.targets}-{lora.train_a}"


@pytest.mark.parametrize("recompute", [False, True], ids=["keep", "recompute"])
@pytest.mark.parametrize("lora", ADAPTERS, ids=label)
def test_flops_and_bytes_of_tiny_are_as_computed(lora, recompute):
    found = count_step(load_model("tiny")[0], lora, BATCH, LENGTH, recompute)
    flops = sum(training_flops(TINY, lora, LENGTH, recompute).values()) * BATCH * LENGTH
    assert found.pop("flops") == pytest.approx(flops, rel=1e-4)
    parts = training_bytes(TINY, lora, BATCH, LENGTH, recompute=recompute)
    assert found.items() <= parts.items()


@pytest.mark.parametrize("lora", ADAPTERS[:3], ids=label)
def test_bytes_over_a_half_precision_base(lora):
    found = count_step(load_model("tiny", dtype=torch.bfloat16)[0], lora, BATCH, LENGTH)
    del found["flops"]
    assert found.items() <= training_bytes(TINY, lora, BATCH, LENGTH, "bfloat16").items()


@pytest.mark.parametrize("recompute", [False, True], ids=["keep", "recompute"])
def test_a_model_with_grouped_and_normed_heads(recompute):
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen3Config(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                                      num_key_value_heads=2, head_dim=24, vocab_size=120)
    shape = ModelShape.of(config)
    for lora in (None, LoRASpec(rank=3)):
        found = count_step(transformers.Qwen3ForCausalLM(config), lora, BATCH, LENGTH, recompute)
        flops = sum(training_flops(shape, lora, LENGTH, recompute).values()) * BATCH * LENGTH
        assert found["flops"] == pytest.approx(flops, rel=1e-3)
        if not recompute:
            parts = training_bytes(shape, lora, BATCH, LENGTH)
            assert found["activations"] == parts["activations"]


@pytest.mark.parametrize("kind", ["phi3", "olmo2", "gemma3_text"])
def test_families_that_place_their_matrices_and_norms_otherwise(kind):
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(
        kind, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, vocab_size=100, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    shape = ModelShape.of(config)
    for lora in (None, LoRASpec(rank=3)):
        found = count_step(transformers.AutoModelForCausalLM.from_config(config), lora, BATCH, LENGTH)
        flops = sum(training_flops(shape, lora, LENGTH).values()) * BATCH * LENGTH
        assert found.pop("flops") == pytest.approx(flops, rel=1e-3)
        parts = training_bytes(shape, lora, BATCH, LENGTH)
        assert found.pop("activations") == pytest.approx(parts["activations"], rel=0.07)
        assert found.items() <= parts.items()


@pytest.mark.parametrize("lora", [None, LoRASpec(rank=16)], ids=label)
def test_smollm2(lora):
    if not list((cache_folder() / "models").glob("smollm2-135m-instruct-q4-*")):
        pytest.skip("SmolLM2 has not been converted here; loading it once does so: lorakit.load_model fetches it")
    model = load_model("smollm2-135m-instruct-q4")[0]
    shape = ModelShape.of("smollm2-135m")
    found = count_step(model, lora, 2, 8)
    flops = found.pop("flops")
    assert flops == pytest.approx(16 * sum(training_flops(shape, lora, 8).values()), rel=1e-6)
    assert found.items() <= training_bytes(shape, lora, 2, 8).items()
