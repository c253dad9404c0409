"""The book's own reward schemes are no graders."""

from __future__ import annotations

import pytest

from lorakit.data.rl_tasks import register_task
from lorakit.rewards import RewardError


@pytest.mark.parametrize("grader", ["osmosis", "osmosis-line"])
def test_a_scheme_that_pays_more_than_1_is_no_grader(grader, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    problems = [{"prompt": f"What is {n}? ", "answer": str(n)} for n in range(60)]
    with pytest.raises(RewardError, match=rf"the grader '{grader}' paid \d .*accuracy is the share.*GRPOSpec"):
        register_task("own", problems, grader=grader)
