"""How a chart and a number get from a chapter's cell onto its page: one call of `setup()` per chapter.

A chart leaves the cell as HTML (specification and a PNG of it), SVG and PNG at once: the page takes the HTML, a
notebook viewer or LaTeX the PNG. `book/_static/charts.js` replaces the PNG by the live chart when the book's own Vega
bundle has loaded; without script, or outside the book, the PNG stays. Nothing is fetched from another host.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import json
import warnings
from typing import Any

import altair as alt

from lorakit.analysis import palette

PAPER_INK = "#1b1b1f"
PNG_SCALE = 2.0


class RenderingError(RuntimeError):
    """A chart or a value cannot be put on a page."""


def setup() -> None:
    """Let every chart of this notebook appear in the book's theme, offline: call it once, in the first cell.

    A warning comes onto the page in its words, without the folder of the machine that it would name; what tqdm says
    about a missing widget stays off it.
    """
    warnings.filterwarnings("ignore", message="IProgress not found")
    warnings.formatwarning = in_words
    if importlib.util.find_spec("vl_convert") is None:
        raise RenderingError("drawing charts needs vl-convert: run `pip install ./book/lorabook` in the clone")
    alt.theme.register("lorakit", enable=False)(theme)
    alt.theme.enable("lorakit")
    alt.renderers.register("lorakit", mimebundle)
    alt.renderers.enable("lorakit")
    if (shell := _notebook_shell()) is not None:
        words = shell.display_formatter.formatters["text/plain"]  # type: ignore[attr-defined]
        for kind in (str, float, list, tuple, dict):
            words.for_type(kind, lambda value, pretty, _: pretty.text(plainly(value)))


def in_words(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    """A warning without its place.

    >>> in_words("a best rate at the end of its grid", UserWarning, "rates.py", 7)
    'UserWarning: a best rate at the end of its grid\\n'
    """
    return f"{category.__name__}: {message}\n"


def plainly(value: object) -> str:
    """What a cell ends in as one writes it: words without quotes, four digits, a list with commas, a dict in lines.

    >>> print(plainly({"rank 1": (0.24, "open"), "tokens": 28912}))
    rank 1: 0.24, open
    tokens: 28,912
    """
    if isinstance(value, dict):
        return "\n".join(f"{name}: {plainly(one)}" for name, one in value.items())
    if isinstance(value, list | tuple | set):
        nested = any(isinstance(one, list | tuple | set | dict) for one in value)
        return ("\n" if nested else ", ").join(map(plainly, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000 else str(value)


def theme() -> alt.theme.ThemeConfig:
    """The book's theme in the type that Altair's registry wants."""
    return alt.theme.ThemeConfig(**palette.theme())  # type: ignore[typeddict-item]


def mimebundle(spec: dict[str, Any], **_: Any) -> dict[str, str]:
    """HTML, SVG and PNG of one Vega-Lite specification, in one bundle.

    Raises:
        RenderingError: the chart has no `description`, so a reader who cannot see it would get nothing.
    """
    import vl_convert

    description = spec.get("description")
    if not description:
        raise RenderingError("the chart has no description: add .properties(description='what it shows')")
    paper = on_paper(spec)
    png = base64.b64encode(vl_convert.vegalite_to_png(paper, scale=PNG_SCALE)).decode()
    return {
        "text/html": chart_html(spec, png),
        "image/svg+xml": vl_convert.vegalite_to_svg(paper),
        "image/png": png,
        "text/plain": description,
    }


def chart_html(spec: dict[str, Any], png: str) -> str:
    """The chart's place on the page: its fallback picture, and its specification for `charts.js`."""
    text = json.dumps(spec, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    alternative = html.escape(spec["description"], quote=True)
    return (
        f'<div class="lorakit-chart"><img alt="{alternative}" src="data:image/png;base64,{png}">'
        f'<script type="application/json">{text}</script></div>'
    )


def on_paper(spec: Any) -> Any:
    """The same specification for a white page: a PNG has no page whose ink it could take.

    >>> on_paper({"color": "currentColor", "background": "transparent"})
    {'color': '#1b1b1f', 'background': 'white'}
    """
    if isinstance(spec, dict):
        changed = {key: on_paper(value) for key, value in spec.items()}
        return changed | {"background": "white"} if changed.get("background") == "transparent" else changed
    if isinstance(spec, list):
        return [on_paper(value) for value in spec]
    return PAPER_INK if spec == palette.INK else spec


def glue(name: str, value: object, form: str = "") -> str:
    """Give a computed value a name that the chapter's prose can use: ``{glue:text}`name` ``.

    Args:
        name: the chapter's stem and the quantity, such as `rank-best-rate-ratio`; unique in the book.
        value: a number, or words that a rule chose.
        form: a format specification, such as `.2f`, `,` or `.1%`; empty for words.

    Returns:
        The text that the page shows. Outside a notebook nothing else happens.

    Raises:
        RenderingError: the value is None or not finite, so a page would print "nan".

    >>> glue("rank-runs", 1250, ",")
    '1,250'
    """
    if value is None or (isinstance(value, float) and value - value != 0):
        raise RenderingError(f"{name!r} is {value!r}: a page cannot state it; write the sentence for that case")
    text = format(value, form)
    shell = _notebook_shell()
    if shell is not None:
        import myst_nb

        myst_nb.glue(name, _Text(text), display=False)
    return text


class _Text:
    """Plain words for myst-nb, which shows a string's repr, quotes included."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return repr(self.text)  # myst-nb evaluates what it can as a literal: unquoted, 851,968 becomes a tuple


def _notebook_shell() -> object | None:
    if importlib.util.find_spec("IPython") is None:
        return None
    from IPython import get_ipython

    return get_ipython()
