"""The anatomy of a chapter, and the rule that no result is typed into prose.

What a reader could take for a result is a decimal, a percentage, a multiple or a number of four digits and more. Such
a number may stand in a code cell, in a formula, in a role (`{glue:text}`), in a paragraph that cites its source, and in
a prediction, which is arithmetic from before the run. Anywhere else it has to be glued.
"""

import ast
import functools
import re
import statistics
from pathlib import Path

import pytest
from chapter_shape import CELLS, CHARTS, HIDDEN_LINES, MEAN_WORDS, PUBLIC_SHARE, WORDS, shape_of
from chapter_shape import SECTIONS as SHAPE

jupytext = pytest.importorskip("jupytext", reason="needs the book's packages")

BOOK = Path(__file__).parents[2] / "book"
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]-*.md"))
SECTIONS = {
    "Question": r"\*\*Question\.?\*\*|^#+ .*question",
    "what you will be able to decide": r"what you will be able to decide",
    "Prediction": r"\*\*Prediction\.?\*\*|^#+ .*prediction",
    "Takeaway": r"\{admonition\} Takeaway",
    "Card": r"\} Card\b|^#+ Card\b",
    "Exercises": r"^#+ Exercises",
}
HIDDEN = {"remove-cell", "remove-input", "hide-cell", "hide-input"}
LONGEST_CELL, LONGEST_MEDIAN, WIDEST_LINE, COLUMN = 15, 10, 120, 77
RESULT = re.compile(
    r"\d+[.]\d+"  # a decimal
    r"|\d+\s?%"  # a share
    r"|\d+\s?×|×\s?\d+|\d+-fold|\d+ times"  # a multiple
    r"|\d{1,3}(?:,\d{3})+"  # a large count
    r"|\d+e[+-]?\d+"  # 3e-4
)
BLOCKS = re.DOTALL | re.MULTILINE
NO_PROSE = re.compile(
    r"\$\$.*?\$\$|\$[^$]+\$"  # formulas
    r"|\{[\w:]+\}`[^`]*`|``.+?``|`[^`]*`"  # roles and code
    r"|\]\([^)]*\)|<[^>]*>|https?://\S+"  # addresses
    r"|\b[A-Za-z][\w.]*-\w[\w.-]*"  # names with a version in them: Llama-3.1-8B
    r"|\b(?:Python|version|arXiv) \d[\d.]*"
    r"|\d+ × \d+(?: × \d+)*(?! ?[a-z]* ?(?:faster|more|less|slower))"  # shapes: 8 × 64 tokens
    r"|\b95 % (?:confidence )?interval",
    re.DOTALL,
)


def typed_results(markdown):
    """Numbers in prose that look like results, each with the start of its paragraph."""
    text = re.sub(r"^(`{3,})(?:\{(?:math|bibliography|code-cell)\}.*?|\w*\n.*?)^\1\s*$", "", markdown, flags=BLOCKS)
    found, predicting = [], False
    for paragraph in re.split(r"\n\s*\n", text):
        predicting = paragraph.startswith("**Prediction") or (predicting and not re.match(r"#|\*\*[A-Z]", paragraph))
        if predicting or "{cite" in paragraph:
            continue
        prose = NO_PROSE.sub(" ", paragraph)
        found += [f"{match.group()} in: {paragraph.strip()[:60]}" for match in RESULT.finditer(prose)]
    return found


@pytest.mark.parametrize("sentence", [
    "Rank 4 ends at 1.73 nats.", "The gap is 12 %.", "LoRA is 3× slower.", "It grew 8-fold.", "That is 10 times more.",
    "It has 1,769,472 weights.", "The best rate is 3e-4.", "The best is at .. 2.5 x.", "| full | 0.97 |",
])
def test_a_typed_result_is_found(sentence):
    assert typed_results(sentence)


@pytest.mark.parametrize("sentence", [
    "Two cores, ranks 1 to 128, 5 seeds.", "Llama-3.1-8B and SmolLM2-135M.", "Python 3.11 is enough.",
    "A batch of 8 × 64 tokens.", "The loss is {glue:text}`rank-loss` nats.", r"A factor $2^{16} = 65{,}536$.",
    "The article reports 0.49 billion {cite}`schulman2025lora`.", "Use `learning_rate=3e-4`.", "A 95 % interval.",
    "**Prediction.** About 15 % of the update.", "```{code-cell} ipython3\nx = 1.5\n```", "```bash\nsleep 1.5\n```",
])
def test_what_is_no_result_may_be_typed(sentence):
    assert typed_results(sentence) == []


def test_a_prediction_ends_with_its_section():
    assert typed_results("**Prediction.** About 15 %.\n\nThen 16 %.\n\n## The run\n\nIt was 17 %.") == [
        "17 % in: It was 17 %."]


@functools.cache
def notebook(path):
    return jupytext.reads(path.read_text(encoding="utf-8"), fmt="md:myst")


def code_cells(path):
    return [cell for cell in notebook(path).cells if cell.cell_type == "code"]


def code_lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def prose(path):
    return "\n\n".join(cell.source for cell in notebook(path).cells if cell.cell_type == "markdown")


def figure(cell):
    return cell.metadata.get("mystnb", {}).get("figure", {})


def draws(cell):
    """Whether the cell's last expression is a chart."""
    last = re.split(r"\n(?=\S)", cell.source.strip())[-1]
    return bool(re.match(r"(?:\(?plots\.\w+\(|\w+\.plot\.\w+\(|\(?alt\.\w*[Cc]hart\(|alt\.layer\()", last))


def test_there_are_chapters():
    assert CHAPTERS


def found(check):
    """What a check finds in each chapter, by the chapter's name; chapters without a finding are left out."""
    return {path.stem: finding for path in CHAPTERS if (finding := check(path))}


@functools.cache
def shape(path):
    return shape_of(path)


def in_the_one_shape(path):
    return SHAPE[0] in shape(path).sections


def test_every_chapter_has_every_section():
    assert found(lambda path: [section for section, words in SECTIONS.items() if not in_the_one_shape(path)
                               and not re.search(words, prose(path), flags=re.IGNORECASE | re.MULTILINE)]) == {}
    assert found(lambda path: in_the_one_shape(path) and [name for name in shape(path).sections
                                                          if name in SHAPE] != SHAPE) == {}


def test_a_chapter_is_short():
    def beyond(path):
        one = shape(path)
        return [f"{value} {what}" for value, limit, what in (
            (one.words, WORDS, "words"), (one.charts, CHARTS, "charts"), (one.cells, CELLS, "visible cells"))
            if in_the_one_shape(path) and value > limit]

    assert found(beyond) == {}


def test_the_chapters_together_are_short_and_call_the_libraries():
    shapes = [shape(path) for path in CHAPTERS]
    if not all(map(in_the_one_shape, CHAPTERS)):
        pytest.skip("some chapters are not yet in the one shape")
    assert statistics.mean(one.words for one in shapes) <= MEAN_WORDS
    assert sum(one.hidden_lines for one in shapes) <= HIDDEN_LINES
    assert sum(one.public for one in shapes) >= PUBLIC_SHARE * sum(one.cells for one in shapes)


def test_every_chapter_has_two_exercises_or_more_with_folded_solutions():
    def lacks(path):
        after = path.read_text(encoding="utf-8").split("# Exercises")[-1]
        exercises = re.findall(r"^(?:\*\*\d+\.|\d+\. |#+ Exercise)", after, flags=re.MULTILINE)
        folded = re.findall(r"hide-(?:cell|input)|\{dropdown\}|:class: .*dropdown", after)
        return (len(exercises), len(folded)) if min(len(exercises), len(folded)) < 2 else None

    assert found(lacks) == {}


def test_every_chapter_has_one_parameters_cell_with_profile_and_size():
    def cells(path):
        return [cell.source for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]

    assert found(lambda path: len(cells(path)) != 1 or not all(
        line in cells(path)[0] for line in ('profile = "cpu"', 'size = "record"'))) == {}


def test_every_chapter_turns_the_book_rendering_on():
    assert found(lambda path: not any(re.search(r"^page = chapter\(", cell.source, flags=re.MULTILINE)
                                      for cell in code_cells(path))) == {}


def test_cells_are_short():
    def shown(path):
        return [len(code_lines(cell)) for cell in code_cells(path) if not HIDDEN & set(cell.metadata.get("tags", []))]

    assert found(lambda path: {cell.source[:60]: len(code_lines(cell)) for cell in code_cells(path)
                               if len(code_lines(cell)) > LONGEST_CELL}) == {}
    assert found(lambda path: max(0, statistics.median(shown(path)) - LONGEST_MEDIAN)) == {}


def test_no_code_line_is_wider_than_the_project_allows():
    assert found(lambda path: [line for cell in code_cells(path) for line in code_lines(cell)
                               if len(line) > WIDEST_LINE]) == {}


def test_no_line_of_code_in_view_is_wider_than_a_desks_column():
    def wide(path):
        text = path.read_text(encoding="utf-8").partition("## Evidence")[0]
        lines = [line for cell in code_cells(path) if not HIDDEN & set(cell.metadata.get("tags", []))
                 and cell.source in text for line in code_lines(cell)]
        return [line for line in lines if len(line) > COLUMN]

    assert found(wide) == {}
    for name in ("peft_and_trl.py", "serve_with_vllm.py"):
        lines = (BOOK / name).read_text(encoding="utf-8").rpartition('"""')[2].splitlines()
        assert [line for line in lines if len(line) > COLUMN] == [], name


def test_no_chapter_installs_anything_or_runs_a_shell():
    assert found(lambda path: [line for cell in code_cells(path) for line in code_lines(cell)
                               if line.lstrip().startswith(("!", "%"))]) == {}


def test_every_chart_has_a_caption_and_a_name():
    def lacks(cell):
        return [part for part, there in {
            "caption": figure(cell).get("caption", "").strip().endswith("."),
            "name": figure(cell).get("name", "").startswith("fig-"),
            "description": re.search(r"plots?\.", cell.source) or "description=" in cell.source}.items() if not there]

    assert found(lambda path: {cell.source[:60]: lacks(cell) for cell in filter(draws, code_cells(path))
                               if lacks(cell)}) == {}


def test_no_result_is_typed_into_prose_or_captions():
    def text(path):
        return "\n\n".join([prose(path), *(figure(cell).get("caption", "") for cell in code_cells(path))])

    assert found(lambda path: typed_results(text(path))) == {}


def test_no_name_is_glued_twice():
    def twice(path):
        calls = [node for cell in code_cells(path) for node in ast.walk(ast.parse(cell.source))
                 if isinstance(node, ast.Call) and ast.unparse(node.func) in ("glue", "page.glue")]
        glued = [word.arg for node in calls for word in node.keywords if word.arg]
        glued += [node.args[0].value for node in calls if node.args and isinstance(node.args[0], ast.Constant)
                  and ast.unparse(node.func) == "glue"]
        return sorted({name for name in glued if glued.count(name) > 1})

    assert found(twice) == {}


def test_the_first_page_states_no_result():
    assert typed_results((BOOK / "index.md").read_text(encoding="utf-8")) == []


def test_every_cited_key_is_in_the_bibliography():
    bibliography = (BOOK / "references.bib").read_text(encoding="utf-8")
    keys = set(re.findall(r"^@\w+\{([\w-]+),", bibliography, flags=re.MULTILINE))
    pages = "\n".join(path.read_text(encoding="utf-8") for path in BOOK.glob("*.md"))
    cited = {key.strip() for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", pages) for key in group.split(",")}
    assert cited <= keys
