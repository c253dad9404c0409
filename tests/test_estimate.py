import subprocess
import sys
from dataclasses import replace

import pytest

import lorakit as lk
from lorakit.cli import main
from lorakit.theory.compute import training_flops
from lorakit.theory.configs import ConfigError, known_config
from lorakit.theory.estimate import EstimateError
from lorakit.theory.hardware import GPU, UnknownGPUError

SPEC = lk.SFTSpec(learning_rate=1e-4, lora=lk.LoRASpec(rank=16), steps=1000, batch_size=8, max_length=1024,
                  dtype="bfloat16")
TOKENS = 1000 * 8 * 1024


def test_a_run_by_hand():
    found = lk.estimate("llama-3.1-8b", SPEC, "H100", price_per_hour=2)
    shape = lk.ModelShape.of("llama-3.1-8b")
    training = TOKENS * sum(training_flops(shape, SPEC.lora, 1024).values())
    assert training < found.flops < 1.01 * training  # evaluations are the rest
    causal = TOKENS * training_flops(shape, SPEC.lora, 1024)["scores"] / 2  # not timed
    assert found.seconds == pytest.approx((found.flops - causal) / (0.45 * 989e12), rel=0.02)
    assert found.needed == found.peak + 2e9
    assert found.cost == pytest.approx(2 * found.hours)
    assert not found.fits
    assert lk.estimate("llama-3.1-8b", SPEC, "H100", recompute=True).fits


def test_full_fine_tuning_needs_more_of_everything():
    lora, full = (lk.estimate("llama-3.1-8b", replace(SPEC, lora=lora), "B200", recompute=True)
                  for lora in (SPEC.lora, None))
    assert full.flops > 1.2 * lora.flops
    assert full.peak > 1.5 * lora.peak


def test_a_short_step_waits_for_the_memory_or_for_the_host_and_pays_for_its_update():
    short = replace(SPEC, batch_size=1, max_length=8, dtype="float32")
    slow, quick = GPU("slow memory", 1e15, 1e14, 1e9, 1e12), GPU("quick", 1e18, 1e18, 1e15, 1e12)
    found = lk.estimate("llama-3.2-1b", short, slow)
    parts = found.memory
    assert found.seconds == pytest.approx(1000 * (2 * parts["weights"] + 20 * parts["gradients"]) / 1e9, rel=1e-3)
    assert lk.estimate("llama-3.2-1b", short, quick).seconds == pytest.approx(1000 * 16 * 3 * 1.3e-3, rel=1e-2)


def test_full_fine_tuning_in_bfloat16_is_priced_with_float32_masters_unless_told_otherwise():
    full = replace(SPEC, lora=None)
    ours, bare = (lk.estimate("llama-3.1-8b", full, "B200", recompute=True, master_weights=it) for it in (True, False))
    weights = 8_030_261_248
    # weights, masters, gradients in both precisions, two moments and the root of one, against all in two bytes
    assert ours.peak - bare.peak == (2 + 4 + 6 + 8 + 4 - (2 + 2 + 4 + 2)) * weights
    assert "float32 master weights" in ours.assumption
    assert "master" not in bare.assumption
    linear = lk.estimate("llama-3.1-8b", replace(full, full_targets="all-linear"), "B200", recompute=True)
    assert linear.memory["gradients"] == 6 * (weights - 2 * 128256 * 4096 - 65 * 4096)


def test_an_experiment_is_the_sum_of_its_runs():
    specs = lk.vary(SPEC, rank=[1, None], seed=range(3))
    every = lk.estimate("qwen3-8b", specs, "H200")
    ones = [lk.estimate("qwen3-8b", spec, "H200") for spec in specs]
    assert every.runs == 6
    assert every.flops == pytest.approx(sum(one.flops for one in ones))
    assert every.peak == max(one.peak for one in ones)
    assert "6 runs on one H200" in str(every)


@pytest.mark.parametrize(("pinned", "parameters"), [
    ("meta-llama/Llama-3.1-8B@d04e592b", 8_030_261_248), ("HuggingFaceTB/SmolLM2-135M-Instruct@12fd25f7", 134_515_008),
    ("Qwen/Qwen3-30B-A3B@ad44e777", 30_532_122_624), ("Qwen/Qwen2.5-Coder-7B-Instruct@c03e6d35", 7_615_616_512),
    ("google/gemma-3-1b-it@dcc83ea8", 999_885_952), ("mistralai/Mistral-7B-Instruct-v0.3@c170c708", 7_248_023_552),
    ("tiny", 393_856),
])
def test_a_spec_brings_its_model(pinned, parameters):
    found = lk.estimate(None, replace(SPEC, model=pinned), "H200")
    assert found.memory["weights"] == 2 * parameters


def test_tf32_multiplies_at_half_the_rate_of_16_bits_where_the_card_has_it():
    exact, half = (lk.estimate("llama-3.1-8b", replace(SPEC, dtype=dtype), "H100").seconds
                   for dtype in ("float32", "bfloat16"))
    rounded = replace(SPEC, dtype="float32", tf32=True)
    assert lk.estimate("llama-3.1-8b", rounded, "H100").seconds == pytest.approx(2 * half, rel=0.01)
    assert exact > 3 * half
    assert lk.estimate("llama-3.1-8b", rounded, "T4") == lk.estimate(
        "llama-3.1-8b", replace(rounded, tf32=False), "T4")


def test_a_spec_brings_its_recompute_and_its_micro_batches():
    asked, given = (lk.estimate("llama-3.1-8b", spec, "H100", recompute=it)
                    for spec, it in ((replace(SPEC, recompute=True), False), (SPEC, True)))
    assert asked == given
    small = lk.estimate("llama-3.1-8b", replace(SPEC, micro_batch=2), "H100")
    apart = lk.estimate("llama-3.1-8b", replace(SPEC, batch_size=2, accumulation=4), "H100")
    assert (small.peak, small.flops, small.seconds) == (apart.peak, apart.flops, apart.seconds)
    assert small.peak < lk.estimate("llama-3.1-8b", SPEC, "H100").peak / 2


def test_what_a_name_leaves_out_is_said():
    found = lk.estimate("google/gemma-3-4b-it@093f9f38", SPEC, "H100")
    assert "gemma-3-4b-it@093f9f38 is the language model alone" in found.assumption


def test_a_price_is_dated_or_unknown():
    assert "Lambda, 2026-09-20" in lk.estimate("tiny", SPEC, "H100").assumption
    unknown = lk.estimate("tiny", SPEC, "RTX 4090")
    assert unknown.cost is None
    assert "price unknown" in str(unknown)


def test_bad_input_is_named():
    with pytest.raises(UnknownGPUError, match="did you mean 'H100'"):
        lk.estimate("tiny", SPEC, "H1000")
    config = known_config("llama-3.1-8b")
    del config["num_hidden_layers"]
    with pytest.raises(ConfigError, match="lacks 'num_hidden_layers'"):
        lk.estimate(config, SPEC, "H100")
    with pytest.raises(KeyError, match=r"unknown shape 'llama-3.1-9b'; did you mean 'llama-3.1-8b'"):
        lk.estimate("llama-3.1-9b", SPEC, "H100")
    for changed, words in (({"mfu": 40}, "mfu=40"), ({"price_per_hour": -1}, "price_per_hour=-1")):
        with pytest.raises(EstimateError, match=words):
            lk.estimate("tiny", SPEC, "H100", **changed)
    with pytest.raises(EstimateError, match="no spec to price"):
        lk.estimate("tiny", [], "H100")
    with pytest.raises(EstimateError, match="str has no estimate; allowed: SFTSpec"):
        lk.estimate("tiny", ["rank"], "H100")


def test_an_estimate_loads_neither_torch_nor_pandas():
    code = ("import sys, lorakit as lk; lk.estimate('tiny', lk.SFTSpec(learning_rate=1e-3), 'H100'); "
            "print(sorted({'torch', 'transformers', 'pandas', 'numpy'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_command_line(capsys, tmp_path):
    assert main(["estimate", "llama-3.1-8b", "--rank", "16", "--gpu", "H100", "--recompute"]) == 0
    assert "1 run on one H100" in capsys.readouterr().out
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama", "hidden_size": 64}')
    assert main(["estimate", str(path)]) == 1
    assert "the config lacks" in capsys.readouterr().err
    assert main(["estimate", "tiny", "--gpu", "H1000"]) == 1
    assert "did you mean 'H100'" in capsys.readouterr().err
    assert main(["estimate"]) == 2
    assert "Missing argument 'model'" in capsys.readouterr().err


LLAMA = known_config("llama-3.1-8b")
LINEAR, WHOLE = 6_979_321_856, 8_030_261_248  # weights in linear layers of Llama-3.1-8B, and all


@pytest.mark.parametrize(("quantization", "bits"), [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5),
    ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 4 + 8 / 64 + 32 / 16384),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": ["lm_head"]}, 8),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
    ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8),
    ({"quant_method": "awq", "bits": 4, "group_size": 64, "modules_to_not_convert": None}, 4 + 20 / 64),
    ({"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": [
        "lm_head", "model.layers.0.input_layernorm", "model.layers.0.mlp.gate"]}, 8 + 32 / 16384),
    ({"quant_method": "compressed-tensors", "ignore": ["lm_head", "re:.*mlp.gate$"], "config_groups": {
        "group_0": {"weights": {"num_bits": 4, "group_size": 128}}}}, 4 + 16 / 128),
])
def test_a_quantised_base_keeps_the_bits_of_its_format(quantization, bits):
    found = lk.estimate(LLAMA | {"quantization_config": quantization}, SPEC, "H100", recompute=True)
    assert found.memory["weights"] == pytest.approx(2 * (WHOLE - LINEAR) + LINEAR * bits / 8, abs=1)
    assert f"{bits:.3g} bits a weight" in found.assumption
    with pytest.raises(EstimateError, match=r"quantised .* take no gradient; price an adapter"):
        lk.estimate(LLAMA | {"quantization_config": quantization}, replace(SPEC, lora=None), "H100")


def test_mxfp4_keeps_experts_alone_small():
    config = known_config("gpt-oss-20b") | {"quantization_config": {
        "quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}}
    experts = 24 * 32 * 3 * 2880 * 2880
    assert lk.ModelShape.of(config).weight_bytes(2) == 2 * (20_914_757_184 - experts) + experts * 4.25 / 8


@pytest.mark.parametrize("quantization", [
    {"quant_method": "aqlm"}, {"quant_method": "hqq", "bits": 4}, {}, {"quant_method": "gptq"},
    {"quant_method": "bitsandbytes"}, {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp"]},
    {"quant_method": "compressed-tensors"}, {"quant_method": "fp8", "modules_to_not_convert": ["mlp.gate_proj"]},
    {"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["visual"]},
])
def test_a_format_whose_bits_are_unknown_is_refused(quantization):
    with pytest.raises(ConfigError, match="quantization_config"):
        lk.estimate(LLAMA | {"quantization_config": quantization}, SPEC, "H100")


def test_a_mixture_with_bitsandbytes_is_refused():
    config = known_config("qwen3-30b-a3b") | {"quantization_config": {"load_in_4bit": True}}
    with pytest.raises(ConfigError, match="leaves as it is"):
        lk.estimate(config, SPEC, "H100")
