"""The shapes of the models that people fine-tune most, each with the public file that its numbers were read from.

A row: name, model_type, whether head and embedding are one matrix, then the numbers of `FIELDS`, the source, and what
only mixtures have. The test suite builds each with transformers, without weights, and compares all parameters. A model
whose config could not be read in a public file is not here: pass its config.
"""

from __future__ import annotations

from typing import Any

FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
          "head_dim", "vocab_size")
# repository on GitHub, commit, path
LITGPT = "Lightning-AI/litgpt 0006c973 litgpt/config.py"
COPIES = "citsjtu2020/LLM-Prof 8434c8d1 sglang/Model_Config.md"
TRANSFORMERS = "huggingface/transformers v5.17.0 src/transformers/models"  # a class's defaults are the model
HERE = "lorakit"
NO_PICTURES = "the language model alone, without the 0.4 billion weights of its tower for pictures"


def _row(kind: str, tied: bool, *rest: Any, **more: Any) -> tuple[dict[str, Any], str]:
    *numbers, source = rest
    return {"model_type": kind, "tie_word_embeddings": tied, **dict(zip(FIELDS, numbers, strict=True)), **more}, source


_ROWS = {
    "tiny": _row("llama", False, 128, 256, 2, 4, 4, 32, 256, HERE),
    "tiny-moe": _row("qwen3_moe", False, 64, 128, 2, 2, 2, 32, 256, HERE,
                     num_experts=8, num_experts_per_tok=2, moe_intermediate_size=64),
    "smollm2-135m": _row("llama", True, 576, 1536, 30, 9, 3, 64, 49152, LITGPT),
    "smollm2-360m": _row("llama", True, 960, 2560, 32, 15, 5, 64, 49152, LITGPT),
    "smollm2-1.7b": _row("llama", True, 2048, 8192, 24, 32, 32, 64, 49152, LITGPT),
    "smollm3-3b": _row("smollm3", True, 2048, 11008, 36, 16, 4, 128, 128256,
                       f"{TRANSFORMERS}/smollm3/configuration_smollm3.py"),
    "llama-3-8b": _row("llama", False, 4096, 14336, 32, 32, 8, 128, 128256, LITGPT),
    "llama-3-70b": _row("llama", False, 8192, 28672, 80, 64, 8, 128, 128256, LITGPT),
    "llama-3.1-8b": _row("llama", False, 4096, 14336, 32, 32, 8, 128, 128256, COPIES),
    "llama-3.1-70b": _row("llama", False, 8192, 28672, 80, 64, 8, 128, 128256, LITGPT),
    "llama-3.1-405b": _row("llama", False, 16384, 53248, 126, 128, 8, 128, 128256, LITGPT),
    "llama-3.2-1b": _row("llama", True, 2048, 8192, 16, 32, 8, 64, 128256, LITGPT),
    "llama-3.2-3b": _row("llama", True, 3072, 8192, 28, 24, 8, 128, 128256, COPIES),
    "llama-3.3-70b": _row("llama", False, 8192, 28672, 80, 64, 8, 128, 128256, LITGPT),
    "qwen2.5-0.5b": _row("qwen2", True, 896, 4864, 24, 14, 2, 64, 151936, LITGPT),
    "qwen2.5-1.5b": _row("qwen2", True, 1536, 8960, 28, 12, 2, 128, 151936, LITGPT),
    "qwen2.5-3b": _row("qwen2", True, 2048, 11008, 36, 16, 2, 128, 151936, COPIES),
    "qwen2.5-7b": _row("qwen2", False, 3584, 18944, 28, 28, 4, 128, 152064, COPIES),
    "qwen2.5-14b": _row("qwen2", False, 5120, 13824, 48, 40, 8, 128, 152064, COPIES),
    "qwen2.5-32b": _row("qwen2", False, 5120, 27648, 64, 40, 8, 128, 152064, COPIES),
    "qwen2.5-72b": _row("qwen2", False, 8192, 29568, 80, 64, 8, 128, 152064, LITGPT),
    "qwen3-0.6b": _row("qwen3", True, 1024, 3072, 28, 16, 8, 128, 151936, LITGPT),
    "qwen3-1.7b": _row("qwen3", True, 2048, 6144, 28, 16, 8, 128, 151936, LITGPT),
    "qwen3-4b": _row("qwen3", True, 2560, 9728, 36, 32, 8, 128, 151936, COPIES),
    "qwen3-8b": _row("qwen3", False, 4096, 12288, 36, 32, 8, 128, 151936, COPIES),
    "qwen3-14b": _row("qwen3", False, 5120, 17408, 40, 40, 8, 128, 151936, COPIES),
    "qwen3-32b": _row("qwen3", False, 5120, 25600, 64, 64, 8, 128, 151936, COPIES),
    "qwen3-30b-a3b": _row("qwen3_moe", False, 2048, 6144, 48, 32, 4, 128, 151936, COPIES,
                          num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768),
    "qwen3-235b-a22b": _row("qwen3_moe", False, 4096, 12288, 94, 64, 4, 128, 151936, LITGPT,
                            num_experts=128, num_experts_per_tok=8, moe_intermediate_size=1536),
    "gemma-2-2b": _row("gemma2", True, 2304, 9216, 26, 8, 4, 256, 256000, LITGPT),
    "gemma-2-9b": _row("gemma2", True, 3584, 14336, 42, 16, 8, 256, 256000, LITGPT),
    "gemma-2-27b": _row("gemma2", True, 4608, 36864, 46, 32, 16, 128, 256000, LITGPT),
    "gemma-3-270m": _row("gemma3_text", True, 640, 2048, 18, 4, 1, 256, 262144,
                         "rasbt/LLMs-from-scratch 023e6bc6 ch05/12_gemma3/standalone-gemma3.ipynb"),
    "gemma-3-1b": _row("gemma3_text", True, 1152, 6912, 26, 4, 1, 256, 262144, LITGPT),
    # these three have 64 tokens more than litgpt says: so transformers' defaults, and the totals on the hub
    "gemma-3-4b": _row("gemma3_text", True, 2560, 10240, 34, 8, 4, 256, 262208, LITGPT, note=NO_PICTURES),
    "gemma-3-12b": _row("gemma3_text", True, 3840, 15360, 48, 16, 8, 256, 262208, LITGPT, note=NO_PICTURES),
    "gemma-3-27b": _row("gemma3_text", True, 5376, 21504, 62, 32, 16, 128, 262208, LITGPT, note=NO_PICTURES),
    "mistral-7b-v0.1": _row("mistral", False, 4096, 14336, 32, 32, 8, 128, 32000, LITGPT),
    "mistral-7b-v0.3": _row("mistral", False, 4096, 14336, 32, 32, 8, 128, 32768, LITGPT),
    "mistral-nemo-2407": _row("mistral", False, 5120, 14336, 40, 32, 8, 128, 131072, "kevinstephano/"
                              "thunder_model_blocks a23dd8fe thunder_model_blocks/mistral/mistral_config.py"),
    "mistral-small-24b-2501": _row("mistral", False, 5120, 32768, 40, 32, 8, 128, 131072, LITGPT),
    "mixtral-8x7b-v0.1": _row("mixtral", False, 4096, 14336, 32, 32, 8, 128, 32000, LITGPT,
                              num_local_experts=8, num_experts_per_tok=2),
    "phi-4": _row("phi3", False, 5120, 17920, 40, 40, 10, 128, 100352, "mehmetcc/pal b5a7a0de phi-4/config.json"),
    "phi-4-mini": _row("phi3", True, 3072, 8192, 32, 24, 8, 128, 200064, LITGPT),
    "olmo-2-0425-1b": _row("olmo2", False, 2048, 8192, 16, 16, 16, 128, 100352,
                           "facebookresearch/fairseq2 3d1ad42c src/fairseq2/models/olmo2/config.py"),
    "olmo-2-1124-7b": _row("olmo2", False, 4096, 11008, 32, 32, 32, 128, 100352, LITGPT),
    "olmo-2-1124-13b": _row("olmo2", False, 5120, 13824, 40, 40, 40, 128, 100352, LITGPT),
    "gpt-oss-20b": _row("gpt_oss", False, 2880, 2880, 24, 64, 8, 64, 201088,
                        "EchoCog/gpt-oss-20b 52971a17 config.json", num_local_experts=32, num_experts_per_tok=4),
    "gpt-oss-120b": _row("gpt_oss", False, 2880, 2880, 36, 64, 8, 64, 201088,
                         f"{TRANSFORMERS}/gpt_oss/configuration_gpt_oss.py",
                         num_local_experts=128, num_experts_per_tok=4),
}
KNOWN = {name: fields for name, (fields, _) in _ROWS.items()}
SOURCES = {name: source for name, (_, source) in _ROWS.items()}
