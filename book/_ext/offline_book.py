"""Sphinx extension of this book: scripts from installed packages instead of foreign hosts, and the generated pages.

Before Sphinx reads a page it writes `claims.md`, `guards.md` and `status.md` from records and chapters, and gathers
what pages load: the Vega bundle out of vl-convert and MathJax out of its wheel, both pinned in `constraints.txt`.
Neither is committed.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
from pathlib import Path
from typing import Any

CHAPTER = re.compile(r"book/\d\d-[^/]+")
MATHJAX_PACKAGE = "django-static-mathjax"
MATHJAX_PARTS = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts/woff-v2")


def setup(app: Any) -> dict[str, Any]:
    """Register the two steps ahead of every other extension that looks at sources or static files."""
    app.connect("config-inited", write_generated_pages, priority=1)
    app.connect("config-inited", add_scripts, priority=2)
    app.connect("config-inited", leave_thebe_out, priority=3)
    app.connect("env-get-outdated", chapters_of_changed_inputs)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def write_generated_pages(app: Any, _config: Any) -> None:
    """Write the pages that are nothing but records, so that no committed copy of them can be out of date."""
    book = Path(app.srcdir) / "book"
    wanted = (Path(app.srcdir) / "_toc.yml").read_text(encoding="utf-8")
    for name, page in {"claims": claims_page, "guards": guards_page, "status": status_page}.items():
        if f"book/{name}\n" in wanted:
            write_if_changed(book / f"{name}.md", page(book / "results"))


def claims_page(results: Path) -> str:
    """The ledger: every claim with the verdict of the records."""
    from lorabook.claims.ledger import ledger
    from lorabook.page.claims_page import ledger_markdown
    from lorakit.records import Store

    return ledger_markdown(ledger(Store(results)))


def guards_page(results: Path) -> str:
    """Every sentence of a chapter that stops the build, with its threshold."""
    from lorabook.page import guards

    return guards.guards_page(sorted(results.parent.glob("*.md")))


def status_page(results: Path) -> str:
    """Where and when the records were made, and how long each chapter took in this build."""
    from lorabook.page import status
    from lorakit.records import Store

    return status.status_page(Store(results))


def write_if_changed(path: Path, text: str) -> None:
    """Leave the file, and Sphinx's cache of it, alone where its text is the same."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def chapters_of_changed_inputs(app: Any, env: Any, *_: Any) -> list[str]:
    """All chapters, if records, code or size changed since the last build: Sphinx itself looks at their text alone."""
    from lorabook.refresh import chapter_inputs

    inputs = chapter_inputs(Path(app.srcdir) / "book") | {"size": os.environ.get("LORAKIT_SIZE")}
    before, env.chapter_inputs = getattr(env, "chapter_inputs", None), inputs
    return [] if before == inputs else sorted(name for name in env.found_docs if CHAPTER.fullmatch(name))


def add_scripts(app: Any, config: Any) -> None:
    """Put the Vega bundle and MathJax beside the build and serve them as static files."""
    folder = Path(app.outdir).parent / "scripts"
    add_vega(folder)
    add_mathjax(folder / "mathjax")
    config.html_static_path.append(str(folder))


def add_vega(folder: Path) -> None:
    """Vega, Vega-Lite and Vega-Embed as one file; about a second, so it is kept while vl-convert stays the same."""
    version = importlib.metadata.version("vl-convert-python")
    bundle, stamp = folder / "vega-bundle.js", folder / "vega-bundle.version"
    if bundle.exists() and stamp.exists() and stamp.read_text() == version:
        return
    import vl_convert

    folder.mkdir(parents=True, exist_ok=True)
    # In a function, since its top-level names would clash with those of the theme's scripts.
    bundle.write_text("(() => {" + vl_convert.javascript_bundle() + "})();\n", encoding="utf-8")
    stamp.write_text(version)


def add_mathjax(folder: Path) -> None:
    """MathJax 3 with its fonts and TeX extensions, without menus and speech, which load on demand from elsewhere."""
    distribution = importlib.metadata.distribution(MATHJAX_PACKAGE)
    source = Path(str(distribution.locate_file("mathjax/static/mathjax/es5")))
    for part in MATHJAX_PARTS:
        target = folder / part
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target)
        else:
            shutil.copyfile(source / part, target)


def leave_thebe_out(app: Any, _config: Any) -> None:
    """Jupyter Book always loads sphinx-thebe, which would put another host's address into every page, twice."""
    for listeners in list(app.events.listeners.values()):
        for listener in list(listeners):
            if getattr(listener.handler, "__name__", "") in ("init_thebe_core", "update_thebe_context"):
                app.disconnect(listener.id)
