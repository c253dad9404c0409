"""The book's probes: what they measure, and that they leave the run as it was."""


import pytest
import torch
from plain_training import data, mean_loss, spec, tiny

from lorabook.experiments import EXPERIMENTS
from lorabook.probes import PROBES, functions, lacking
from lorabook.probes.rounding import rounded_losses
from lorabook.probes.truncation import cut_to_ranks
from lorakit.bases.models import load_model
from lorakit.packed.engine import accumulate, evaluate, train_pack
from lorakit.packed.model import PackedModel
from lorakit.probes import load_probe
from lorakit.records import Record

SPLITS = data()


def test_change_cut_to_rank_r():
    """At full rank the loss is the trained one, at rank 0 the linear layers are the base's; weights are put back."""
    run = spec(rank=None, dtype="float64", steps=8, learning_rate=1e-2)
    with PackedModel(tiny(dtype=torch.float64), [run, spec(rank=None, dtype="float64", learning_rate=1e-3)]) as packed:
        for step in range(8):
            accumulate(packed, SPLITS["train"], torch.full((2, 1, 2), step), torch.device("cpu"))
            packed.optimizer.step()
        before, weights = packed.optimizer.flat.clone(), packed.configuration(0)
        losses = evaluate(packed, SPLITS["test"]).tolist()
        cut = cut_to_ranks(packed, lambda: evaluate(packed, SPLITS["test"]).tolist())
        assert torch.equal(packed.optimizer.flat, before)
    ranks = (1, 2, 4, 8, 16, 32)
    assert set(cut[0]) == {f"truncated_test_loss_r{r}" for r in (0, *ranks)} | {f"delta_energy_r{r}" for r in ranks}
    for k in (0, 1):
        assert cut[k]["truncated_test_loss_r32"] == pytest.approx(losses[k], abs=1e-6)
        assert cut[k]["delta_energy_r32"] == pytest.approx(1)
        energies = [cut[k][f"delta_energy_r{r}"] for r in ranks]
        assert energies == sorted(energies)
    model = tiny(dtype=torch.float64)
    base = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert not torch.equal(weights["lm_head.weight"], base["lm_head.weight"])
    model.load_state_dict({n: base[n] if "_proj." in n else w for n, w in weights.items()})
    assert cut[0]["truncated_test_loss_r0"] == pytest.approx(mean_loss(model, SPLITS["test"]).item(), abs=1e-9)
    delta = weights["model.layers.0.mlp.up_proj.weight"] - base["model.layers.0.mlp.up_proj.weight"]
    assert torch.linalg.matrix_rank(delta) > 8, "or else cutting would change nothing"
    assert abs(cut[0]["truncated_test_loss_r1"] - losses[0]) > 1e-4


def test_the_rounded_adapter_is_measured_and_put_back():
    run = spec(rank=4, steps=5, learning_rate=1e-2, dtype="float32")
    result = train_pack([run], tiny().float(), SPLITS, keep_weights=True, probes=[rounded_losses])[0]
    with PackedModel(tiny().float(), [run]) as packed:
        for name, (a, b) in result.weights.items():
            packed.layers[name].a.data[0], packed.layers[name].b.data[0] = a.bfloat16(), b.T.bfloat16()
        rounded = evaluate(packed, SPLITS["test"].head(run.evaluation_tokens)).item()
    assert result.metrics["test_loss_bf16"] == pytest.approx(rounded, rel=1e-6)
    assert result.metrics["test_loss_bf16"] != result.metrics["test_loss"]


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_leaves_curve_and_weights_alone_and_a_record_without_it_lacks_it_alone(name):
    rank = None if name == "truncation" else 4
    run = spec(rank=rank, steps=3, dtype="float32")
    (place,) = functions([name])
    model, tokenizer = load_model("tiny-w32-s0")
    plain, probed = (train_pack([run], model, SPLITS, True, tokenizer=tokenizer, probes=probes)[0]
                     for probes in ((), [load_probe(place)]))
    assert plain.curve == probed.curve
    for layer, pair in plain.weights.items():
        assert all(map(torch.equal, pair, probed.weights[layer])) if rank else torch.equal(pair, probed.weights[layer])
    assert plain.metrics.items() <= probed.metrics.items()
    without, with_it = (Record.from_run(run, "ok", result.metrics, result.curve, {}) for result in (plain, probed))
    assert lacking(name, [without, with_it]) == [without]


def test_every_probe_is_asked_for_by_an_experiment():
    """The rounding was once asked for by none: pages read it in old records, and no new run could have it."""
    assert {name for experiment in EXPERIMENTS.values() for name in experiment.probes} == set(PROBES)
