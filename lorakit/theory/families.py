"""From a config to a shape: where the model families put their matrices, biases, norms and experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorakit.theory.configs import ConfigError, ConfigFields
from lorakit.theory.matrices import Matrix
from lorakit.theory.quantization import read_quantization


@dataclass(frozen=True)
class Family:
    """What sets a model_type apart from Llama.

    Args:
        norms: of the hidden size, in each layer.
        head_norms: of queries and keys: None, one weight a channel of a `head`, or one a channel of the `whole` width.
        query_bias: biases of q, k and v that the config does not mention.
        fused: q, k and v in one matrix, gate and up in another.
        tied: what a config without `tie_word_embeddings` means; None where it has to say.
        head_dim_from_width: whether a config without `head_dim` (and key-value heads) means width / heads (and all).
        expert_width: the config's field for an expert's inner width, of a mixture.
        expert_bias: biases of experts and router, and a learnt sink for each head.
        peft_reaches_experts: as in `ModelShape`.
    """

    norms: int = 2
    head_norms: str | None = None
    query_bias: bool = False
    fused: bool = False
    tied: bool | None = None
    head_dim_from_width: bool = True
    expert_width: str | None = None
    expert_bias: bool = False
    peft_reaches_experts: bool = True


FAMILIES = {
    "llama": Family(), "mistral": Family(), "smollm3": Family(), "qwen2": Family(query_bias=True),
    "qwen3": Family(head_norms="head", head_dim_from_width=False),
    "qwen3_moe": Family(head_norms="head", head_dim_from_width=False, expert_width="moe_intermediate_size"),
    "mixtral": Family(expert_width="intermediate_size"),
    "gemma2": Family(norms=4, tied=True, head_dim_from_width=False),
    "gemma3_text": Family(norms=4, head_norms="head", tied=True, head_dim_from_width=False),
    "phi3": Family(fused=True), "olmo2": Family(head_norms="whole"),
    "gpt_oss": Family(expert_width="intermediate_size", expert_bias=True, head_dim_from_width=False,
                      peft_reaches_experts=False),
}
MODEL_TYPES = tuple(FAMILIES)


def shape_fields(config: ConfigFields, name: str | None) -> dict[str, Any]:
    """The fields of the `ModelShape` that a config describes.

    Raises:
        ConfigError: a field is missing, or the model_type is not one of `MODEL_TYPES`.
    """
    kind = config("model_type")
    if kind not in FAMILIES:
        text = (": it holds a language model beside others; pass its text part (`config.text_config`), which leaves "
                "out the rest") if "text_config" in config.fields else ""
        raise ConfigError(f"model_type={kind!r} has shapes that are not known here{text}; known: "
                          f"{', '.join(MODEL_TYPES)}")
    family = FAMILIES[kind]
    hidden, layers, vocabulary = (config.count(f) for f in ("hidden_size", "num_hidden_layers", "vocab_size"))
    heads, inner = config.count("num_attention_heads"), config.count("intermediate_size")
    # an older Llama config leaves these two out and means no grouping; a guess would be wrong for other families
    guess = family.head_dim_from_width
    head_dim = config.get("head_dim", hidden // heads) if guess else config.count("head_dim")
    key_values = config.get("num_key_value_heads", heads) if guess else config.count("num_key_value_heads")
    queries, keys = heads * head_dim, key_values * head_dim
    sparse = _sparse_layers(kind, config, layers) if family.expert_width else 0
    dense = layers - sparse
    matrices = _dense(family, hidden, inner, queries, keys, layers, dense)
    vectors = {"norms": hidden * (family.norms * layers + 1), "attention": 0, "mlp": 0, "experts": 0, "router": 0}
    experts = active = None
    if sparse and family.expert_width:
        experts, active = config.count("num_experts", "num_local_experts"), config.count("num_experts_per_tok")
        width = config.count(family.expert_width)
        matrices += [Matrix("experts", "gate_up_proj", 2 * width, hidden, sparse * experts),
                     Matrix("experts", "down_proj", hidden, width, sparse * experts),
                     Matrix("router", "gate", experts, hidden, sparse)]
        if family.expert_bias:
            vectors |= {"experts": (2 * width + hidden) * sparse * experts, "router": experts * sparse}
    matrices += [Matrix("embedding", "embed_tokens", vocabulary, hidden, 1),
                 Matrix("head", "lm_head", vocabulary, hidden, 1)]
    if family.head_norms:
        vectors["norms"] += (2 * head_dim if family.head_norms == "head" else queries + keys) * layers
    if family.query_bias:
        vectors["attention"] = (queries + 2 * keys) * layers
    elif config.get("attention_bias", family.expert_bias) and not family.fused:
        vectors["attention"] = (queries + 2 * keys + hidden) * layers
    if family.expert_bias:
        vectors["attention"] += heads * layers
    if config.get("mlp_bias", False):
        vectors["mlp"] = (2 * inner + hidden) * dense
    tied = bool(config("tie_word_embeddings") if family.tied is None else
                config.get("tie_word_embeddings", family.tied))
    visited = (active or 1) * width if sparse and family.expert_width else inner
    return dict(name=name or kind, matrices=tuple(matrices), vectors=vectors, tied=tied, hidden_size=hidden,
                layers=layers, query_size=queries, key_size=keys, inner_size=visited, head_dim=head_dim,
                norms=family.norms, head_norms=family.head_norms, experts=experts, active_experts=active,
                peft_reaches_experts=family.peft_reaches_experts,
                quantization=read_quantization(config.get("quantization_config", None), bool(sparse)),
                note=config.get("note", None))


def _dense(family: Family, hidden: int, inner: int, queries: int, keys: int, layers: int, dense: int) -> list[Matrix]:
    """Attention of all layers, and the MLP of those that have a dense one."""
    if family.fused:
        matrices = [Matrix("attention", "qkv_proj", queries + 2 * keys, hidden, layers)]
        gates = [Matrix("mlp", "gate_up_proj", 2 * inner, hidden, dense)]
    else:
        matrices = [Matrix("attention", "q_proj", queries, hidden, layers),
                    Matrix("attention", "k_proj", keys, hidden, layers),
                    Matrix("attention", "v_proj", keys, hidden, layers)]
        gates = [Matrix("mlp", "gate_proj", inner, hidden, dense), Matrix("mlp", "up_proj", inner, hidden, dense)]
    matrices.append(Matrix("attention", "o_proj", hidden, queries, layers))
    return matrices + ([*gates, Matrix("mlp", "down_proj", hidden, inner, dense)] if dense else [])


def _sparse_layers(kind: str, config: ConfigFields, layers: int) -> int:
    """How many layers hold experts: all of them; of Qwen's every `decoder_sparse_step`-th that is not listed."""
    if kind != "qwen3_moe":
        return layers
    step, listed = config.get("decoder_sparse_step", 1), config.get("mlp_only_layers", [])
    return sum(1 for layer in range(layers) if layer not in listed and (layer + 1) % step == 0)
