"""Sampling with a KV cache and a shared prompt gives what whole forward passes give."""

import pytest
import torch
from toy_rl import STOP, keep_float64, model, words

from lorakit.rl import rollout as module
from lorakit.rl.rollout import log_probs, sample, stop_tokens, uniforms

PROMPTS = [[5, 6], [7, 8, 9, 10, 11], [12], [13, 14, 15]]
GROUP, LENGTH, TEMPERATURE = 3, 7, 0.7
ENDS = [2, 3]


def drawn(seed=0, dtype=torch.float64, length=LENGTH, prompts=PROMPTS, group=GROUP):
    rows = len(prompts) * group
    heat = torch.full((rows, 1), TEMPERATURE, dtype=dtype)
    return sample(model(dtype), prompts, group, length, ENDS, heat, uniforms(seed, 0, rows, length)), heat


def whole(found, network, row):
    """Log-probabilities of one completion from a forward pass over prompt and completion."""
    prompt, completion = PROMPTS[row // GROUP], found.completions()[row]
    logits = network(torch.tensor([prompt + completion]), use_cache=False).logits[0] / TEMPERATURE
    places = torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return logits.log_softmax(-1)[places, torch.tensor(completion)]


def test_sampler_and_learner_give_the_log_probabilities_of_whole_sequences():
    found, heat = drawn()
    network = model(torch.float64)
    learner = log_probs(network, found, heat)
    assert {len(c) for c in found.completions()} > {LENGTH}, "completions of several lengths are the point"
    for row, completion in enumerate(found.completions()):
        expected = whole(found, network, row)
        assert torch.allclose(found.log_probs[row, : len(completion)], expected, atol=1e-9)
        assert torch.allclose(learner[row, : len(completion)], expected, atol=1e-9)


@pytest.mark.parametrize("at_once", [2**27, 40 * 12 * 2])
def test_gradients_are_those_of_whole_sequences(at_once, monkeypatch):
    keep_float64(monkeypatch)
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", at_once)  # also where logits are made in chunks
    found, heat = drawn()
    gradients = []
    for shared in (True, False):
        network = model(torch.float64)
        gain = torch.linspace(-1, 1, len(found.mask), dtype=torch.float64)
        rows = log_probs(network, found, heat) * found.mask if shared else [
            whole(found, network, row) for row in range(len(found.mask))]
        sum(g * row.sum() for g, row in zip(gain, rows, strict=True)).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-9), name
        assert gradient.abs().max() > 1e-3, name


def test_greedy_completions_are_those_of_generate():
    network = model()
    found = sample(network, PROMPTS, 1, LENGTH, ENDS)
    for prompt, completion in zip(PROMPTS, found.completions(), strict=True):
        ids = torch.tensor([prompt])
        expected = network.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LENGTH,
                                    eos_token_id=ENDS, pad_token_id=0)[0, len(prompt) :]
        assert completion == expected.tolist()


def test_words_are_drawn_as_often_as_they_are_probable():
    found, _ = drawn(length=1, prompts=[[5, 6]], group=20_000)
    logits = model(torch.float64)(torch.tensor([[5, 6]]), use_cache=False).logits[0, -1] / TEMPERATURE
    seen = torch.bincount(found.tokens.flatten(), minlength=40) / 20_000
    assert (seen - logits.softmax(-1)).abs().max() < 4 * 0.5 / 20_000**0.5


def test_a_completion_ends_with_its_stop_or_is_cut():
    found, _ = drawn(length=5)
    for completion, ended in zip(found.completions(), found.ended.tolist(), strict=True):
        assert not set(completion[:-1]) & set(ENDS)
        assert ended == (completion[-1] in ENDS)
        assert ended or len(completion) == 5
    assert 0 < found.ended.float().mean() < 1
    assert (found.log_probs[~found.mask] == 0).all()


def test_draws_depend_on_seed_and_batch_alone():
    assert torch.equal(uniforms(3, 5, 8, 4), uniforms(3, 5, 8, 4))
    assert not torch.equal(uniforms(3, 5, 8, 4), uniforms(3, 6, 8, 4))
    assert not torch.equal(uniforms(3, 5, 8, 4), uniforms(4, 5, 8, 4))
    assert drawn(0)[0].completions() == drawn(0)[0].completions() != drawn(1)[0].completions()


def test_a_part_holds_the_same_problems_of_every_configuration():
    found, _ = drawn()
    part = found.part(2, slice(1, 2))  # two configurations of two problems each
    assert part.prompts.tolist() == found.prompts[[1, 3]].tolist()
    assert part.completions() == found.completions()[3:6] + found.completions()[9:12]


def test_ends_come_from_model_tokenizer_and_task():
    network = model()
    assert stop_tokens(network, words(), STOP) == [2, 3]
    network.generation_config.eos_token_id = [7, 8]
    assert stop_tokens(network, words(), None) == [3, 7, 8]
    with pytest.raises(ValueError, match="writes as 't4t5', so no completion would ever hold it"):
        stop_tokens(network, words(), "t4 t5")
    with pytest.raises(ValueError, match="writes as 't1'"):
        stop_tokens(network, words(), "unknown")
