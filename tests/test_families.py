"""A pack computes the model's own forward pass, in every family on the list, or is refused in words."""

import pytest
import torch
from plain_training import PAD, VOCABULARY, WIDTH, data, spec
from toy_rl import words
from transformers import AutoConfig, AutoModelForCausalLM

import lorakit as lk
from lorakit.bases import families
from lorakit.bases.families import FAMILIES, Family, UnsupportedModelError, refusal
from lorakit.packed.agreement import Own
from lorakit.packed.engine import train_pack
from lorakit.packed.model import PackedModel
from lorakit.reference.peft_loop import train_peft
from lorakit.reference.sft import train_sft
from lorakit.rl.rollout import log_probs, sample

SPLITS = data()
LOSSES = ("base_test_loss", "train_loss", "test_loss")
WINDOW = {"sliding_window": 4}
GRANITE = {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
           "attention_multiplier": 0.1}
# What makes a family itself, with figures far from those that do nothing. `targets` goes to the adapter.
SPECIAL = {
    "cohere": {"logit_scale": 0.2}, "cohere2": {"logit_scale": 0.2, **WINDOW},
    "gemma2": {"final_logit_softcapping": 0.5, "attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 8, **WINDOW},
    "gemma3_text": {"final_logit_softcapping": 0.5, "query_pre_attn_scalar": 8, **WINDOW},
    "vaultgemma": {"final_logit_softcapping": 0.5, "attn_logit_softcapping": 0.5, "query_pre_attn_scalar": 8, **WINDOW},
    "granite": GRANITE, "granitemoe": GRANITE, "granitemoeshared": GRANITE,
    "hyperclovax": {"logits_scaling": 0.3},
    "minicpm3": {"dim_model_base": 8, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8,
                 "qk_rope_head_dim": 8, "v_head_dim": 8, "num_key_value_heads": 4, "head_dim": 8},
    "nanochat": {"final_logit_softcapping": 0.5},
    "mistral": WINDOW, "phi3": WINDOW, "exaone4": WINDOW, "olmo3": WINDOW, "starcoder2": WINDOW, "smollm3": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1, **WINDOW}, "qwen3": {},
    "gpt_oss": {"targets": "attention", "num_local_experts": 4, "num_experts_per_tok": 2, **WINDOW},
    "mixtral": {"targets": "attention", "num_local_experts": 4, **WINDOW},
    "olmoe": {"targets": "attention", "num_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {"targets": "attention", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "qwen3_moe": {"targets": "attention", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": WIDTH},
}


def made(kind, **fields):
    """A random model of two layers, all of whose dropout is off unless `fields` say otherwise."""
    torch.manual_seed(1)
    given = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
             "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.15}
    config = AutoConfig.for_model(kind, **given | fields)
    for name in families.noise(config).keys() - fields.keys():
        setattr(config, name, 0.0)
    softcapped = getattr(config, "attn_logit_softcapping", None)
    model = AutoModelForCausalLM.from_config(config, **({"attn_implementation": "eager"} if softcapped else {})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def special(kind):
    """The model of a family with what makes it itself, and the targets that a pack can adapt."""
    fields = dict(SPECIAL.get(kind, {}))
    targets = fields.pop("targets", "all-linear")
    return made(kind, **fields), targets


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_trains_as_its_own_forward_pass_does(kind):
    model, targets = special(kind)
    specs = [spec(rank=rank, steps=3, evaluations=2, lora={"targets": targets}, seed=rank) for rank in (1, 4)]
    packed = [result.metrics for result in train_pack(specs, model, SPLITS)]
    for run, found in zip(specs, packed, strict=True):
        plain = train_peft(run, model, SPLITS).metrics
        assert max(abs(found[name] - plain[name]) for name in LOSSES) <= 1e-5


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_table_says_which_norms_are_rms_norms(kind):
    model, seen = special(kind)[0], []
    for module in model.modules():
        seen += [module] if isinstance(module, torch.nn.LayerNorm) else []
        own = dict(module.named_parameters(recurse=False))
        if set(own) == {"weight"} and own["weight"].ndim == 1 and not isinstance(module, torch.nn.LayerNorm):
            x = torch.linspace(-1, 3, len(module.weight))[None]
            plain = x * torch.rsqrt(x.square().mean() + 1e-5) * module.weight
            computes = torch.allclose(module(x), plain, rtol=1e-3, atol=1e-3)
            assert families.is_rms_norm(module, model.config) == (computes and hasattr(module, "variance_epsilon"))
            seen.append(module)
    assert bool(seen) != (kind in ("olmo", "nanochat")), "their norms alone have no weights"


@pytest.mark.parametrize("kind", sorted(FAMILIES.keys() - {"lfm2"}))
def test_every_family_samples_and_learns_from_prompts_of_unequal_length(kind):
    model = special(kind)[0]
    own = Own(model)
    with PackedModel(model, [spec(rank=2, lora={"targets": "attention"})] * 2) as packed:
        own.require_log_probs(packed)
    prompts = [[5] * 3, [7, 8, 9] * 5, [11, 12, 13, 14] * 3]
    found = sample(model, prompts, 2, 6, [VOCABULARY - 1], torch.ones(6, 1), torch.rand(6, 6))
    learnt = log_probs(model, found, torch.ones(6, 1))
    for row in range(6):
        prompt, mask = prompts[row // 2], found.mask[row]
        ids = torch.tensor([prompt + found.tokens[row].tolist()])
        own = model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        own = own[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None]).squeeze(1)[mask]
        assert (found.log_probs[row][mask] - own).abs().max() <= 2e-5
        assert (learnt[row][mask] - own).abs().max() <= 2e-5


def test_a_family_whose_prompts_cannot_be_shared_is_refused_by_the_sampler():
    with pytest.raises(UnsupportedModelError, match=r"lfm2.*convolutions.*SFTSpec"):
        sample(special("lfm2")[0], [[5, 6, 7]], 2, 3, [2])


@pytest.mark.parametrize(("kind", "family"), [
    ("gemma2", Family()), ("granite", Family()), ("cohere", Family(divisor="logit_scale")),
])
def test_a_forward_pass_that_is_not_the_models_own_is_refused_before_training(kind, family, monkeypatch):
    model, _ = special(kind)
    monkeypatch.setattr(families, "FAMILIES", {**FAMILIES, kind: family})
    with pytest.raises(UnsupportedModelError, match=rf"than {kind}'s own forward pass.*engine='peft'"):
        train_pack([spec(steps=1)], model, SPLITS)


def test_padding_inside_a_window_would_be_noticed(monkeypatch):
    model, _ = special("mistral")
    from lorakit.rl import rollout

    own = Own(model)
    monkeypatch.setattr(rollout, "DynamicLayer", rollout.DynamicCache(config=model.config).layers[0].__class__)
    with PackedModel(model, [spec()]) as packed, pytest.raises(UnsupportedModelError, match="mistral's own"):
        own.require_log_probs(packed)


@pytest.mark.parametrize(("kind", "fields", "words"), [
    ("gpt2", {"n_positions": 64}, "'gpt2' is not among"), ("gpt_neox", {}, "'gpt_neox' is not among"),
    ("falcon_h1", {}, "'falcon_h1' is not among"), ("mamba", {}, "'mamba' is not among"),
    ("llama", {"attention_dropout": 0.1}, "attention_dropout=0.1"),
    ("opt", {"dropout": 0.1}, "dropout=0.1"), ("opt", {"layerdrop": 0.5}, "layerdrop=0.5"),
    ("phi", {"resid_pdrop": 0.1}, "resid_pdrop=0.1"), ("persimmon", {"hidden_dropout": 0.2}, "hidden_dropout=0.2"),
    ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise=0.1"),
])
def test_a_configuration_that_cannot_be_packed_says_why_and_what_to_do(kind, fields, words):
    reason = refusal(AutoConfig.for_model(kind, **fields))
    assert words in reason
    assert "engine='peft'" in reason


def test_what_has_dropout_in_its_name_alone_is_none():
    assert refusal(AutoConfig.for_model("llama", classifier_dropout=0.1)) is None
    assert refusal(AutoConfig.for_model("mistral", attention_dropout=0)) is None


@pytest.mark.parametrize("targets", ["all-linear", "experts", "attention+experts"])
def test_adapters_on_fused_experts_are_refused_and_the_base_is_as_it_was(targets):
    model, _ = special("qwen3_moe")
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(UnsupportedModelError, match=r"fused experts.*engine='peft'.*targets='attention'"):
        PackedModel(model, [spec(lora={"targets": targets})])
    assert [name for name, _ in model.named_modules()] == names


def test_a_linear_layer_with_a_forward_pass_of_its_own_is_refused():
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = made("llama")
    model.model.layers[0].mlp.up_proj = Doubled(WIDTH, 48, bias=False)
    for run in (spec(), spec(rank=None)):
        with pytest.raises((UnsupportedModelError, TypeError), match=r"Doubled.*engine='peft'"):
            PackedModel(model, [run])


def test_the_loop_trains_with_the_models_own_dropout_from_the_spec_s_seed():
    model = made("llama", attention_dropout=0.5)
    runs = [spec(rank=rank, steps=3, evaluations=2) for rank in (None, None, 4, 4)]
    before = torch.random.get_rng_state()
    dropped = [train_peft(run, model, SPLITS).metrics["train_loss"] for run in runs]
    assert torch.equal(torch.random.get_rng_state(), before)
    model = made("llama")
    whole = [train_peft(run, model, SPLITS).metrics["train_loss"] for run in runs]
    assert dropped[0] == dropped[1]
    assert dropped[2] == dropped[3]
    assert all(abs(a - b) > 1e-3 for a, b in zip(dropped, whole, strict=True))


@pytest.mark.parametrize("rank", [4, None])
@pytest.mark.parametrize(("kind", "fields"), [
    ("gpt2", {"n_positions": 64}), ("gpt_neox", {}),
    ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
])
def test_the_other_engines_agree_on_what_cannot_be_packed(kind, fields, rank):
    model, run = made(kind, **fields), spec(rank=rank, steps=2, evaluations=2, epsilon=1e-3)
    loop, trl = (train_peft(run, model, SPLITS).metrics, train_sft(run, model, words(), SPLITS).metrics)
    for name in (*LOSSES, "grad_norm_first", "delta_norm"):
        assert trl[name] == pytest.approx(loop[name], rel=1e-4), name


def test_a_registered_gemma_2_keeps_its_cap_on_attention(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    model = made("gemma2", **SPECIAL["gemma2"] | {"vocab_size": 256})
    ids = torch.arange(12).view(1, 12) + 3
    loaded, _ = lk.load_model(lk.register_model("capped", model, lk.load_model("tiny")[1]))
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
        if not model._supports_sdpa:  # transformers from 5.24 on has no such attention for it
            return
        model.set_attn_implementation("sdpa")
        assert (loaded(input_ids=ids).logits - model(input_ids=ids).logits).abs().max() > 1e-3
