import pytest

from lorakit.specs import LoRASpec
from lorakit.theory.memory import (
    adapters_that_fit,
    checkpoint_bytes,
    kv_cache_bytes,
    peak_bytes,
    trained_weights,
    training_bytes,
)
from lorakit.theory.shapes import ModelShape

LLAMA = ModelShape.of("llama-3.1-8b")


def llama2(hidden, inner, layers, heads, key_values):
    return ModelShape.of({"model_type": "llama", "hidden_size": hidden, "intermediate_size": inner,
                          "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": 32000,
                          "num_key_value_heads": key_values, "tie_word_embeddings": False})


def test_standing_bytes_by_hand():
    full = training_bytes(LLAMA, None, 1, 512, "bfloat16")
    assert full["weights"] == full["gradients"] == full["optimizer"] // 2 == 2 * 8_030_261_248
    lora = training_bytes(LLAMA, LoRASpec(rank=16), 1, 512, "bfloat16")
    assert lora["adapter"] == lora["gradients"] == lora["optimizer"] // 2 == 4 * 16 * (851_968 + 1_769_472)
    assert lora["weights"] == full["weights"]


def test_adapters_cost_more_activations_over_a_half_precision_base():
    # each adapter keeps a float32 copy of its input; over a float32 base matrices share one
    def ratio(dtype):
        parts = [training_bytes(LLAMA, lora, 1, 512, dtype)["activations"] for lora in (LoRASpec(rank=1), None)]
        return parts[0] / parts[1]

    assert ratio("float32") < 1 < ratio("bfloat16")


def test_recompute_trades_activations_for_flops():
    plain, thrifty = (training_bytes(LLAMA, LoRASpec(), 4, 512, "bfloat16", recompute) for recompute in (False, True))
    assert thrifty["activations"] < plain["activations"] / 5
    assert {k: v for k, v in plain.items() if k != "activations"} == {
        k: v for k, v in thrifty.items() if k != "activations"}


def test_frozen_a_has_no_gradient():
    lora = LoRASpec(rank=2, train_a=False)
    assert trained_weights(ModelShape.of("tiny"), lora) == 2 * 2 * (4 * 128 + 256 + 256 + 128)
    parts = training_bytes(ModelShape.of("tiny"), lora, 1, 8)
    assert parts["adapter"] == 4 * 2 * 4352
    assert parts["gradients"] == 4 * trained_weights(ModelShape.of("tiny"), lora)


def test_activations_or_gradients_whichever_is_more():
    parts = {"weights": 10, "adapter": 1, "gradients": 5, "optimizer": 10, "activations": 20, "logits": 2,
             "tied": 1}
    assert peak_bytes(parts) == 43
    assert peak_bytes(parts | {"gradients": 30}) == 52


def test_gradients_of_earlier_passes_are_held_while_a_later_one_runs():
    one, four = (training_bytes(LLAMA, None, 8, 4096, "bfloat16", True, accumulation=n) for n in (1, 4))
    assert peak_bytes(four) - peak_bytes(one) == four["accumulated"] == 2 * 8_030_261_248
    assert one["accumulated"] == 0


def test_adamw_on_a_gpu_holds_a_root_of_all_its_second_moments():
    cpu, gpu = (training_bytes(LLAMA, None, 1, 8, "bfloat16", foreach=it) for it in (False, True))
    assert peak_bytes(gpu) - peak_bytes(cpu) == 2 * 8_030_261_248


def test_a_layer_that_is_made_again_is_not_held_beside_the_loss():
    tiny = training_bytes(ModelShape.of("tiny"), LoRASpec(rank=1), 8, 64, "bfloat16", True)
    large = training_bytes(LLAMA, LoRASpec(rank=1), 8, 64, "bfloat16", True)
    assert tiny["recomputed"] > tiny["logits"]  # 256 tokens in the vocabulary
    assert large["recomputed"] < large["logits"]
    held = ("weights", "adapter", "optimizer", "activations", "logits")
    assert peak_bytes(large) == sum(large[part] for part in held)


def test_a_tied_head_adds_two_gradients_of_the_embedding():
    tied = ModelShape.of("smollm2-135m")
    assert training_bytes(tied, None, 1, 8)["tied"] == 2 * 4 * 49152 * 576
    assert training_bytes(tied, LoRASpec(), 1, 8)["tied"] == training_bytes(LLAMA, None, 1, 8)["tied"] == 0


def test_serving():
    assert kv_cache_bytes(LLAMA, 8192) == 2**30
    assert checkpoint_bytes(LLAMA, LoRASpec(rank=16)) == 2 * 16 * 2_621_440
    assert adapters_that_fit(LLAMA, LoRASpec(), 10e9) == 0


def test_anyscales_arithmetic():
    small, large = llama2(4096, 11008, 32, 32, 32), llama2(8192, 28672, 80, 64, 8)
    assert 20 * checkpoint_bytes(small, None) == pytest.approx(280e9, rel=0.05)
    assert adapters_that_fit(large, LoRASpec(rank=8), 280e9) == pytest.approx(700, rel=0.05)
