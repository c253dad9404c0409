"""K policies that sample and learn in one pack: TRL's loss and gradients, nobody's neighbours, and clear refusals."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from toy_rl import broken, keep_float64, model, names_the_goal, not_a_number, silent, spec, task, words

from lorakit.adapters.peft_layers import adapted_layers, attach
from lorakit.bases.model_checks import FrozenWeightsError
from lorakit.data.rl_tasks import DatasetError
from lorakit.grpo_spec import ARTICLE_OBJECTIVE, GRPO_OBJECTIVE
from lorakit.packed import grpo as module
from lorakit.packed.grpo import accumulate, train_grpo_pack
from lorakit.packed.merging import MergingLoRALinear, base_only, give_bases, sampler
from lorakit.packed.model import PackedModel
from lorakit.reference.grpo import _trainer
from lorakit.rewards import RewardError
from lorakit.rl.episodes import Episodes, NoRewardWarning, bits
from lorakit.rl.objective import advantages, importance, token_losses
from lorakit.rl.rollout import sample, stop_tokens, uniforms

LIMIT = 1e-9
pytestmark = pytest.mark.filterwarnings("ignore::lorakit.theory.shapes.RankWasteWarning")
COLUMNS = ("reward", "validation_accuracy", "test_accuracy", "advantage_entropy", "length", "kl")


def train(specs, work=None, network=None, **options):
    return train_grpo_pack(specs, network or model(getattr(torch, specs[0].dtype)), words(), work or task(), **options)


def far(a, b):
    """The largest difference between the curves of two results."""
    assert a.curve["step"] == b.curve["step"]
    return max(abs(x - y) for name in COLUMNS for x, y in zip(a.curve[name], b.curve[name], strict=True))


def plain_log_probs(self, network, ids, mask, keep, *arguments, **named):
    """In place of TRL's fused kernel, which computes in float32 whatever the model's dtype."""
    inner = network.get_base_model() if hasattr(network, "get_base_model") else network
    logits = inner(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -keep - 1 : -1] / self.temperature
    found = logits.log_softmax(-1)
    entropy = -(found.exp() * found).sum(-1)
    return found.gather(2, ids[:, -keep:].unsqueeze(2)).squeeze(2), entropy, None


OBJECTIVES = {
    "article": ARTICLE_OBJECTIVE,
    "grpo": GRPO_OBJECTIVE,
    "dapo, clipped higher, with KL": {"loss": "dapo", "clip": 0.1, "clip_high": 0.4, "kl_coefficient": 0.3},
    "cut completions left out": {"loss": "dr_grpo", "clip": 0.2, "mask_truncated": True, "kl_coefficient": 0.1},
    "by sequence": {"loss": "grpo", "importance_sampling": "sequence_mask", "importance_cap": 1.05},
}


@pytest.mark.parametrize("rank", [4, None], ids=["lora", "full"])
def test_loss_and_gradients_are_trls(rank, monkeypatch, tmp_path):
    """Five objectives in one pack of policies, each against GRPOTrainer._compute_loss on the same completions."""
    keep_float64(monkeypatch)
    monkeypatch.setattr(module, "ACTIVATIONS_AT_ONCE", {"cpu": 1})  # and in as many parts as there are problems
    specs = [spec(rank=rank, dtype="float64", seed=seed, prompts_per_step=4, group_size=3, **fields)
             for seed, fields in enumerate(OBJECTIVES.values())]
    prompts = [[5, 6], [7, 8, 9, 10], [12], [13, 14, 15]]
    network, count = model(torch.float64), len(specs)
    rng = torch.Generator().manual_seed(0)
    rows = count * 12
    heat = torch.full((rows, 1), 0.9, dtype=torch.float64)
    with PackedModel(network, specs, 100) as packed:
        packed.optimizer.flat.add_(0.1 * torch.randn(packed.optimizer.flat.shape, generator=rng).double())
        found = sample(packed.model, prompts * count, 3, 6, [2, 3], heat, uniforms(0, 0, rows, 6))
        off = 0.2 * torch.randn(found.mask.shape, generator=rng).double()
        found = replace(found, log_probs=found.log_probs + off * found.mask)  # a sampler that computes differently
        gains = torch.randn(count, 12, generator=rng).double()
        batch = module._batch(specs, found, heat, gains)
        shape = (count, 12, -1)
        batch.old = (module._in_parts(packed.model, batch, count) + 0.3 * torch.randn(
            found.mask.shape, generator=rng).double().view(shape)).where(found.mask.view(shape), 0.0)
        with base_only(packed) as base:
            batch.reference = module._in_parts(base, batch, count)
        losses = accumulate(packed, specs, batch)
        packed.optimizer.gather()
        gradients, weights = packed.optimizer.grad.clone(), [packed.configuration(k) for k in range(count)]
        spans = [(name, part, p.shape[1:], p) for name, layer in packed.layers.items()
                 for part, p in layer.named_parameters() if p.requires_grad]
        places = {id(p): i for i, p in enumerate(packed.optimizer.parameters)}
        sizes = [p.numel() // count for p in packed.optimizer.parameters]
    for k, run in enumerate(specs):
        trained = model(torch.float64)
        trained = attach(trained, run.lora, run.seed) if rank else trained
        for name, parts in weights[k].items():
            if rank:
                layer = adapted_layers(trained)[name]
                layer.lora_A["default"].weight.data.copy_(parts[0])
                layer.lora_B["default"].weight.data.copy_(parts[1])
            else:
                trained.get_parameter(name).data.copy_(parts)
        work = task()
        held_out = module.HeldOut(run, work, words(), 64, [2, 3])
        trainer = _trainer(replace(run, kl_coefficient=0.0) if rank is None else run, trained, model(torch.float64),
                           words(), work, held_out, Episodes(run, work), "none", str(tmp_path), None)
        trainer.beta, trainer.use_vllm, trainer.current_gradient_accumulation_steps = run.kl_coefficient, True, 1
        monkeypatch.setattr(type(trainer), "_get_per_token_logps_and_entropies", plain_log_probs)
        mine = slice(k * 12, (k + 1) * 12)
        mask, sampled, old = found.mask[mine], found.log_probs[mine], batch.old[k]
        counted = mask & found.ended[mine].unsqueeze(1) if run.mask_truncated else mask
        ratio = ((old - sampled) * mask).exp()
        if run.importance_sampling == "sequence_mask":
            ratio = ((old - sampled) * mask).sum(1, keepdim=True).exp()
            ratio = ratio.masked_fill(ratio > run.importance_cap, 0.0)
            assert 0 < (ratio == 0).double().mean() < 1
        starts = [p for p in prompts for _ in range(3)]
        loss = trainer._compute_loss(trained, {
            "prompt_ids": torch.tensor([[0] * (4 - len(p)) + p for p in starts]),
            "prompt_mask": torch.tensor([[0] * (4 - len(p)) + [1] * len(p) for p in starts]),
            "completion_ids": found.tokens[mine], "completion_mask": counted.long(), "advantages": gains[k],
            "num_items_in_batch": counted.sum(), "old_per_token_logps": old, "importance_sampling_ratio": ratio,
            "ref_per_token_logps": batch.reference[k]})
        assert abs(loss.item() - losses[k].item()) <= LIMIT, list(OBJECTIVES)[k]
        assert abs(loss.item()) > 1e-3
        loss.backward()
        for name, part, _, p in spans:
            start = sum(sizes[: places[id(p)]])
            got = gradients[k, start : start + sizes[places[id(p)]]].view(p.shape[1:])
            if rank:
                layer = adapted_layers(trained)[name]
                expected = layer.lora_A["default"].weight.grad if part == "a" else layer.lora_B["default"].weight.grad.T
            else:
                expected = trained.get_parameter(f"{name}.{part}").grad
            assert (got - expected).abs().max() <= LIMIT, (list(OBJECTIVES)[k], name, part)
            assert expected.abs().max() > 1e-4


def test_nobody_depends_on_the_neighbours_in_the_pack():
    """Not even on one that diverges, on one with another rank, rate, temperature or objective."""
    runs = [spec(dtype="float64", seed=1, steps=5), spec(rank=2, dtype="float64", learning_rate=1e30, steps=5),
            spec(rank=7, dtype="float64", seed=1, steps=5, temperature=0.5, **GRPO_OBJECTIVE),
            spec(dtype="float64", seed=2, steps=5, kl_coefficient=0.2, learning_rate=3e-2, max_grad_norm=0.1)]
    together = train(runs)
    assert [r.status for r in together] == ["ok", "diverged", "ok", "ok"]
    for number in (0, 2, 3):
        alone = train([runs[number]])[0]
        assert far(alone, together[number]) <= 1e-6
        assert alone.metrics["grad_norm_first"] == pytest.approx(together[number].metrics["grad_norm_first"])
        assert alone.metrics["delta_norm"] == pytest.approx(together[number].metrics["delta_norm"], rel=1e-5)
    assert far(together[0], together[3]) > 0.01


@pytest.mark.parametrize("rank", [4, 64, None])
def test_rewards_rise_and_the_base_is_left_alone(rank):
    """Rank 64 learns through merged weights, which the sampler forms once a rollout."""
    run = spec(rank=rank, steps=30, learning_rate=3e-3 if rank is None else 1e-2)
    network = model()
    before = {name: p.clone() for name, p in network.state_dict().items()}
    result = train([run], network=network, keep_weights=True)[0]
    assert result.curve["reward"][-1] > result.curve["reward"][0] + 0.2
    assert result.metrics["validation_accuracy"] > result.metrics["base_validation_accuracy"] + 0.2
    assert result.metrics["best_validation_accuracy"] == max(result.curve["validation_accuracy"])
    assert all(torch.equal(p, before[name]) for name, p in network.state_dict().items())
    assert result.metrics["sampler_base_gap_first"] < 1e-4 < 0.1 < result.metrics["sampler_base_gap_last"]
    assert 0 <= result.metrics["sampler_gap_mean"] < 1e-5
    assert result.metrics["base_drift"] == 0
    assert result.curve["episodes"][-1] == 30 * 12
    assert result.tokens == result.curve["tokens"][-1] <= 30 * 12 * 6
    assert result.weights


def test_several_steps_on_each_batch_sample_only_once():
    runs = [spec(steps=6, iterations=3, **GRPO_OBJECTIVE), spec(steps=6, iterations=3, clip=1e-6)]
    results = train(runs)
    assert results[0].curve["episodes"][-1] == 2 * 12
    assert far(*results) > 1e-3, "from the second step on the ratio leaves 1, and the clip acts"


def test_merging_into_a_rounded_base_drifts_as_in_peft():
    base = model(torch.bfloat16)
    run = spec(dtype="bfloat16", merge_to_sample=True)
    adapted = attach(model(torch.bfloat16), run.lora, 0)
    peft = adapted_layers(adapted)
    with PackedModel(base, [run] * 2, 100) as packed:
        give_bases(packed)
        rng = torch.Generator().manual_seed(0)
        for _ in range(3):
            packed.optimizer.flat[1].add_(0.05 * torch.randn(packed.optimizer.flat[1].shape, generator=rng))
            for name, layer in peft.items():
                layer.lora_A["default"].weight.data.copy_(packed.layers[name].a[1])
                layer.lora_B["default"].weight.data.copy_(packed.layers[name].b[1].T)
            adapted.merge_adapter()
            with sampler(packed):
                for name, layer in peft.items():
                    assert torch.equal(packed.layers[name].bases[1], layer.get_base_layer().weight), "merged"
            adapted.unmerge_adapter()
            for name, layer in peft.items():
                assert isinstance(packed.layers[name], MergingLoRALinear)
                assert torch.equal(packed.layers[name].bases[1], layer.get_base_layer().weight), "taken out"
    result = train([run, replace(run, learning_rate=1e-3)], network=model(torch.bfloat16))
    assert all(r.metrics["base_drift"] > 1e-4 for r in result)
    native = train([spec(dtype="bfloat16")], network=model(torch.bfloat16))[0]
    assert native.metrics["base_drift"] == 0
    assert native.metrics["sampler_gap_max"] < result[0].metrics["sampler_gap_max"]


def test_a_policy_that_never_earns_anything_says_so():
    with pytest.warns(NoRewardWarning, match=r"H\(Adv\) = 0 bits.*format_steps"):
        result = train([spec()], task(silent))[0]
    assert result.metrics["groups_with_spread"] == 0
    assert result.curve["advantage_entropy"] == [0.0] * 3
    assert result.curve["zero_spread"] == [1.0] * 3
    assert result.metrics["delta_norm"] == 0


def test_a_reward_function_of_ones_own_gets_its_columns():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoRewardWarning)
        result = train([spec(steps=25, prompts_per_step=6, group_size=8)], task(names_the_goal, prompts=60))[0]
    assert result.curve["reward"][-1] > result.curve["reward"][0] + 0.1
    p = result.curve["reward"][0]
    entropy = -p * math.log2(p) - (1 - p) * math.log2(1 - p) if 0 < p < 1 else 0.0
    assert result.curve["reward_entropy"][0] == pytest.approx(entropy), "a binary reward carries H(p)"


def test_format_first_and_two_components(two_parts):
    work = task()
    run = spec(reward=two_parts, reward_weights=(1.0, 2.0), format_steps=2)
    book = Episodes(run, work)
    assert book.weights(2) == (1.0, 0.0)
    assert book.weights(3) == (1.0, 2.0)
    result = train([run], work)[0]
    assert {"reward_even_words", "reward_long_ones"} <= result.curve.keys()


@pytest.mark.parametrize(("reward", "message"), [
    (broken, "broken raised ZeroDivisionError"), (not_a_number, "not_a_number returned nan for the completion")])
def test_rewards_that_fail_are_errors_that_say_so(reward, message):
    with pytest.raises(RewardError, match=message):
        train([spec()], task(reward))


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="cannot share a pack"):
        train([spec(), spec(steps=5)])
    with pytest.raises(ValueError, match="engine='trl'"):
        train([spec(use_vllm=True)])
    with pytest.raises(DatasetError, match="the context is 64"):
        train([spec(max_completion_length=60)])


def test_a_base_that_changes_is_an_error(monkeypatch):
    network, put_back = model(), PackedModel.__exit__

    def careless(self, *error):
        put_back(self, *error)
        network.lm_head.weight.data[0, 0] += 1e-3

    monkeypatch.setattr(PackedModel, "__exit__", careless)
    with pytest.raises(FrozenWeightsError, match="base's weights changed"):
        train([spec()], network=network)


def test_advantages_by_hand():
    paid = torch.tensor([3.0, 1.0, math.nan, 2.0, 5.0, 5.0, 5.0, 5.0])
    assert advantages(paid, 4, "none").tolist() == [1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert advantages(paid, 4, "group").tolist()[:3] == pytest.approx([1 / 1.0001, -1 / 1.0001, 0.0])
    spread = float(torch.tensor([3.0, 1.0, 2.0, 5.0, 5.0, 5.0, 5.0]).std())
    assert advantages(paid, 4, "batch").tolist()[0] == pytest.approx(1 / (spread + 1e-4))


def test_importance_by_hand():
    learner, sampled = torch.tensor([[0.0, 1.0]]).log1p(), torch.zeros(1, 2)
    mask = torch.ones(1, 2, dtype=torch.bool)
    for kind, cap, expected in (("token_truncate", None, [1, 2]), ("token_truncate", 1.5, [1, 1.5]),
                                ("token_mask", 1.5, [1, 0]), ("sequence_truncate", 1.5, [1.5]),
                                ("sequence_mask", 3, [2]), ("sequence_mask", 1.5, [0]), ("none", None, [1])):
        run = spec(importance_sampling=kind, importance_cap=cap)
        assert importance(run, learner, sampled, mask)[0].tolist() == pytest.approx(expected), kind
    assert importance(spec(), learner, sampled, torch.tensor([[True, False]]))[0].tolist() == [1, 1]


def test_clipping_and_divergence_by_hand():
    ratio = torch.tensor([[1.5, 0.5]])
    one, none = torch.ones(1, 1), torch.zeros(1, 2)
    for gain, expected in ((1.0, [-1.2, -0.5]), (-1.0, [1.5, 0.8])):
        found = token_losses(spec(clip=0.2), ratio.log(), none, torch.tensor([gain]), one)
        assert found[0].tolist() == pytest.approx(expected)
    found = token_losses(spec(clip=0.2, clip_high=0.4), ratio.log(), none, torch.tensor([1.0]), 2 * one)
    assert found[0].tolist() == pytest.approx([-2.8, -1.0])
    found = token_losses(spec(kl_coefficient=0.5), none, none, torch.zeros(1), one, torch.tensor([[0.0, -1.0]]))
    assert found[0].tolist() == pytest.approx([0.0, 0.5 * (math.exp(-1) + 1 - 1)])


def test_bits_by_hand():
    assert bits([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.8112781)
    assert bits([0.1 + 0.2, 0.3]) == 0
    assert bits([]) == 0


def test_stop_tokens_of_the_toy():
    assert stop_tokens(model(), words(), task().stop) == [2, 3]
