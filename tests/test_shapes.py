"""Shapes agree with transformers' own modules and PEFT's own adapters, on the meta device."""

import csv
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

from lorakit.adapters.inspector import inspect_targets, meta_model
from lorakit.adapters.peft_layers import attach
from lorakit.specs import LoRASpec, UnknownNameError
from lorakit.theory.configs import KNOWN, ConfigError, known_config
from lorakit.theory.known import SOURCES
from lorakit.theory.shapes import ModelShape, RankWasteWarning

DATA = Path(os.environ.get("LORAKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 24, "vocab_size": 100, "tie_word_embeddings": False}
VARIANTS = [
    {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    {"model_type": "llama", "num_key_value_heads": None, "head_dim": None},
    {"model_type": "mistral"},
    {"model_type": "smollm3", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True},
    {"model_type": "qwen2", "head_dim": 16},
    {"model_type": "qwen3", "tie_word_embeddings": True},
    {"model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
     "mlp_only_layers": [1]},
    {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    {"model_type": "gemma2", "tie_word_embeddings": True},
    {"model_type": "gemma3_text"},
    {"model_type": "phi3", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 16},
    {"model_type": "olmo2", "head_dim": 16},
    {"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2},
]


def peft_count(source, **spec):
    model = meta_model(source)
    with torch.device("meta"):
        return attach(model, LoRASpec(**spec), seed=0).get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("name", KNOWN)
def test_totals_agree_with_transformers(name):
    assert ModelShape.of(name).parameters == sum(p.numel() for p in meta_model(name).parameters())


@pytest.mark.parametrize("name", ["tiny", "tiny-moe", "smollm2-135m", "qwen2.5-0.5b", "gemma-3-1b", "phi-4-mini",
                                  "gpt-oss-20b"])
def test_adapters_agree_with_peft(name):
    assert sum(ModelShape.of(name).lora_parameters(3).values()) == peft_count(name, rank=3)


def test_every_known_shape_names_the_file_that_it_was_read_from():
    assert SOURCES.keys() == KNOWN.keys()
    for name, source in SOURCES.items():
        assert source == "lorakit" if name.startswith("tiny") else len(source.split()) == 3, name


@pytest.mark.parametrize(("hub", "name"), [
    ("Qwen/Qwen3-4B-Instruct-2507@c1", "qwen3-4b"), ("unsloth/Meta-Llama-3.1-8B-Instruct@c1", "llama-3.1-8b"),
    ("google/gemma-2-9b-it@c1", "gemma-2-9b"), ("microsoft/Phi-4-mini-instruct", "phi-4-mini"),
    ("mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo-2407"), ("Qwen/Qwen2.5-Math-7B", "qwen2.5-7b"),
    ("mistralai/Mistral-Small-24B-Base-2501", "mistral-small-24b-2501"), ("openai/gpt-oss-20b", "gpt-oss-20b"),
    ("allenai/OLMo-2-1124-7B-SFT", "olmo-2-1124-7b"),
])
def test_a_hub_id_means_the_shape_that_it_shares(hub, name):
    assert known_config(hub) == KNOWN[name]


@pytest.mark.parametrize("hub", ["unsloth/Llama-3.1-8B-Instruct-bnb-4bit", "Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-8B-FP8",
                                 "Qwen/Qwen3-Coder-30B-A3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"])
def test_a_hub_id_with_another_word_is_unknown(hub):
    with pytest.raises(UnknownNameError, match="unknown shape"):
        known_config(hub)


def test_counts_for_a_unit_of_rank_are_those_of_the_public_table():
    path = DATA / "peers_lora_parameters.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not here (LORAKIT_DATA names its folder)")
    compared = 0
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                unit = ModelShape.of(row["model"]).per_unit_rank(experts="shared-outer")
            except UnknownNameError:
                continue
            mlp = unit.get("experts", unit.get("mlp"))
            assert (mlp, unit["attention"], unit["head"]) == tuple(
                int(row[f"tinker_{part}"]) for part in ("mlp", "attn", "unembed")), row["model"]
            compared += 1
    assert compared == 16


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v["model_type"])
def test_every_supported_architecture_agrees_with_its_modules(variant):
    config = {k: v for k, v in (SMALL | variant).items() if v is not None}
    model = meta_model(config)
    for source in (config, model, model.config):
        assert ModelShape.of(source).parameters == sum(p.numel() for p in model.parameters())
    assert sum(ModelShape.of(config).lora_parameters(2).values()) == peft_count(config, rank=2)


@pytest.mark.parametrize("targets", ["attention", "mlp", "all-linear+head", ("q_proj", "down_proj")])
@pytest.mark.parametrize("name", ["tiny", "llama-3.1-8b", "qwen3-8b"])
def test_target_selections_agree_with_peft(name, targets):
    assert sum(ModelShape.of(name).lora_parameters(8, targets).values()) == peft_count(name, rank=8, targets=targets)


def test_the_head_and_the_fused_experts_of_a_mixture_agree_with_peft():
    shape = ModelShape.of("qwen3-30b-a3b")
    assert sum(shape.lora_parameters(2, "all-linear+head").values()) == peft_count(
        "qwen3-30b-a3b", rank=2, targets="all-linear+head")
    fused = shape.lora_parameters(2, ("q_proj",), experts="fused")
    assert sum(fused.values()) == peft_count(
        "qwen3-30b-a3b", rank=2, targets=("q_proj", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"))


def test_known_totals_are_the_published_ones():
    # what the hub states for the weights of each; a tied head counts once
    published = {
        "smollm2-135m": 134_515_008, "smollm2-360m": 361_821_120, "smollm2-1.7b": 1_711_376_384,
        "smollm3-3b": 3_075_098_624, "llama-3.1-8b": 8_030_261_248, "llama-3.1-70b": 70_553_706_496,
        "llama-3.1-405b": 405_853_388_800, "llama-3.2-1b": 1_235_814_400, "llama-3.2-3b": 3_212_749_824,
        "qwen2.5-0.5b": 494_032_768, "qwen2.5-1.5b": 1_543_714_304, "qwen2.5-3b": 3_085_938_688,
        "qwen2.5-7b": 7_615_616_512, "qwen2.5-14b": 14_770_033_664, "qwen2.5-32b": 32_763_876_352,
        "qwen2.5-72b": 72_706_203_648, "qwen3-4b": 4_022_468_096, "qwen3-8b": 8_190_735_360,
        "qwen3-14b": 14_768_307_200, "qwen3-32b": 32_762_123_264, "qwen3-30b-a3b": 30_532_122_624,
        "qwen3-235b-a22b": 235_093_634_560, "gemma-2-2b": 2_614_341_888, "gemma-2-9b": 9_241_705_984,
        "gemma-2-27b": 27_227_128_320, "gemma-3-270m": 268_098_176, "gemma-3-1b": 999_885_952,
        "mistral-7b-v0.1": 7_241_732_096,
        "mistral-7b-v0.3": 7_248_023_552, "mistral-nemo-2407": 12_247_782_400, "mistral-small-24b-2501": 23_572_403_200,
        "mixtral-8x7b-v0.1": 46_702_792_704, "phi-4": 14_659_507_200, "phi-4-mini": 3_836_021_760,
        "olmo-2-0425-1b": 1_484_916_736, "olmo-2-1124-7b": 7_298_617_344, "olmo-2-1124-13b": 13_716_198_400,
        "gpt-oss-20b": 20_914_757_184, "gpt-oss-120b": 116_829_156_672}
    assert {name: ModelShape.of(name).parameters for name in published} == published
    for name, with_a_second_head in {"qwen3-0.6b": 751_632_384, "qwen3-1.7b": 2_031_739_904}.items():
        shape = ModelShape.of(name)
        assert shape.parameters + shape.parameters_by_component["embedding"] == with_a_second_head


def test_a_published_total_with_a_tower_for_pictures_is_the_language_model_and_the_tower():
    for name, published in {"gemma-3-4b": 4_300_079_472, "gemma-3-12b": 12_187_325_040,
                            "gemma-3-27b": 27_432_406_640}.items():
        config = known_config(name)
        tower = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
                 "image_size": 896, "patch_size": 14, "vision_use_head": False}
        whole = Gemma3Config(text_config={k: v for k, v in config.items() if k != "model_type"}, vision_config=tower)
        with torch.device("meta"):
            model = Gemma3ForConditionalGeneration(whole)
        assert sum(p.numel() for p in model.parameters()) == published
        language = sum(p.numel() for p in model.model.language_model.parameters())
        assert ModelShape.of(name).parameters == ModelShape.of(whole.text_config).parameters == language
        with pytest.raises(ConfigError, match="pass its text part"):
            ModelShape.of(whole)


def test_the_articles_table_adds_up_only_with_the_head():
    unit = ModelShape.of("llama-3.1-8b").per_unit_rank()
    assert unit == {"attention": 851_968, "mlp": 1_769_472, "head": 132_352}
    billions = {k: round(256 * v / 1e9, 2) for k, v in unit.items()}
    assert (billions["mlp"], billions["attention"]) == (0.45, 0.22)
    with_head = [round(256 * n / 1e9, 2) for n in (unit["mlp"] + unit["head"], unit["attention"] + unit["head"],
                                                   sum(unit.values()))]
    assert with_head == [0.49, 0.25, 0.7]


def test_expert_layouts_reproduce_the_counts_that_were_published():
    shape = ModelShape.of("qwen3-30b-a3b")
    unit = {layout: shape.per_unit_rank(experts=layout).get("experts") for layout in ("separate", "shared-outer", None)}
    assert unit == {"separate": 48 * 128 * 3 * (2048 + 768), "shared-outer": 14_450_688, None: None}
    assert shape.lora_parameters(8, experts="separate", expert_rank=1)["experts"] == 8 * 6_488_064


def test_rank_above_the_smaller_side_warns_and_says_what_is_wasted():
    shape = ModelShape.of("tiny")
    with pytest.warns(RankWasteWarning, match=r"rank 130 .*8,704 adapter parameters are wasted; rank 128"):
        shape.lora_parameters(130)
    assert shape.wasted_parameters(130) == 2 * (8 * 256 + 6 * 384)
    assert shape.wasted_parameters(128) == 0


@pytest.mark.parametrize("field", ["hidden_size", "num_hidden_layers", "vocab_size", "num_attention_heads",
                                   "intermediate_size", "tie_word_embeddings", "model_type"])
def test_a_missing_field_is_named(field):
    config = known_config("llama-3.1-8b")
    del config[field]
    with pytest.raises(ConfigError, match=f"lacks '{field}'"):
        ModelShape.of(config)


def test_qwen_needs_its_head_dim_and_a_mixture_its_experts():
    for field in ("head_dim", "num_key_value_heads", "num_experts", "moe_intermediate_size", "num_experts_per_tok"):
        config = known_config("qwen3-30b-a3b")
        del config[field]
        with pytest.raises(ConfigError, match=f"'{field}'"):
            ModelShape.of(config)


def test_bad_input_says_what_is_allowed():
    with pytest.raises(UnknownNameError, match=r"did you mean 'llama-3.1-8b'"):
        ModelShape.of("llama-3.1-9b")
    with pytest.raises(ConfigError, match=r"gpt2.*known: llama"):
        ModelShape.of({"model_type": "gpt2"})
    with pytest.raises(ConfigError, match=r"hidden_size='big'"):
        ModelShape.of(known_config("tiny") | {"hidden_size": "big"})
    with pytest.raises(ConfigError, match=r"not a config: int"):
        ModelShape.of(3)
    shape = ModelShape.of("tiny")
    for bad in ({"rank": 0}, {"rank": 1.5}, {"rank": 1, "targets": "attn"}, {"rank": 1, "targets": ("q_prj",)},
                {"rank": 1, "experts": "both"}, {"rank": 1, "expert_rank": 0}):
        with pytest.raises(ValueError, match=r"allowed|available"):
            shape.lora_parameters(**bad)


def test_the_inspector_names_what_is_left_out_and_leaves_a_loaded_model_as_it_is():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**known_config("tiny")))
    before = {name: id(module) for name, module in model.named_modules()}
    rows = inspect_targets(model, LoRASpec(rank=4)).set_index("component")
    assert before == {name: id(module) for name, module in model.named_modules()}
    assert rows["adapter_parameters"].sum() == 17_408
    assert rows["parameters"].sum() == 393_856
    assert rows["share"].sum() == pytest.approx(1)
    assert rows.loc["head", "adapted"] == 0
    assert "output layer" in rows.loc["head", "left_out"]
    assert rows.loc["attention", "left_out"] == ""


def test_the_inspector_shows_a_mixture_with_experts_and_one_without():
    qwen = inspect_targets("qwen3-30b-a3b", LoRASpec(rank=1)).set_index("component")
    assert (qwen.loc["experts", "adapted"], qwen.loc["router", "adapted"], qwen.loc["head", "adapted"]) == (96, 48, 0)
    gpt_oss = AutoConfig.for_model("gpt_oss", num_hidden_layers=2)
    rows = inspect_targets(gpt_oss, LoRASpec(rank=1)).set_index("component")
    assert rows.loc["experts", "adapted"] == 0
    assert "fused" in rows.loc["experts", "left_out"]
    tied = inspect_targets("llama-3.2-1b", LoRASpec(rank=1)).set_index("component")
    assert "shares the embedding" in tied.loc["head", "left_out"]
