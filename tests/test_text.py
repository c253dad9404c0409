"""Rows become the tokens that TRL's SFTTrainer makes of them: beginnings and ends once, completions alone counted."""

from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from small_tokenizers import CHAT, MARKED, small_tokenizer

from lorakit.bases.models import byte_tokenizer
from lorakit.data.data_files import DatasetError
from lorakit.data.datasets import TextData
from lorakit.data.rl_tasks import Task, encode_prompts
from lorakit.data.rows import rows_of
from lorakit.data.splitting import DatasetWarning
from lorakit.data.tokens import IGNORE, tokenize
from lorakit.rl.rollout import stop_tokens

PAIRS = [("question ", "yes"), ("question", " answer one"), ("question\n", "two\n"), ("of the", "m three"),
         ("", "yes no"), ("one two ", "naïve 数"), ("question ", "yes</s>"), ("one", "\n\n")]
ROWS = [{"prompt": prompt, "completion": completion} for prompt, completion in PAIRS]
TALK = [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "three"},
        {"role": "user", "content": "it goes on "}, {"role": "assistant", "content": " yes no\n"}]
CHATS = [{"prompt": TALK[:1], "completion": TALK[1:2]}, {"prompt": TALK[:3], "completion": TALK[3:]},
         {"prompt": [{"role": "system", "content": "the"}, *TALK[:1]], "completion": TALK[1:]}]
MESSAGES = [{"messages": TALK[:2]}, {"messages": TALK}, {"messages": [{"role": "system", "content": "on"}, *TALK[:3]]}]


def ours(rows, tokenizer, end=None, length=200):
    """Ids and labels of each row, without padding."""
    split = tokenize(TextData("mine", rows_of(rows), end=end), tokenizer, length)["train"]
    ends = [max(i for i, label in enumerate(labels) if label != IGNORE) + 1 for labels in split.labels.tolist()]
    return [(ids[:n], labels[:n]) for ids, labels, n in
            zip(split.input_ids.tolist(), split.labels.tolist(), ends, strict=True)]


def trls(rows, tokenizer):
    """The same of TRL, which is asked for the loss of the assistant alone where rows are messages."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers
    from trl.trainer.sft_trainer import SFTTrainer

    template = None
    if "messages" in rows[0] and not has_generation_markers(tokenizer.chat_template):
        template = get_training_chat_template(tokenizer)
    trainer = SimpleNamespace(_tokenizer=tokenizer, chat_template=template, completion_only_loss="prompt" in rows[0])
    options = SimpleNamespace(dataset_num_proc=None, dataset_text_field="text", max_length=None, shuffle_dataset=False,
                              assistant_only_loss="messages" in rows[0])
    data = datasets.Dataset.from_list(rows)
    made = SFTTrainer._prepare_dataset(trainer, data, tokenizer, options, False, None, "mine")
    ends = [max(i for i, label in enumerate(row["labels"]) if label != IGNORE) + 1 for row in made]
    return [(row["input_ids"][:n], row["labels"][:n]) for row, n in zip(made, ends, strict=True)]


@pytest.mark.parametrize("kind", ["gpt2", "prefix", "llama", "same"])
@pytest.mark.parametrize("rows", [ROWS, [{"text": prompt + completion} for prompt, completion in PAIRS], CHATS],
                         ids=["prompt and completion", "text", "chat"])
def test_rows_are_what_trl_makes_of_them(kind, rows):
    tokenizer = small_tokenizer(kind, CHAT)
    assert ours(rows, tokenizer) == trls(rows, tokenizer)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_messages_count_what_the_assistant_says_with_its_end(kind):
    marked, plain = small_tokenizer(kind, MARKED), small_tokenizer(kind, CHAT)
    made = ours(MESSAGES, plain)
    assert made == ours(MESSAGES, marked) == trls(MESSAGES, marked)
    for row, (ids, labels) in zip(MESSAGES, made, strict=True):
        assert ids.count(1) == 1, "the template's beginning is not doubled"
        assert labels.count(2) == sum(message["role"] == "assistant" for message in row["messages"])


@pytest.mark.parametrize("name", ["phi3", "qwen3", "qwen2_5", "llama3"])
def test_a_template_that_trl_knows_counts_what_trl_counts(name):
    import trl

    known = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = small_tokenizer("gpt2", known)
    tokenizer.add_tokens(["<|im_end|>", "<|eot_id|>"], special_tokens=True)
    made = ours(MESSAGES[:2], tokenizer)
    assert made == trls(MESSAGES[:2], tokenizer)
    said = tokenizer.decode([label for label in made[1][1] if label != IGNORE])
    assert "three" in said
    assert "yes no" in said
    assert "it goes on" not in said


@pytest.mark.parametrize("kind", ["gpt2", "prefix", "llama", "both", "same"])
def test_every_row_begins_and_ends_once(kind):
    tokenizer = small_tokenizer(kind)
    rows = [*ROWS, {"prompt": "<s>question ", "completion": "yes</s>"}, {"prompt": "one", "completion": "two</s></s>"}]
    begins = kind in ("llama", "both")
    for row, (ids, labels) in zip(rows, ours(rows, tokenizer), strict=True):
        assert ids.count(2) == 1
        assert (ids[-1], labels[-1]) == (2, 2), "the end is learnt"
        assert ids.count(1) == (begins or row["prompt"].startswith("<s>"))
        assert not begins or (ids[0], labels[0]) == (1, IGNORE)


def test_tokens_that_join_prompt_and_completion_belong_to_the_completion():
    tokenizer = small_tokenizer("gpt2")
    ((ids, labels),) = ours([{"prompt": "ye", "completion": "s"}], tokenizer)
    assert tokenizer.decode(ids) == "yes</s>"
    assert ids == tokenizer("yes</s>")["input_ids"], "as the model has met the word, not piece by piece"
    assert labels == ids


def test_the_end_may_be_declared():
    tokenizer = byte_tokenizer()
    ((ids, labels),) = ours([{"prompt": "a", "completion": "b\n"}], tokenizer, end="\n")
    assert ids == list(b"ab\n")
    assert labels == [IGNORE, *b"b\n"]
    tokenizer.eos_token = tokenizer.pad_token = None
    assert ours([{"prompt": "a", "completion": "b\n"}], tokenizer, end="\n") == [(ids, labels)]
    with pytest.raises(DatasetError, match=r"no end-of-text token \(eos_token\).*or say how rows end"):
        ours(ROWS, tokenizer)


def test_a_token_whose_own_text_is_read_otherwise_still_ends_a_row():
    tokenizer = small_tokenizer("gpt2")
    tokenizer.backend_tokenizer.encode_special_tokens = True
    ((ids, _),) = ours([{"prompt": "one ", "completion": "two"}], tokenizer)
    assert (ids[-1], ids.count(2), tokenizer.decode(ids[:-1])) == (2, 1, "one two")


def test_padding_is_never_learnt():
    for kind in ("gpt2", "same"):  # no padding token: the end stands in
        split = tokenize(TextData("mine", rows_of(ROWS)), small_tokenizer(kind), 60)["train"]
        assert ((split.labels == 2).sum(1) == 1).all()
        assert (split.input_ids[:, -1] == 2).all()
        assert (split.labels[:, -1] == IGNORE).all()


def test_a_conversation_needs_a_template_that_takes_it():
    with pytest.raises(DatasetError, match=r"mine train, row 1 is a conversation, .* no chat template: set"):
        ours(MESSAGES, small_tokenizer("llama"))
    picky = small_tokenizer("llama", "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DatasetError, match=r"row 1: the tokenizer's chat template refuses .*roles must alternate"):
        ours(MESSAGES, picky)
    forgetful = small_tokenizer("llama", "{% for m in messages %}{% if m['role'] == 'user' or loop.last %}"
                                         "{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}")
    assert len(ours(MESSAGES[:1], forgetful)) == 1
    with pytest.raises(DatasetError, match=r"renders message 2 in another way .*generation %} marks"):
        ours(MESSAGES[1:2], forgetful)


def test_a_template_that_ends_no_answer_is_said():
    endless = small_tokenizer("gpt2", "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}")
    with pytest.warns(DatasetWarning, match="mine train: the chat template ends the answers of 3 of 3 rows with no"):
        made = ours(CHATS, endless)
    assert made == trls(CHATS, endless)


@pytest.mark.parametrize("kind", ["gpt2", "prefix", "llama"])
def test_a_stop_ends_a_text_although_the_tokenizer_reads_it_alone_with_a_blank(kind):
    model, tokenizer = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None)), small_tokenizer(kind)
    stops = stop_tokens(model, tokenizer, "\n")
    written = tokenizer("one\ntwo", add_special_tokens=False)["input_ids"]
    assert list(stops) == [2] if kind != "gpt2" else set(stops) & set(written)
    assert (stops.text == "\n") == (kind != "gpt2")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="nothing ends a completion: tokenizer and generation_config name no end"):
        stop_tokens(model, tokenizer, None)


def test_rows_that_are_too_long_are_counted_before_training():
    rows = [{"prompt": "a" * n, "completion": "b"} for n in [8] * 200 + [20, 30, 90]]
    with pytest.raises(DatasetError, match=r"mine: 3 of 203 rows have more tokens than max_length=16 \(the first is "
                                           r"train row 201 with 22, the longest has 92\): max_length=92 holds all, 22 "
                                           r"holds 99 %"):
        ours(rows, byte_tokenizer(), length=16)
    assert len(ours(rows, byte_tokenizer(), length=92)) == 203


@pytest.mark.parametrize(("kind", "begins"), [("gpt2", []), ("llama", [1]), ("both", [1])])
def test_prompts_of_a_task_begin_as_the_tokenizer_begins_texts(kind, begins):
    tokenizer = small_tokenizer(kind, CHAT)
    problems = [{"prompt": "one two ", "answer": "3"}, {"prompt": "<s>one", "answer": "3"}]
    plain = encode_prompts(Task("a", {"train": problems}), "train", tokenizer, 100, 10)
    assert plain[0] == begins + tokenizer("one two ", add_special_tokens=False)["input_ids"]
    assert [ids.count(2) for ids in plain] == [0, 0], "a prompt goes on"
    assert plain[1].count(1) == 1
    chat = encode_prompts(Task("a", {"train": problems[:1]}, chat=True), "train", tokenizer, 100, 10)
    rendered = tokenizer("<s><|user|>\none two </s>\n<|assistant|>\n", add_special_tokens=False)["input_ids"]
    assert chat == [rendered]
    assert chat[0].count(1) == 1
