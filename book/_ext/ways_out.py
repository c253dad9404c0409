"""Sphinx extension of this book: ways out of a page, to its source, its notebook and its preview elsewhere.

`book_repository` and `book_site` in `_config.yml` are the two addresses; a button or tag that needs one is absent where
it is empty, never broken. What needs none is there always: the description, and the executed notebook as a download.
"""

from __future__ import annotations

import html
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from jupyter_cache import get_cache

DESCRIPTION = ("When does LoRA learn as well as full fine-tuning? The claims of LoRA Without Regret, measured, "
               "and a calculator of rank, learning rate, memory and cost.")
PICTURE = "_static/ratio.png"
BRANCH = "notebooks"  # of the repository, where the workflow of the book puts them
SETUP = """import sys

if "google.colab" in sys.modules:  # the packages and the records of the book
    !git clone --quiet --depth 1 {repository} /content/source
    !pip install --quiet -e '/content/source[train]' -e /content/source/book/lorabook
    %cd /content/source/book"""
OF_A_RUN = ("execution", "papermill", "date", "widgets")  # metadata that names times and machines


def setup(app: Any) -> dict[str, Any]:
    """Register the addresses, and what is done with them."""
    app.add_config_value("book_repository", "", "html", str)
    app.add_config_value("book_site", "", "html", str)
    app.connect("config-inited", add_buttons, priority=4)
    app.connect("html-page-context", describe, priority=900)
    app.connect("html-page-context", offer_notebook, priority=502)
    app.connect("build-finished", copy_notebooks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}


def add_buttons(_app: Any, config: Any) -> None:
    """Repository, issue and edit buttons of the theme, where there is an address."""
    if config.book_repository:
        config.html_theme_options |= {
            "repository_url": config.book_repository.rstrip("/"), "repository_branch": "main", "path_to_docs": "",
            "use_repository_button": True, "use_issues_button": True, "use_edit_page_button": True}


def describe(app: Any, page: str, _template: str, context: dict[str, Any], doctree: Any) -> None:
    """The page's description, its first paragraph; with an address, what previews elsewhere show, and its picture."""
    title = html.escape(re.sub("<[^>]+>", "", str(context.get("title") or app.config.project)), quote=True)
    text = html.escape(first_paragraph(doctree) or DESCRIPTION, quote=True)
    tags = [f'<meta name="description" content="{text}">']
    tags += [f'<meta property="og:{name}" content="{value}">' for name, value in
             {"title": title, "description": text, "type": "article", **elsewhere(app.config, page)}.items()]
    context["metatags"] = context.get("metatags", "") + "\n".join(tags)


def elsewhere(config: Any, page: str) -> dict[str, str]:
    """What needs the address of the site."""
    site = config.book_site.rstrip("/")
    return {"url": f"{site}/{page}.html", "image": f"{site}/{PICTURE}"} if site else {}


def first_paragraph(doctree: Any) -> str:
    """Up to 200 letters of a page's first paragraph, whole words."""
    from docutils import nodes

    found = next(iter(doctree.findall(nodes.paragraph)), None) if doctree is not None else None
    text = re.sub(r"\s*\[[^]]*\]|\s+", " ", found.astext()).strip() if found else ""
    return text if len(text) <= 200 else text[:200].rpartition(" ")[0] + " …"


def notebooks(app: Any) -> Path:
    """Where MyST-NB leaves what it executed."""
    return Path(app.outdir).parent / "jupyter_execute"


def on_colab(repository: str, page: str) -> str:
    """Where Colab opens the executed notebook of a page; empty for a repository that Colab cannot read.

    >>> on_colab("https://github.com/someone/book/", "book/02-rank")
    'https://colab.research.google.com/github/someone/book/blob/notebooks/02-rank.ipynb'
    """
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?", repository)
    place = f"{found.group(1)}/blob/{BRANCH}/{Path(page).name}.ipynb" if found else ""
    return f"https://colab.research.google.com/github/{place}" if place else ""


def offer_notebook(app: Any, page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """A button that downloads the executed notebook of this page."""
    if (notebooks(app) / f"{page}.ipynb").exists() and "header_buttons" in context:
        depth = "../" * page.count("/")
        context["header_buttons"].append({
            "type": "link", "url": f"{depth}notebooks/{Path(page).name}.ipynb", "icon": "fas fa-download",
            "tooltip": "Download this page as an executed notebook", "label": "notebook-button"})
        if address := on_colab(app.config.book_repository, page):
            context["header_buttons"].append({"type": "link", "url": address, "icon": "fas fa-rocket",
                                              "tooltip": "Run this page on Colab", "label": "colab-button"})


def copy_notebooks(app: Any, error: Exception | None) -> None:
    """The executed notebooks beside the pages, without times and machines."""
    source, target = notebooks(app), Path(app.outdir) / "notebooks"
    if error or not source.is_dir():
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    config = app.env.mystnb_config
    cache = get_cache(config.execution_cache_path) if config.execution_mode == "cache" else None
    for path in sorted(source.rglob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if cache is not None and any(cell.cell_type == "code" for cell in notebook.cells):
            with suppress(KeyError):  # MyST-NB writes what it took from the cache without its outputs
                _, notebook = cache.merge_match_into_notebook(notebook)
        notebook.metadata = nbformat.from_dict({key: value for key, value in notebook.metadata.items()
                                                if key in ("kernelspec", "language_info")})
        for cell in notebook.cells:
            cell.metadata = nbformat.from_dict({key: value for key, value in cell.metadata.items()
                                                if key not in OF_A_RUN})
            if cell.cell_type == "code":  # warnings name the folders of a machine
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        if on_colab(app.config.book_repository, path.stem):
            packages = SETUP.format(repository=app.config.book_repository)
            notebook.cells.insert(0, nbformat.v4.new_code_cell(packages, id="packages"))
        nbformat.write(notebook, target / path.name)
