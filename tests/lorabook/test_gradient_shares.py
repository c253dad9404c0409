"""Shares of the tangent kernel are what a loop over single tokens gives, and add up to the whole."""

import pytest
import torch
from plain_training import split, tiny

from lorabook.probes.gradient_shares import gradient_shares
from lorakit.data.tokens import TokenSplit
from lorakit.specs import LoRASpec


def by_hand(model, part):
    """Trace and sum of the kernel by component, one forward and one backward pass a token."""
    groups = {"attention": "self_attn.", "mlp": "mlp.", "embedding": "embed_tokens", "head": "lm_head", "norms": "norm"}
    trace, total = dict.fromkeys(groups, 0.0), {}
    for ids, labels in zip(part.input_ids, part.labels, strict=True):
        for place in range(len(ids) - 1):
            if labels[place + 1] == -100:
                continue
            model.zero_grad()
            model(input_ids=ids[None]).logits[0, place].log_softmax(-1)[labels[place + 1]].backward()
            for name, parameter in model.named_parameters():
                kind = next(k for k in ("norms", *groups) if groups[k] in name)
                trace[kind] += parameter.grad.square().sum().item()
                total[name] = total.get(name, 0) + parameter.grad
    whole = dict.fromkeys(groups, 0.0)
    for name, gradient in total.items():
        whole[next(k for k in ("norms", *groups) if groups[k] in name)] += gradient.square().sum().item()
    return trace, whole


def test_shares_are_those_of_a_loop_over_tokens():
    model, part = tiny(dtype=torch.float64), split(0, 3)
    trace, whole = by_hand(model, part)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = gradient_shares(model, part, tokens=1000).set_index("component")
    for kind in trace:
        assert found.loc[kind, "kernel_share"] == pytest.approx(trace[kind] / sum(trace.values()), rel=1e-6)
        assert found.loc[kind, "gradient_share"] == pytest.approx(whole[kind] / sum(whole.values()), rel=1e-6)
    assert found[["parameter_share", "kernel_share", "gradient_share"]].sum().tolist() == pytest.approx([1, 1, 1])
    assert found["parameters"].sum() == sum(p.numel() for p in model.parameters())
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_an_adapter_at_its_start_moves_by_its_b_alone():
    model, part = tiny(), split(0, 3)
    both = gradient_shares(model, part, lora=LoRASpec(rank=2, targets="all-linear+head")).set_index("component")
    b_only = gradient_shares(model, part, lora=LoRASpec(rank=2, targets="all-linear+head", train_a=False))
    assert list(both.index) == ["attention", "mlp", "head"]
    assert both["kernel_share"].tolist() == pytest.approx(b_only["kernel_share"].tolist())
    assert both["parameters"].sum() > b_only["parameters"].sum()


def test_the_draw_follows_the_seed():
    model, part = tiny(), split(0, 9)
    one, again, other = (gradient_shares(model, part, tokens=4, seed=s)["kernel_share"].tolist() for s in (0, 0, 1))
    assert one == again != other


def test_nothing_to_draw_is_refused():
    part = split(0, 2)
    with pytest.raises(ValueError, match="of 0 label tokens"):
        gradient_shares(tiny(), TokenSplit(part.input_ids, torch.full_like(part.labels, -100)))
