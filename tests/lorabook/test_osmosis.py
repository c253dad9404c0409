"""The book's own reward schemes are no graders."""

from __future__ import annotations

import pytest

from lorakit.data.rl_tasks import register_task
from lorakit.rewards import RewardError, load_rewards, total


@pytest.mark.parametrize(("scheme", "completion", "answer", "reward"), [
    ("osmosis", "#### 1764", "1764", 8), ("osmosis", "#### 1765", "1764", 0.5), ("osmosis", "#### many", "1764", -1.5),
    ("osmosis", "1764", "1764", 0), ("osmosis", "", "1764", 0),
    ("osmosis-line", "1764\n", "1764", 8), ("osmosis-line", "1764", "1764", 0), ("osmosis-line", "17\n64\n", "1764", 0),
    ("osmosis-line", "1764.\n", "1764", -1.5), ("osmosis", "#### .5", "0.5", -1.5),
    ("osmosis-line", "cba\n", "abc", 0.5), ("osmosis-line", "a b\n", "abc", -1.5),
])
def test_what_is_paid(scheme, completion, answer, reward):
    columns = {"prompts": ["?"], "completions": [completion], "answer": [answer]}
    assert total([function(**columns) for function in load_rewards(scheme)])[0] == reward


@pytest.mark.parametrize("grader", ["osmosis", "osmosis-line"])
def test_a_scheme_that_pays_more_than_1_is_no_grader(grader, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    problems = [{"prompt": f"What is {n}? ", "answer": str(n)} for n in range(60)]
    with pytest.raises(RewardError, match=rf"the grader '{grader}' paid \d .*accuracy is the share.*GRPOSpec"):
        register_task("own", problems, grader=grader)
