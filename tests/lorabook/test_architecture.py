import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from leaks import leaks, leaks_below

from lorabook.claims import CLAIMS
from lorabook.experiments import EXPERIMENTS
from lorakit import sources

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "lorakit"
BOOK = ROOT / "book" / "lorabook"
MODULES = sorted(PACKAGE.rglob("*.py")) + sorted(
    path for path in BOOK.rglob("*.py") if path.relative_to(BOOK).parts[0] not in ("pretrain", "benchmarks"))
HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "vllm")
PLOTTING = ("altair", "vl_convert", "tyro")
# Each line may import itself and the lines above it, anywhere in a file.
LAYERS = (
    ("lorakit.sources", "lorakit.local_models", "lorakit.durable", "lorakit.codehash", "lorakit.markdown",
     "lorakit.schedules", "lorakit.log"),
    ("lorakit.names",),
    ("lorakit.checkpoints",),
    ("lorakit.spec_fields",),
    ("lorakit.lora_spec",),
    ("lorakit.run_spec",),
    ("lorakit.grpo_spec",),
    ("lorakit.specs",),
    ("lorakit.spec_file",),
    ("lorakit.record",),
    ("lorakit.records", "lorakit.epochs", "lorakit.result"),
    ("lorakit.probes",),
    ("lorakit.theory",),
    ("lorakit.bases",),
    ("lorakit.rewards",),
    ("lorakit.data",),
    ("lorakit.adapters",),
    ("lorakit.rl",),
    ("lorakit.reference",),  # referees the packed engine, and shares no code of it
    ("lorakit.packed",),
    ("lorakit.analysis",),
    ("lorakit.sweep",),
    ("lorakit.cli",),
    ("lorabook.source", "lorabook.bases", "lorabook.data"),
    ("lorabook.probes",),
    ("lorabook.experiments",),
    ("lorabook.rehearsal",),
    ("lorabook.claims",),
    ("lorabook.page", "lorabook.chapter_parameters", "lorabook.notebooks"),
    ("lorabook.refresh",),
    ("lorabook.benchmarks",),
    ("lorabook.cli",),
)
FLOOR = {layer: number for number, layers in enumerate(LAYERS) for layer in layers}
FREE = ("lorakit",)  # the face imports when it is asked
TRAINS = ("lorakit.bases", "lorakit.data", "lorakit.adapters", "lorakit.packed", "lorakit.rl", "lorakit.reference",
          "lorakit.sweep.device", "lorakit.sweep.forecast", "lorakit.sweep.probe", "lorakit.sweep.recorder",
          "lorakit.sweep.worker", "lorakit.sweep.worker_process", "lorabook.bases", "lorabook.data", "lorabook.probes",
          "lorabook.rehearsal.stand_ins")
LIGHT = ("lorakit.data.datasets", "lorakit.data.rl_tasks", "lorakit.packed.packing", "lorabook.probes.functions",
         "lorabook.probes.lacking")
HAS_TO_RUN_ON_A_BARE_GPU_HOST = ("lorakit.cli", "lorabook.cli", "lorakit.sweep.sweeps", "lorabook.experiments")


def module_name(path: Path) -> str:
    parts = path.relative_to(BOOK.parent if path.is_relative_to(BOOK) else ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imported(source: str, module: str, package: bool, *, deep: bool) -> set[str]:
    """Absolute names that a module imports; `deep` counts imports inside functions too, never those for types."""
    found: set[str] = set()
    pending: list[ast.AST] = list(ast.parse(source).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level + (1 if package else 0) or None] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found |= {stem} | {f"{stem}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += node.orelse
        elif deep or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending += ast.iter_child_nodes(node)
    return found


def imports(path: Path, *, deep: bool) -> set[str]:
    text = path.read_text(encoding="utf-8")
    return imported(text, module_name(path), path.name == "__init__.py", deep=deep)


def trespasses(path: Path, forbidden: tuple[str, ...], *, deep: bool) -> list[str]:
    return sorted(name for name in imports(path, deep=deep) for bad in forbidden if within(name, bad))


def tracked(*suffixes: str) -> list[Path]:
    """Files of the repository: committed, or new and not ignored."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / line for line in done.stdout.splitlines()]
    return [path for path in files if path.is_file() and (not suffixes or path.suffix in suffixes)]


def test_the_parser_sees_every_form_of_import():
    source = ("import a.b as c\nfrom .d import e\nfrom .. import f\n"
              "def g():\n    import h\nif TYPE_CHECKING:\n    import i\n")
    at_import = {"a.b", "p.q.d", "p.q.d.e", "p", "p.f"}
    assert imported(source, "p.q.r", package=False, deep=False) == at_import
    assert imported(source, "p.q.r", package=False, deep=True) == at_import | {"h"}
    assert imported("from .d import e", "p.q", package=True, deep=False) == {"p.q.d", "p.q.d.e"}


def floor(name: str) -> int:
    """The number of the layer that a module belongs to."""
    return next(FLOOR[layer] for layer in sorted(FLOOR, key=len, reverse=True) if within(name, layer))


def found(check):
    """What a check finds in each module, by its name; modules without a finding are left out."""
    return {module_name(path): finding for path in MODULES if (finding := check(path))}


def test_imports_go_down():
    def above(path):
        name = module_name(path)
        ours = [other for other in imports(path, deep=True) if within(other, "lorakit") or within(other, "lorabook")]
        return [] if name in (*FREE, "lorabook") else [
            other for other in ours
            if other not in ("lorakit", "lorabook", "lorakit.MissingExtraError") and floor(other) > floor(name)]

    assert found(above) == {}, "these modules may not import these"


def test_only_what_trains_needs_torch_at_import():
    def trains(path):
        return any(within(module_name(path), part) for part in TRAINS)

    def heavy(path):
        return [] if trains(path) else [
            other for other in trespasses(path, (*HEAVY, *TRAINS), deep=False)
            if other != "lorabook.probes" and not other.startswith(LIGHT)]

    def plotting(path):
        return trespasses(path, PLOTTING, deep=True) if trains(path) or module_name(path) == "lorakit" else []

    assert found(heavy) == {}, "these modules are read on machines without torch"
    assert found(plotting) == {}


def loaded(statement: str) -> set[str]:
    code = f"import sys, json\n{statement}\nprint(json.dumps([m for m in sys.modules if '.' not in m]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'book'}"})
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_import_lorakit_loads_no_torch():
    assert not loaded("import lorakit") & {*HEAVY, *PLOTTING}


def test_light_modules_load_no_torch():
    light = [module_name(p) for p in MODULES if not any(within(module_name(p), part) for part in TRAINS)]
    light += [name for name in LIGHT if within(name, "lorakit")]
    assert not loaded(f"import {', '.join(light)}") & set(HEAVY)


@pytest.mark.parametrize("name", HAS_TO_RUN_ON_A_BARE_GPU_HOST)
def test_running_needs_no_plotting(name):
    absent = ", ".join(f"{package}=None" for package in PLOTTING)
    assert "lorakit" in loaded(f"sys.modules.update({absent})\nimport {name}")


def test_a_file_holds_one_idea():
    vague = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert found(lambda path: max(0, len(path.read_text(encoding="utf-8").splitlines()) - 300)) == {}
    assert found(lambda path: set(path.relative_to(ROOT).with_suffix("").parts) & vague) == {}


def test_every_module_says_what_it_is():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{module_name(path)} has no docstring"


CLOCKS = {"perf_counter", "monotonic", "process_time", "thread_time", "time", "perf_counter_ns", "monotonic_ns"}


def assertions_on_time(source: str) -> list[str]:
    """Assertions, and conditions of `pytest.fail`, in which a clock stands, or a name that was made of one."""
    tree = ast.parse(source)
    clocks = {f"time.{name}" for name in CLOCKS}
    clocks |= {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom)
               for alias in node.names if node.module == "time" and alias.name in CLOCKS}
    return [ast.unparse(found) for part in tree.body for found in _on_time(part, clocks)]


def _on_time(part: ast.stmt, clocks: set[str]) -> list[ast.stmt]:
    made: set[str] = set()

    def timed(node: ast.AST | None) -> bool:
        return node is not None and any(
            (isinstance(n, ast.Name) and n.id in made) or (isinstance(n, ast.Call) and ast.unparse(n.func) in clocks)
            for n in ast.walk(node))

    for _ in range(3):  # names made of names that were made of a clock
        for node in ast.walk(part):
            if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr) and timed(node.value):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                made |= {n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)}
            elif (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and any(map(timed, node.args))
                    and isinstance(node.func.value, ast.Name) and node.func.attr in {"append", "add"}):
                made.add(node.func.value.id)
    return [node for node in ast.walk(part) if isinstance(node, ast.Assert | ast.If) and timed(node.test)
            and (isinstance(node, ast.Assert) or any("fail(" in ast.unparse(line) for line in node.body))]


def test_no_test_asserts_that_something_was_quick():
    """A busy machine is slow: tests wait for events, with generous limits, and count work instead of seconds."""
    for bad in ("def test(): a = time.time(); f(); assert time.time() - a < 1",
                "from time import perf_counter as now\ndef test(x): a = now(); x.append(now() - a); assert min(x) < 1",
                "def test():\n took = f() - time.monotonic()\n if took > 2: pytest.fail('slow')"):
        assert assertions_on_time(bad), bad
    waits = "def test():\n end = time.monotonic() + 60\n while not p() and time.monotonic() < end: pass\n assert p()"
    assert not assertions_on_time(waits + "\ndef other(end): assert end")
    for path in sorted((ROOT / "tests").rglob("*.py")):
        found = assertions_on_time(path.read_text(encoding="utf-8"))
        assert not found, f"{path.relative_to(ROOT)}: {found}"


LEAKS = {  # a sample of each kind, put together here so that this file holds none
    "a token of a service": ["hf_" + "a1" * 17, "ghp_" + "A1" * 18, "sk-" + "a1" * 20, "AKIA" + "A1" * 8],
    "a private key": ["-----BEGIN RSA PRIVATE" + " KEY-----"],
    "a header with a token": ["'Authorization': " + "'Bearer abcdefghijklmnop1234'"],
    "a password in an address": ["https://me" + ":secret@host.example/simple"],
    "a folder of a machine": ["see /" + "root/x.py", "'/" + "home/me/data'", "<p>/" + "Users/me/x",
                              "C:\\" + "Users\\me"],
    "a file by its address": ["file:/" + "/wheels"], "an address of a private net": ["on 10." + "0.12.7:8080"],
    "the clone's folder": [f"{ROOT}/book"],
}


@pytest.mark.parametrize("kind", LEAKS)
def test_each_kind_of_leak_is_seen_where_it_stands(kind, tmp_path):
    for sample in LEAKS[kind]:
        (tmp_path / "page.html").write_bytes(b"\xff" + f"<p>{sample}</p>".encode())
        assert f"page.html: {kind}" in leaks_below(tmp_path), sample
    assert not leaks("torch 2.13.0 on https://example.org/a/home/x, sha256 0123456789abcdef, [1](/notes/work.html)")


def test_a_secret_of_the_environment_and_a_host_are_seen_but_not_repeated(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "value-of-a-secret-key")
    monkeypatch.setattr("socket.gethostname", lambda: "node-17.cluster")
    found = leaks("trained on node-17.cluster with value-of-a-secret-key")
    assert found == ["the host's name", "the value of SOME_API_KEY"]


def test_tracked_files_name_no_registry_and_nothing_of_a_machine():
    parts = ("py" + r"pi\." + "org", "python" + r"hosted\.", "registry" + r"\.npm" + "js", "/opt/" + "(wheels|pypi)")
    registry = re.compile("|".join(parts))
    suffixes = (".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".cff", ".json", ".jsonl", ".cfg", ".bib", ".css",
                ".ipynb", ".html", ".js", ".tsv", ".csv", "")
    for path in tracked(*suffixes):
        if path.is_relative_to(BOOK / "data") and path.suffix != ".py":
            continue  # text that others wrote, shipped as training data
        text = path.read_text(encoding="utf-8")
        found = registry.search(text)
        assert not found, f"{path.relative_to(ROOT)} names {found.group()!r}"
        assert leaks(text) == [], path.relative_to(ROOT)


def test_lorakit_and_its_tests_do_without_the_book():
    """`lorakit/` names no chapter, claim, source or experiment; its tests use nothing that the book brings."""
    pages = [page.stem for page in (ROOT / "book").glob("[0-9][0-9]-*.md")]
    claims = rf"\b(?:{'|'.join(claim.id for claim in CLAIMS if len(claim.id) > 2)})\b"
    experiments = [name for name in EXPERIMENTS if name.count("-") > 1]  # `learning-rate` is also English
    of_the_book = r"lorabook|[Oo]smosis|\b[Tt]he (?:article|book|chapter)\b"
    names = re.compile("|".join([of_the_book, claims, *map(re.escape, pages), *(
        rf"(?<![\w-]){re.escape(name)}(?![\w-])" for name in experiments)]))
    assert all(map(names.search, ("as 02-rank says", "see learning-rate-width", "C14-B", "from lorabook",
                                  "the book's rule")))
    for path in PACKAGE.rglob("*.py"):
        found = names.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path.relative_to(ROOT)} names {found[0]!r}"
    given = {name for place, source in sources.sources().items() if place != sources.OWN for name in (
        *source.rewards, *(name for pinned in source.pins.values() for name in pinned))}
    given -= {"tiny-moe"}  # a shape that lorakit knows, too
    quoted = re.compile(rf"""["'](?:{'|'.join(map(re.escape, given))})["'@]|["'/]book["'/]|lorabook""")
    assert all(map(quoted.search, ('dataset="real-text@1"', "reward='osmosis'", 'ROOT / "book"', "import lorabook")))
    for path in (ROOT / "tests").glob("*.py"):
        found = quoted.search(path.read_text(encoding="utf-8"))
        assert not found, f"{path.name} names {found[0]}: it belongs into tests/lorabook"
