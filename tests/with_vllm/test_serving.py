"""Adapters that lorakit trained and exported, served by vLLM beside each other, answer as PEFT's do."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from stop_rewards import vowels

import lorakit as lk

PROMPTS = ("copy lantern\n", "The cat sat on ", "12 + 30 = ")
NEW = 12  # tokens of each answer
ADAPTERS = (lk.LoRASpec(rank=1), lk.LoRASpec(rank=3, targets="attention"), lk.LoRASpec(rank=8, alpha=4, targets="mlp"),
            lk.LoRASpec(rank=16, targets=("model.layers.0.self_attn.q_proj", "down_proj")),
            lk.LoRASpec(rank=4, targets="all-linear+head"))


@pytest.fixture(scope="module")
def base():
    return lk.load_model("tiny")


@pytest.fixture(scope="module")
def adapters(sampled, tmp_path_factory):
    """Folders of adapters of several ranks and targets, trained hard enough that each answers otherwise; the last one
    learnt from a reward, sampled by vLLM."""
    records, folder = sampled
    learnt = folder / "adapters" / records[0].id
    folder = tmp_path_factory.mktemp("trained")
    spec = lk.SFTSpec(learning_rate=3e-3, steps=20, batch_size=8, max_length=64, evaluations=2)
    records = lk.run([replace(spec, lora=lora, seed=seed) for seed, lora in enumerate(ADAPTERS)], folder / "runs",
                     save_to=folder / "adapters")
    return [*(folder / "adapters" / record.id for record in records), learnt]


@pytest.fixture(scope="module")
def engine(base, adapters, vllm_loads, tmp_path_factory):
    """Float32, and one slot more than there are adapters: where every slot is taken, vLLM's kernels for processors
    answer requests without an adapter with the last one."""
    from vllm import LLM

    model, tokenizer = base
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return LLM(model=str(folder), dtype="float32", enable_lora=True, max_loras=len(adapters) + 1, max_lora_rank=16,
               enforce_eager=True, max_num_batched_tokens=4096, gpu_memory_utilization=0.3, seed=0)


def answers(engine, jobs):
    """Greedy answers to (ids of a prompt, folder of an adapter or None), all in one batch, with log-probabilities."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    numbers = {folder: n for n, folder in enumerate(dict.fromkeys(f for _, f in jobs if f), start=1)}
    done = engine.generate([{"prompt_token_ids": ids} for ids, _ in jobs],
                           SamplingParams(temperature=0, max_tokens=NEW, logprobs=0, ignore_eos=True), use_tqdm=False,
                           lora_request=[f and LoRARequest(f.name, numbers[f], str(f)) for _, f in jobs])
    return [(list(out.outputs[0].token_ids), [next(iter(place.values())).logprob for place in out.outputs[0].logprobs])
            for out in done]


@torch.no_grad()
def expected(model, ids, tokens):
    """The log-probabilities of the tokens after a prompt, and the likeliest ones in their places."""
    found = model(torch.tensor([[*ids, *tokens]])).logits[0, len(ids) - 1 : -1].float().log_softmax(-1)
    return found[range(len(tokens)), tokens].tolist(), found.argmax(-1).tolist()


def test_several_adapters_and_the_base_at_once_answer_as_peft_does(base, adapters, engine):
    model, tokenizer = base
    carriers = {folder: PeftModel.from_pretrained(copy.deepcopy(model), str(folder)) for folder in adapters}
    prompts = tokenizer(list(PROMPTS), add_special_tokens=False)["input_ids"]
    jobs = [(ids, folder) for ids in prompts for folder in (*adapters, None)]
    gap, texts = 0.0, {}
    for (ids, folder), (tokens, log_probs) in zip(jobs, answers(engine, jobs), strict=True):
        theirs, likeliest = expected(carriers[folder] if folder else model, ids, tokens)
        assert tokens == likeliest
        gap = max(gap, *(abs(a - b) for a, b in zip(log_probs, theirs, strict=True)))
        texts.setdefault(folder, []).append(tokens)
    paid = vowels(PROMPTS[:1], [tokenizer.decode(texts[adapters[-1]][0]).partition("\n")[0] + "\n"])
    print(f"largest gap between vLLM and PEFT: {gap:.1e} nats")
    assert gap <= 1e-3
    for folder in adapters:  # the adapter is really used: not one answers as the base, or as another one
        assert all(texts[folder] != other for key, other in texts.items() if key != folder)
    assert paid[0] > 0.6
