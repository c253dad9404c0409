"""The lines of *Start to finish* that serve an adapter with vLLM: on the page's own adapter where its runs were made on
this machine, which the page then shows, else on a small one that is trained here."""

import json
from datetime import UTC, datetime
from pathlib import Path

import torch
from peft import PeftModel

import lorakit as lk
from lorakit.local_models import cache_folder
from lorakit.sweep.device import device_name

BOOK = Path(__file__).parents[2] / "book"
LINES = (BOOK / "serve_with_vllm.py").read_text(encoding="utf-8")
RECORDS = BOOK / "do-it" / "cpu" / "start-to-finish"
LONGEST = 10  # tokens of an answer


def pages_own():
    """Base and adapter that `lorabook refresh start-to-finish` left in the cache, with PEFT's answers; or None."""
    adapter = cache_folder() / "do-it" / "cpu" / "start-to-finish" / "both"
    bases = sorted((cache_folder() / "models").glob("smollm2-135m-instruct-q4-*"))
    if not adapter.exists() or not bases:
        return None
    answers = json.loads((RECORDS / "answers.json").read_text(encoding="utf-8"))["value"]
    return str(bases[0]), str(adapter), {row["prompt"]: row["GRPO"] for row in answers}


@torch.no_grad()
def small_one(folder):
    """The same of an adapter that has just learnt to say a meter's line, on the smallest base."""
    rows = [{"prompt": f"The {meter} meter says {number}.\n", "completion": f"{meter},{number}"}
            for meter in ("gas", "water", "heat") for number in range(100, 1000, 7)]
    spec = lk.SFTSpec(dataset=lk.register_dataset("meters", rows, end="\n"), learning_rate=3e-3, steps=60,
                      batch_size=8, max_length=48, lora=lk.LoRASpec(rank=4), evaluations=2)
    (record,) = lk.run([spec], folder / "runs", save_to=folder / "adapters")
    model, tokenizer = lk.load_model("tiny")
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    policy, answers = PeftModel.from_pretrained(model, folder / "adapters" / record.id), {}
    for prompt in [row["prompt"] for row in rows[:120]]:
        ids = tokenizer(prompt, return_tensors="pt")
        tokens = policy.generate(**ids, max_new_tokens=LONGEST, do_sample=False, use_cache=True,
                                 pad_token_id=tokenizer.pad_token_id)[0, ids["input_ids"].shape[1]:]
        answers[prompt] = tokenizer.decode(tokens, skip_special_tokens=True).partition("\n")[0]
    return str(folder / "base"), str(folder / "adapters" / record.id), answers


def test_the_served_adapter_answers_as_pefts_does(vllm_loads, tmp_path, monkeypatch):
    own = pages_own()
    if own is None:
        monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    base, adapter, answers = own or small_one(tmp_path)
    assert all("," in answer for answer in answers.values()), "the adapter says what it was taught"
    names = {"base": base, "adapter": adapter, "longest": LONGEST, "prompts": list(answers)}
    import vllm

    exec(compile(LINES, "serve_with_vllm.py", "exec"), names)  # noqa: S102
    equal = sum(text == answer for text, answer in zip(names["texts"], answers.values(), strict=True))
    if own is not None:
        value = {"version": vllm.__version__, "device": device_name("cpu"),
                 "date": datetime.now(UTC).date().isoformat(), "equal": equal, "asked": len(answers),
                 "texts": names["texts"][:4]}
        text = json.dumps({"date": value["date"], "value": value}, indent=1)
        (RECORDS / "vllm.json").write_text(text + "\n", encoding="utf-8")
    assert equal >= 0.99 * len(answers)  # greedy: a tie of two tokens may fall otherwise
