import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from kill_refresh import finish, killed_at, require_same, small_book, start, there
from leaks import leaks

from lorabook import experiments
from lorabook.benchmarks.refresh_time import HEAD
from lorabook.cli import main
from lorabook.experiments import Experiment
from lorabook.experiments.planning import seconds_for
from lorabook.refresh import ParameterError, RefreshError, parse_parameters, refresh
from lorakit.records import Record, Store
from lorakit.specs import GRPOSpec, SFTSpec
from lorakit.sweep.devices import DeviceError
from lorakit.sweep.sweeps import SweepError
from lorakit.theory.hardware import find_gpu

CHAPTER = HEAD + """rank: int = 4
```

```{code-cell} ipython3
"""


def write_chapter(root: Path, stem: str, code: str) -> Path:
    (root / "book" / "results" / "cpu").mkdir(parents=True, exist_ok=True)
    path = root / "book" / f"{stem}.md"
    path.write_text(f"{CHAPTER}{code}\n```\n", encoding="utf-8")
    return path


def outputs(notebook: Path) -> str:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "".join(str(output.get("text", "")) for cell in cells for output in cell.get("outputs", []))


def quiet(line: str) -> None:
    pass


@pytest.fixture
def without_kernel(monkeypatch):
    """Nothing is executed: these tests are about what runs again, and a kernel takes seconds to start."""
    monkeypatch.setattr("lorabook.refresh._execute", lambda root, stem, notebook, passed: notebook)


def test_chapters_run_in_book_with_parameters_and_then_are_up_to_date(tmp_path):
    source = write_chapter(tmp_path, "01-first", 'import os; print(os.getcwd(), profile, size, rank)')
    before = source.read_bytes()
    lines: list[str] = []
    (first,) = refresh(profile="gpu", size="live", parameters={"rank": 7}, root=tmp_path, report=lines.append)
    assert outputs(first.notebook) == "./book gpu live 7\n"
    assert first.notebook == tmp_path / "_build" / "executed" / "01-first.ipynb"
    assert source.read_bytes() == before
    assert {path.name for path in (tmp_path / "book").iterdir()} == {"01-first.md", "results"}

    once = first.notebook.read_bytes()
    (again,) = refresh(profile="gpu", size="live", parameters={"rank": 7}, root=tmp_path, report=lines.append)
    assert again.changed == ()
    assert lines[-1] == "01-first: up to date"

    (forced,) = refresh(profile="gpu", size="live", parameters={"rank": 7}, root=tmp_path, force=True, report=quiet)
    assert forced.changed == ("forced",)
    assert forced.notebook.read_bytes() == once, "equal inputs must give equal files"


def test_notebook_holds_no_path_no_timing_and_no_papermill_metadata(tmp_path):
    code = 'import sys, warnings; print(sys.prefix, __import__("pathlib").Path.home()); warnings.warn("careful")'
    write_chapter(tmp_path, "01-first", code)
    (done,) = refresh(root=tmp_path, report=quiet)
    text = done.notebook.read_text(encoding="utf-8")
    for trace in (str(tmp_path), f"{Path.home()}\\n", "ipykernel_", '"papermill": {', "start_time", "iopub"):
        assert trace not in text
    assert leaks(text) == []
    assert "careful" in text
    assert json.loads(text)["metadata"]["kernelspec"]["name"] == "python3"
    cells = json.loads(text)["cells"]
    assert [cell["id"] for cell in cells] == [f"cell-{i}" for i in range(len(cells))]
    assert any("injected-parameters" in cell["metadata"].get("tags", []) for cell in cells)


@pytest.mark.parametrize(("kind", "file"), [
    ("source", ""), ("parameters", ""), ("records", "results/cpu/rank.jsonl"), ("records", "results/public.json"),
    ("records", "do-it/cpu/rank/runs.jsonl"), ("records", "lorabook/benchmarks/results/cpu/profile.jsonl")])
def test_each_input_makes_a_chapter_run_again(tmp_path, without_kernel, kind, file):
    source = write_chapter(tmp_path, "01-first", "print(1)")
    inputs = dict(parameters={})
    refresh(root=tmp_path, report=quiet, **inputs)
    if kind == "source":
        source.write_text(source.read_text().replace("print(1)", "print(2)"))
    elif kind == "records":
        (tmp_path / "book" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "book" / file).write_text("{}\n")
    else:
        inputs = dict(parameters={"rank": 5})
    (done,) = refresh(root=tmp_path, report=quiet, **inputs)
    assert done.changed == (f"{kind} changed",)


def test_code_is_an_input(tmp_path, without_kernel, monkeypatch):
    write_chapter(tmp_path, "01-first", "print(1)")
    refresh(root=tmp_path, report=quiet)
    monkeypatch.setattr("lorabook.refresh.code_hash", lambda modules: "another")
    (done,) = refresh(root=tmp_path, report=quiet)
    assert done.changed == ("code changed",)


def test_records_that_a_chapter_adds_do_not_make_it_stale(tmp_path):
    write_chapter(tmp_path, "01-first", 'open("results/cpu/rank.jsonl", "a").write("{}\\n")')
    refresh(root=tmp_path, report=quiet)
    (done,) = refresh(root=tmp_path, report=quiet)
    assert done.changed == ()


def test_a_failed_chapter_stops_no_other_and_is_named(tmp_path):
    write_chapter(tmp_path, "01-first", 'raise RuntimeError("no weights")')
    write_chapter(tmp_path, "02-second", "print(2)")
    with pytest.raises(RefreshError, match=r"1 of 2 chapters failed(.|\n)*01-first: RuntimeError: no weights"):
        refresh(root=tmp_path, report=quiet)
    executed = tmp_path / "_build" / "executed"
    assert sorted(p.name for p in executed.iterdir()) == ["02-second.ipynb", "02-second.json"]
    assert (tmp_path / "_build" / "refresh" / "01-first.ipynb").exists()

    lines: list[str] = []
    with pytest.raises(RefreshError):
        refresh(root=tmp_path, report=lines.append)
    assert lines == ["01-first: running (never executed)", "01-first: failed", "02-second: up to date"]


def test_bad_names_are_errors_before_anything_runs(tmp_path):
    write_chapter(tmp_path, "01-first", 'open("ran", "w")')
    with pytest.raises(ParameterError, match=r"01-first has no parameter 'rnk'; did you mean 'rank'.*: profile, size,"):
        refresh(parameters={"rnk": 1}, root=tmp_path)
    with pytest.raises(ParameterError, match=r"size='lvie'; did you mean 'live'\? allowed: live, record"):
        refresh(size="lvie", root=tmp_path)
    with pytest.raises(ParameterError, match=r"profile='cuda'; .*allowed: cpu, gpu, paper"):
        refresh(profile="cuda", root=tmp_path)
    with pytest.raises(ParameterError, match=r"no chapter 'frist'; did you mean 'first'\? chapters: 01-first"):
        refresh(["frist"], root=tmp_path)
    with pytest.raises(ParameterError, match="run this in a clone"):
        refresh(root=tmp_path / "nowhere")
    assert not (tmp_path / "book" / "ran").exists()


@pytest.mark.parametrize(("name", "value", "words"), [
    ("profile", "nosuch", r"profile='nosuch'; allowed: cpu, gpu, paper"),
    ("profile", 7, r"profile=7; allowed: cpu"),
    ("size", "medium", r"size='medium'; allowed: live, record"),
    ("rank", "four", r"01-first: rank='four' is a str; allowed: a int, such as 4"),
    ("rank", 4.5, r"rank=4.5 is a float"),
    ("rank", True, r"rank=True is a bool"),
])
def test_values_of_parameters_are_checked_before_anything_runs(tmp_path, name, value, words):
    write_chapter(tmp_path, "01-first", 'open("ran", "w")')
    with pytest.raises(ParameterError, match=words):
        refresh(parameters={name: value}, root=tmp_path)
    assert not (tmp_path / "book" / "ran").exists()


def runs(count: int, **fields) -> list[SFTSpec]:
    return [SFTSpec(model="m@1", dataset="d@1", learning_rate=1e-3, seed=seed, **fields) for seed in range(count)]


class RunsFailedError(SweepError):
    def __init__(self, words: str) -> None:
        RuntimeError.__init__(self, words)


@pytest.fixture
def two_experiments(monkeypatch):
    """A chapter with an experiment of three GPU runs and one without any; training is one line of a record."""
    three = Experiment("three", "Three?", {("gpu", "record"): lambda: runs(3), ("cpu", "record"): lambda: runs(1)})
    other = Experiment("other", "None?", {("cpu", "record"): lambda: runs(2, steps=7)})
    monkeypatch.setattr("lorabook.experiments.of_chapter",
                        lambda topic: [three, other] if topic == "first" else [])
    asked: list[list[str]] = []

    def train(specs, place, *, profile, experiment, **options):
        todo = place.missing(specs)
        asked.append([spec.id for spec in todo])
        for spec in todo[:2]:
            place.append(profile, experiment, Record.from_run(spec, "ok", {}, {}, {}))
        if len(todo) > 2:
            raise RunsFailedError("1 of 3 runs failed: no memory")

    monkeypatch.setattr("lorakit.sweep.sweeps.run", train)
    return asked


def test_a_refresh_trains_all_that_the_profile_defines_for_the_chapter_and_counts(tmp_path, without_kernel,
                                                                                two_experiments):
    write_chapter(tmp_path, "01-first", "print(1)")
    write_chapter(tmp_path, "02-second", "print(2)")
    lines: list[str] = []
    with pytest.raises(RefreshError, match=r"1 of 2 chapters failed(.|\n)*01-first: three: (.|\n)*no memory"):
        refresh(profile="gpu", root=tmp_path, report=lines.append)
    assert lines[:2] == ["three: training 3 of 3 runs",
                         "01-first: 3 runs defined for gpu, record: trained 2, missing 1; "
                         "experiments not defined: 1 (other)"]
    refresh(["first"], profile="gpu", root=tmp_path, report=lines.append)
    assert [len(ids) for ids in two_experiments] == [3, 1]
    refresh(["first"], profile="gpu", root=tmp_path, report=lines.append)
    assert "01-first: 3 runs defined for gpu, record: trained 0, missing 0; experiments not defined: 1 (other)" in lines
    assert len(two_experiments) == 2, "nothing is asked for when nothing is missing"
    assert len(Store(tmp_path / "book" / "results").records("gpu", "three")) == 3


def test_a_vllm_server_samples_for_experiments_all_of_whose_runs_use_one(tmp_path, monkeypatch, without_kernel):
    write_chapter(tmp_path, "01-first", "print(1)")
    served, other = (GRPOSpec(model="m@1", learning_rate=1e-3, use_vllm=vllm) for vllm in (True, False))
    listed = [Experiment(name, "?", {("gpu", "record"): lambda specs=specs: specs}, probes=())
              for name, specs in (("served", [served]), ("mixed", [served, other]))]
    monkeypatch.setattr("lorabook.experiments.of_chapter", lambda topic: listed)
    monkeypatch.chdir(tmp_path)
    asked = {}
    monkeypatch.setattr("lorakit.sweep.sweeps.run", lambda specs, place, **named: asked.update(
        {named["experiment"]: named["vllm_server"]}))
    assert main(["refresh", "--profile", "gpu", "--vllm-server", "host:8000"]) == 3
    assert asked == {"served": "host:8000", "mixed": None}


def test_a_gpu_that_cannot_be_used_stops_a_refresh_before_any_chapter(tmp_path, monkeypatch, without_kernel,
                                                                      two_experiments):
    write_chapter(tmp_path, "01-first", "print(1)")

    def refuse(*_, **__):
        raise DeviceError("nothing was trained: torch is built without CUDA")

    monkeypatch.setattr("lorakit.sweep.sweeps.run", refuse)
    with pytest.raises(DeviceError, match="without CUDA"):
        refresh(profile="gpu", root=tmp_path, report=quiet)
    assert not (tmp_path / "_build" / "executed").exists()


def test_each_experiment_belongs_to_one_chapter_of_the_book():
    topics = [path.stem.partition("-")[2] for path in (Path(__file__).parents[2] / "book").glob("[0-9][0-9]-*.md")]
    owned = [experiment.name for topic in topics for experiment in experiments.of_chapter(topic)]
    assert sorted(owned) == sorted(experiments.EXPERIMENTS)


def test_a_refresh_shows_its_progress_and_what_a_chapter_says(tmp_path, capsys):
    write_chapter(tmp_path, "01-first", 'import sys; print("step 7", file=sys.stderr)')
    refresh(root=tmp_path, report=quiet)
    said = capsys.readouterr().err
    assert "01-first: 100%" in said
    assert "step 7" in said


def test_a_chapter_without_its_parameters_cell_is_an_error(tmp_path):
    source = write_chapter(tmp_path, "01-first", "print(1)")
    source.write_text(source.read_text().replace(":tags: [parameters]\n", ""))
    with pytest.raises(ParameterError, match="01-first has 0 cells tagged 'parameters'"):
        refresh(root=tmp_path)


def test_chapters_are_chosen_by_stem_file_or_topic(tmp_path, without_kernel):
    for stem in ("01-first", "02-second", "03-third"):
        write_chapter(tmp_path, stem, "print(1)")
    done = refresh(["third", "book/01-first.md"], root=tmp_path, report=quiet)
    assert [d.chapter for d in done] == ["01-first", "03-third"]


def test_missing_extra_says_what_to_install(tmp_path, monkeypatch):
    write_chapter(tmp_path, "01-first", "print(1)")
    monkeypatch.setitem(__import__("sys").modules, "papermill", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install ./book/lorabook"):
        refresh(root=tmp_path)


def test_unreadable_parameter_pairs_are_errors():
    for pair in ("rank", "=4", "my rank=4"):
        with pytest.raises(ParameterError, match="write name=value"):
            parse_parameters([pair])


def test_what_is_out_of_time_is_left_and_the_same_call_goes_on(tmp_path, without_kernel, monkeypatch):
    write_chapter(tmp_path, "01-first", "print(1)")
    write_chapter(tmp_path, "02-second", "print(2)")
    four = Experiment("four", "Four?", {("cpu", "record"): lambda: runs(4)})
    monkeypatch.setattr("lorabook.experiments.of_chapter", lambda topic: [four] if topic == "first" else [])
    budgets: list[float | None] = []

    def train(specs, place, *, profile, experiment, time_budget, **_):
        budgets.append(time_budget)
        for spec in place.missing(specs)[: 4 if time_budget is None else 3]:
            place.append(profile, experiment, Record.from_run(spec, "ok", {}, {}, {}))

    monkeypatch.setattr("lorakit.sweep.sweeps.run", train)
    lines: list[str] = []
    first, second = refresh(root=tmp_path, time_budget=1000, report=lines.append)
    assert (first.trained, first.missing, first.left, first.changed) == (3, 1, True, ())
    assert (second.left, second.changed) == (False, ("never executed",))
    assert "01-first: left, the time is over" in lines
    assert 900 < budgets[0] <= 1000
    first, second = refresh(root=tmp_path, time_budget=1e-9, report=quiet)
    assert (first.missing, first.left, second.left) == (1, True, False), "the second is up to date"
    assert len(budgets) == 1, "nothing is begun when no time is left"
    first, second = refresh(root=tmp_path, report=quiet)
    assert (first.trained, first.missing, first.left) == (1, 0, False)
    assert budgets[1:] == [None]
    assert [one.changed for one in refresh(root=tmp_path, report=quiet)] == [(), ()]


def test_at_the_end_it_says_which_verdicts_flipped_also_after_a_kill(tmp_path, without_kernel, monkeypatch):
    write_chapter(tmp_path, "01-first", "print(1)")
    one = Experiment("one", "One?", {("cpu", "record"): lambda: runs(2)})
    monkeypatch.setattr("lorabook.experiments.of_chapter", lambda topic: [one])

    def judged(store):
        count = len(store.records("cpu", "one"))
        outcomes = {"C1": "holds" if count else "not tested", "C2": "open", "C3": "holds" if count < 2 else "open"}
        return [SimpleNamespace(claim=SimpleNamespace(id=name), outcome=outcome) for name, outcome in outcomes.items()]

    def train(specs, place, *, profile, experiment, **_):
        place.append(profile, experiment, Record.from_run(place.missing(specs)[0], "ok", {}, {}, {}))
        if len(place.records("cpu", "one")) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("lorabook.claims.ledger.ledger", judged)
    monkeypatch.setattr("lorakit.sweep.sweeps.run", train)
    with pytest.raises(KeyboardInterrupt):
        refresh(root=tmp_path, report=quiet)
    lines: list[str] = []
    refresh(root=tmp_path, report=lines.append)
    assert lines[-2:] == ["verdict changed: C1: not tested → holds", "verdict changed: C3: holds → open"]
    monkeypatch.setattr("lorabook.claims.ledger.ledger", lambda store: pytest.fail("nothing was added"))
    refresh(root=tmp_path, report=lines.append)
    assert lines[-1] == "01-first: up to date"


def test_dollars_are_the_time_that_they_buy_on_the_gpus_here(monkeypatch, capsys, tmp_path):
    two = SimpleNamespace(names=["NVIDIA H100 80GB HBM3"] * 2)
    monkeypatch.setattr("lorabook.experiments.planning.Devices", lambda: two)
    assert seconds_for(10) == pytest.approx(3600 * 10 / (2 * find_gpu("H100").price_per_hour))
    asked: list[float] = []
    monkeypatch.setattr("lorabook.refresh.refresh", lambda *_, time_budget, **__: asked.append(time_budget) or [])
    assert main(["refresh", "--dollars", "10"]) == 0
    assert main(["refresh", "--dollars", "10", "--time-budget", "60"]) == 0
    assert asked == [seconds_for(10), 60]
    monkeypatch.setattr("lorabook.experiments.planning.Devices", lambda: SimpleNamespace(names=[]))
    assert main(["refresh", "--dollars", "10"]) == 1
    assert "give seconds" in capsys.readouterr().err
    assert main(["refresh", "--dollars", "-1"]) == 1
    assert main(["refresh", "--time-budget", "-1"]) == 1


def test_killed_behind_a_record_and_behind_a_notebook_it_leaves_what_one_leaves_that_nobody_disturbed(tmp_path):
    whole, book = (small_book(tmp_path / name) for name in ("whole", "killed"))
    finish(start(whole))
    for place, left in ((2, "1 runs, 0 notebooks, inputs of 0"),  # behind the first record
                        (8, "4 runs, 1 notebooks, inputs of 0")):  # behind the three others, and the first notebook
        killed_at(book, place)
        assert there(book) == left
    finish(start(book))
    require_same(book, whole)
    assert there(book) == there(whole) == "4 runs, 2 notebooks, inputs of 2"
