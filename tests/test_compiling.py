"""Options that only buy speed: compiled layers, flash attention, fused AdamW, TF32; each beside what it replaces."""

from __future__ import annotations

import functools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from plain_training import data, largest_difference, spec, tiny
from torch._dynamo.utils import counters
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from lorakit.grpo_spec import GRPOSpec
from lorakit.packed.agreement import Own
from lorakit.packed.engine import train_pack
from lorakit.reference import configs
from lorakit.reference.adamw import MasterAdamW, adamw
from lorakit.reference.configs import trl_config
from lorakit.specs import SpecError
from lorakit.sweep import worker
from lorakit.sweep.call import check_engine

SPLITS = data()
ATTEND = functional.scaled_dot_product_attention
pytestmark = pytest.mark.filterwarnings("ignore::lorakit.theory.shapes.RankWasteWarning")


@pytest.mark.filterwarnings("ignore")  # the compiler's of its own doings, which it hides, but not from pytest
@pytest.mark.parametrize(("rank", "fields"), [
    (4, {"accumulation": 2}), (4, {"recompute": True}), (None, {"micro_batch": 1})], ids=str)
def test_compiled_layers_take_the_same_steps(monkeypatch, rank, fields):
    """All of torch's compiler but its last stage, which writes kernels: C++ for a CPU takes it half a minute."""
    whole, modes = functools.partial(torch.compile, backend="aot_eager", fullgraph=True), set()
    monkeypatch.setattr(torch, "compile", lambda layer, mode, dynamic: modes.add(mode) or whole(layer, dynamic=dynamic))
    chosen = [spec(rank=rank, dtype="float64", steps=3, evaluations=2, seed=seed, **fields) for seed in range(2)]
    plain = train_pack(chosen, tiny(dtype=torch.float64, layers=4), SPLITS)
    counters.clear()
    model = tiny(dtype=torch.float64, layers=4)
    found = train_pack([replace(one, torch_compile=True) for one in chosen], model, SPLITS)
    assert modes == {"default" if fields.get("recompute") else "reduce-overhead"}, "the latter: CUDA graphs"
    assert 1 <= counters["stats"]["unique_graphs"] <= 2, "the first layer, whose input has no gradient, and the others"
    for one, other in zip(found, plain, strict=True):
        assert one.spec.id == other.spec.id
        assert largest_difference(one.curve, other.curve) <= 1e-12
        assert one.metrics["delta_norm"] == pytest.approx(other.metrics["delta_norm"], rel=1e-9)
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_packs_alone_compile_and_rl_does_not():
    compiling = spec(torch_compile=True)
    assert compiling.id == spec().id
    check_engine("packed", [compiling])
    for engine in ("trl", "peft"):
        with pytest.raises(ValueError, match=f"torch_compile=True: engine='{engine}' compiles nothing; allowed"):
            check_engine(engine, [compiling])
    with pytest.raises(SpecError, match="GRPOSpec has no field 'torch_compile'"):
        GRPOSpec(model="m@1", task="t@1", learning_rate=1e-3, torch_compile=True)


@pytest.fixture
def attended(monkeypatch):
    """How torch's attention was called: the dtype, whether with a mask, whether causal."""
    seen = set()

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **rest):
        seen.add((query.dtype, attn_mask is not None, is_causal))
        return ATTEND(query, key, value, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **rest)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attend)
    return seen


@pytest.mark.parametrize("rank", [4, None])
def test_sixteen_bits_attend_as_flash_attention_needs_it(attended, rank):
    """In 16 bit, causal, without a mask; by torch's flash and plain kernels alike, within rounding."""
    losses = []
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        with sdpa_kernel(kernel):
            (result,) = train_pack([spec(rank=rank, dtype="bfloat16", steps=3, evaluations=2)],
                                   tiny(dtype=torch.bfloat16), SPLITS)
        losses.append(result.curve)
    assert {one for one in attended if one[0] == torch.bfloat16} == {(torch.bfloat16, False, True)}
    assert largest_difference(*losses) <= 0.02


def test_a_window_that_slides_takes_a_mask_and_so_another_kernel(attended):
    train_pack([spec(dtype="bfloat16", steps=2, evaluations=2)],
               tiny("mistral", dtype=torch.bfloat16, sliding_window=8), SPLITS)
    assert (torch.bfloat16, True, False) in attended


def test_fused_adamw_takes_the_steps_of_the_plain_one(monkeypatch):
    """As `adamw` asks for on a GPU; packs are always updated so."""
    update, updates, weights = torch._fused_adamw_, [], {}
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *given, **more: updates.append(1) or update(*given, **more))
    for fused in (False, True):
        draws = torch.Generator().manual_seed(0)
        wide, narrow = (torch.randn(5, generator=draws).to(kind).requires_grad_()
                        for kind in (torch.float64, torch.bfloat16))
        optimizer = MasterAdamW([{"params": [wide, narrow]}], lr=1e-2, weight_decay=0.1, fused=fused)
        for _ in range(5):
            (wide.square().sum() + narrow.square().sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
        weights[fused] = wide.detach(), optimizer.masters[narrow].detach()
        assert len(updates) == (10 if fused else 0), "once a step for each of the two dtypes"
    torch.testing.assert_close(weights[True], weights[False])


def test_on_a_gpu_adamw_is_fused(monkeypatch):
    """A CPU's parameters that say that they are on one."""
    assert not adamw(spec(), tiny()).defaults["fused"]
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(MasterAdamW, "__init__", lambda self, groups, **options: setattr(self, "options", options))
    assert adamw(spec(), tiny()).options["fused"]


def test_tf32_is_on_for_the_runs_that_ask_for_it_and_for_no_others(monkeypatch):
    """A CPU has none, so what is asked of torch is looked at."""
    seen = []
    monkeypatch.setattr(worker, "_load", lambda *_: None)
    monkeypatch.setattr(worker, "run_specs", lambda *_: seen.append(torch.backends.cuda.matmul.fp32_precision))
    for tf32, device in ((True, "cuda"), (False, "cuda:1"), (True, "cpu")):
        worker.answer({"do": "run", "engine": "peft", "specs": [spec(tf32=tf32).to_json()], "device": device}, print)
    assert seen == ["tf32", "ieee", "ieee"]


def test_tf32_belongs_to_the_spec(monkeypatch):
    assert spec(tf32=False).id == spec().id != spec(tf32=True).id
    with pytest.raises(SpecError, match="tf32=True cannot be run; allowed: False with dtype='float64'"):
        spec(tf32=True, dtype="float64")
    with pytest.raises(ValueError, match="cannot share a pack"):
        train_pack([spec(), spec(tf32=True)], tiny(), SPLITS)
    assert not trl_config(spec(tf32=True)).tf32, "a CPU has none, and transformers refuses it"
    monkeypatch.setattr(configs, "is_torch_tf32_available", lambda: True)
    with pytest.raises(ValueError, match="tf32 requires Ampere"):  # transformers', on a CPU: the field arrives
        trl_config(spec(tf32=True))


def test_a_pack_may_differ_from_its_model_by_tf32s_rounding(monkeypatch):
    assert Own(tiny()).allowed == 1e-3
    monkeypatch.setattr(torch, "backends", SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace(
        fp32_precision="tf32"))))
    assert Own(tiny()).allowed == 0.0125
