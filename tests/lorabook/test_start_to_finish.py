"""The data of *Start to finish*, and what its page shows of runs whose weights are not there."""

import json

import pytest

from lorabook.data.readings import readings
from lorabook.experiments.results import MissingRecordsError
from lorabook.page.chapter import Chapter, write_recorded


def test_no_number_is_in_demonstrations_and_problems():
    taught = {row["completion"].partition(",")[2] for row in readings("demonstrations")}
    asked = [row["answer"].partition(",")[2] for row in readings("problems")]
    assert not taught & set(asked)
    assert len(set(asked)) == len(asked) == 2400


def test_the_answer_is_what_was_read_out():
    assert {"prompt": "Here comes power, four thousand seventeen.\n", "completion": "power,4017"} in readings(
        "demonstrations")


@pytest.fixture
def page(tmp_path, monkeypatch):
    (tmp_path / "results").mkdir()
    monkeypatch.setenv("LORAKIT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path / "cache"))
    for name in ("LORAKIT_SIZE", "LORAKIT_MISSING"):
        monkeypatch.delenv(name, raising=False)
    return Chapter("start-to-finish")


def test_a_build_shows_what_was_recorded_and_makes_nothing(page):
    assert page.weights is None
    assert page.recorded("vllm") is None
    with pytest.raises(MissingRecordsError, match="lorabook refresh start-to-finish"):
        page.recorded("answers", lambda: pytest.fail("a build may not make it"))
    write_recorded(page.runs / "answers.json", [1])
    assert page.recorded("answers", lambda: pytest.fail("it is there")) == [1]


def test_a_refresh_makes_what_is_missing_once(page, monkeypatch):
    monkeypatch.setenv("LORAKIT_MISSING", "train")
    assert page.weights.parts[-3:] == ("do-it", "cpu", "start-to-finish")
    assert page.recorded("answers", lambda: {"a": (1, 2)}) == {"a": [1, 2]}
    assert page.recorded("answers", list) == {"a": [1, 2]}
    assert "date" in json.loads((page.runs / "answers.json").read_text(encoding="utf-8"))


def test_the_live_size_makes_all_of_it_in_a_folder_of_its_own():
    live = Chapter("start-to-finish", size="live")
    assert live.weights == live.runs
    assert live.recorded("answers", lambda: 3) == 3
