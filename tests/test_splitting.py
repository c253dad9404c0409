"""A tenth of the rows each is held out, prompts stay together, and what that cannot give is said with numbers."""

import pytest

from lorakit.data.data_files import DatasetError
from lorakit.data.rows import rows_of
from lorakit.data.splitting import divide, prompt_and_answer, remarks


def rows(*pairs):
    return [[(prompt, False), (answer, True)] for prompt, answer in pairs]


def sizes(splits):
    return {split: len(of_split) for split, of_split in splits.items()}


def prompts(splits, split):
    return {prompt_and_answer(row)[0] for row in splits[split]}


def shared(splits):
    return [prompts(splits, a) & prompts(splits, b)
            for a, b in (("train", "validation"), ("train", "test"), ("validation", "test"))]


@pytest.mark.parametrize("each", [1, 3, 17, 56])
def test_a_tenth_each_even_where_prompts_repeat(each):
    given = rows(*((f"question {i}", f"answer {i} {k}") for i in range(40) for k in range(each)))
    splits = divide("mine", {"train": given})
    assert sizes(splits) == {"train": 32 * each, "validation": 4 * each, "test": 4 * each}
    assert not any(shared(splits))
    for of_split in splits.values():
        assert of_split == [row for row in given if row in of_split], "in the order given"
    backwards = divide("mine", {"train": given[::-1]})
    assert [prompts(backwards, split) for split in splits] == [prompts(splits, split) for split in splits]


def test_prompts_of_very_different_weight():
    given = rows(*((f"question {i}", f"answer {k}") for i in range(60) for k in range(1 + 40 * (i % 12 == 0))))
    splits = divide("mine", {"train": given})
    assert all(0.09 * len(given) < len(splits[split]) <= 0.1 * len(given) for split in ("validation", "test"))
    assert not any(shared(splits))


@pytest.mark.parametrize("prompt", ["Write a joke: ", "<s>", "", "x"])
def test_one_prompt_that_dominates_is_divided_and_said(prompt):
    given = rows(*((f"question {i}", f"answer {i}") for i in range(60)), *((prompt, f"text {i}") for i in range(500)))
    splits = divide("mine", {"train": given})
    assert sizes(splits) == {"train": 448, "validation": 56, "test": 56}
    said = "; ".join(remarks(splits))
    for split in splits:
        count = sum(row[0][0] == prompt for row in splits[split])
        assert f"{count} of {len(splits[split])} rows of {split} share the prompt {prompt!r}" in said
    assert "rows of test have a prompt that is trained on" in said
    assert "1 of 61 prompts have several different completions (up to 500)" in said


def test_equal_rows_are_never_on_both_sides():
    given = rows(*((f"question {i}", "yes") for i in range(60)), *[("again", "and again")] * 500)
    splits = divide("mine", {"train": given})
    assert not any(shared(splits))
    assert sum(row[0][0] == "again" for row in splits["train"]) == 500
    assert remarks(splits) == ["500 of 508 rows of train share the prompt 'again', so its loss is mostly theirs"] or (
        "rows of train share the prompt 'again'" in remarks(splits)[0])


def test_few_prompts_stay_whole():
    splits = divide("mine", {"train": rows(*((f"question {i}", f"{k}") for i in range(6) for k in range(10)))})
    assert sizes(splits) == {"train": 40, "validation": 10, "test": 10}
    assert not any(shared(splits))
    assert "10 of 10 rows of test share the prompt" in "; ".join(remarks(splits))


def test_splits_that_are_given_are_kept_and_those_that_lack_are_taken_from_train():
    train, held = rows(*((f"question {i}", "yes") for i in range(100))), rows(("question 3", "yes"), ("other", "no"))
    whole = {"train": train, "validation": held, "test": held}
    assert divide("mine", whole) == whole
    assert remarks(whole) == ["1 of 2 rows of test have a prompt that is trained on",
                              "1 of 2 rows of validation have a prompt that is trained on"]
    splits = divide("mine", {"train": train, "test": held})
    assert sizes(splits) == {"train": 90, "validation": 10, "test": 2}
    assert not prompts(splits, "train") & prompts(splits, "validation")


def test_clean_rows_are_nothing_to_speak_of():
    assert not remarks(divide("mine", {"train": rows(*((f"{i}?", "yes") for i in range(60)))}))


@pytest.mark.parametrize(("given", "empty"), [
    ({"train": []}, "train and validation and test"), ({"test": rows(("a", "b"))}, "train and validation"),
    ({"train": rows(("a", "b"))}, "train and validation"),
    ({"train": rows(("a", "b")), "validation": []}, "validation"),
])
def test_a_split_that_stays_empty_is_an_error(given, empty):
    with pytest.raises(DatasetError, match=f"leave .*{empty.split()[-1]} empty; give more"):
        divide("mine", given)


def test_the_prompt_of_a_conversation_is_what_comes_before_the_first_answer():
    user, answer = {"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}
    made = rows_of([{"messages": [user, answer, user, answer]}, {"messages": [user, answer]},
                    {"prompt": [user], "completion": [answer]}, {"instruction": "a?", "output": "c"}])["train"]
    assert len({prompt_and_answer(row)[0] for row in made}) == 1
    assert len({prompt_and_answer(row)[1] for row in made}) == 3
    assert prompt_and_answer([("all of it", True)])[0] == "all of it"
