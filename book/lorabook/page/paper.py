"""The built book as one PDF: all its pages behind each other in one, printed by Chromium without a network.

`python -m lorabook.page.paper _build/html` writes `_build/lora-without-regret-measured.pdf`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NAME = "lora-without-regret-measured.pdf"
ARTICLE = re.compile(r'<article class="bd-article">(.*?)</article>', re.S)
SCRIPT_SECONDS = 120  # of the page's own clock, for its charts and formulas


class PaperError(RuntimeError):
    """The book cannot be printed as things are."""


def pages(built: Path) -> list[Path]:
    """The pages in the order of the contents, the landing page first.

    Raises:
        PaperError: there is no built book.
    """
    first = built / "book" / "index.html"
    if not first.exists():
        raise PaperError(f"no built book in {built}: run `make book` first")
    menu = re.search(r'<nav class="bd-links.*?</nav>', first.read_text(encoding="utf-8"), re.S)
    names = re.findall(r'href="([\w-]+)\.html"', menu.group() if menu else "")
    listed = [first.parent / f"{name}.html" for name in dict.fromkeys(names)]
    return [first, *(path for path in listed if path != first and path.exists())]


def one_page(found: list[Path]) -> str:
    """All of them as one HTML page that lies beside them; folds are open, and links lead within it."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in found}
    articles = []
    for name, text in texts.items():
        article = ARTICLE.search(text)
        if article is None:
            raise PaperError(f"{name}.html has no article: was it built by this version?")
        inside = re.sub(r"<details(?! open)", "<details open", article.group(1))
        inside = re.sub(rf'href="({"|".join(texts)})\.html(?:#[^"]*)?"', r'href="#page-\1"', inside)
        articles.append(f'<article class="bd-article paper-page" id="page-{name}">{inside}</article>')
    whole = texts[found[0].stem]
    with_formulas = max(texts.values(), key=lambda text: "mathjax/tex-chtml" in text)
    head = re.search(r"<head>.*?</head>", with_formulas, re.S)
    language = re.search(r"<html[^>]*>", whole)
    return (f'<!DOCTYPE html>{language.group() if language else "<html>"}{head.group() if head else ""}'
            f'<body class="paper"><main class="bd-content">{"".join(articles)}</main></body></html>')


def print_pdf(built: Path) -> Path:
    """Write the PDF beside the built book.

    Raises:
        PaperError: no built book, no Chromium, or it wrote nothing.
    """
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise PaperError(f"printing needs Chromium, under one of these names: {', '.join(BROWSERS)}")
    page, target = built / "book" / "_paper.html", built.parent / NAME
    page.write_text(one_page(pages(built)), encoding="utf-8")
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
             "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--no-first-run",
             "--allow-file-access-from-files", f"--virtual-time-budget={1000 * SCRIPT_SECONDS}",
             "--no-pdf-header-footer", f"--print-to-pdf={target}", page.resolve().as_uri()],
            capture_output=True, text=True, timeout=600)
    page.unlink()
    if not target.exists():
        raise PaperError(f"Chromium wrote no PDF: {done.stderr[-500:]}")
    return target


if __name__ == "__main__":
    try:
        sys.stdout.write(f"The book on paper: {print_pdf(Path(sys.argv[1]))}\n")
    except PaperError as error:
        sys.exit(f"error: {error}")
