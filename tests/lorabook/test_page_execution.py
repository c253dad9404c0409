"""Pages are executed two at a time (live ones alone), anew in each build, and one that fails stops the build."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("myst_nb", reason="needs the extra dev")

EXTENSIONS = Path(__file__).parents[2] / "book" / "_ext"
HEAD = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A page

```{code-cell} ipython3
"""
MEET = """
import time
from pathlib import Path
Path("NAME.begun").touch()
for _ in range(1200):
    if Path("OTHER.begun").exists():
        break
    time.sleep(0.1)
else:
    raise RuntimeError("OTHER was not executed beside NAME")
print("the number is", Path("number.txt").read_text())
"""
ALONE = """
import time
from pathlib import Path
with Path("log.txt").open("a") as log:
    log.write("begun ")
time.sleep(1)
with Path("log.txt").open("a") as log:
    log.write("done ")
"""


@pytest.fixture
def build(tmp_path):
    (tmp_path / "conf.py").write_text('extensions = ["myst_nb", "page_execution"]\nnb_execution_mode = "cache"\n'
                                      "nb_execution_raise_on_error = nb_execution_show_tb = True\n"
                                      'exclude_patterns = ["**.ipynb"]\n')
    (tmp_path / "index.md").write_text("# Two pages\n\n```{toctree}\none\ntwo\n```\n")

    def run(one, two, **environment):
        for name, code in (("one", one), ("two", two)):
            (tmp_path / f"{name}.md").write_text(f"{HEAD}{code.strip()}\n```\n")
        return subprocess.run(
            [sys.executable, "-m", "sphinx", "-q", "-E", ".", "html"], cwd=tmp_path, capture_output=True, text=True,
            check=False, env={**os.environ, "LORAKIT_SIZE": "record", "PYTHONPATH": os.pathsep.join(
                (str(EXTENSIONS), *sys.path)), **environment})

    return run


def test_two_at_a_time_and_anew_in_each_build(build, tmp_path):
    pages = [MEET.replace("NAME", name).replace("OTHER", other) for name, other in (("one", "two"), ("two", "one"))]
    for number in ("17", "18"):
        (tmp_path / "number.txt").write_text(number)
        found = build(*pages)
        assert found.returncode == 0, found.stderr
        assert sorted(line.partition(":")[0] for line in found.stderr.splitlines()) == ["one", "two"]
        assert f"the number is {number}" in (tmp_path / "html" / "one.html").read_text()


def test_live_pages_one_after_another(build, tmp_path):
    assert build(ALONE, ALONE, LORAKIT_SIZE="live").returncode == 0
    assert (tmp_path / "log.txt").read_text().split() == ["begun", "done"] * 2


def test_a_page_that_fails_stops_the_build_also_where_it_did_not_fail_before(build, tmp_path):
    code = '1 / int(open("number.txt").read())'
    (tmp_path / "number.txt").write_text("1")
    assert build(code, "print(1)").returncode == 0
    (tmp_path / "number.txt").write_text("0")
    found = build(code, "print(1)")
    assert found.returncode != 0
    assert "ZeroDivisionError" in found.stderr
