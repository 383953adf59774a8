"""A report as one HTML file that needs nothing else: no network, and no other files.

The file contains plotly.js completely (4.8 MB, as the installed plotly package has it: a smaller bundle would have
to be kept here and updated) and its data as JSON. The scripts in `page/` draw and recount them in the browser.
"""

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..charts.chart import Chart, Grid
from ..errors import missing_extra
from ..system.files import check_writable, write_atomically
from ..system.versions import versions
from ..system.words import duration, number, percent, plural

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

PAGE = Path(__file__).parent / "page"


def check_can_write_html(path: str | os.PathLike[str]) -> None:
    """Raise now what writing a report to `path` would raise at the end of the work."""
    check_writable(path)
    _environment()


def write_page(path: str | os.PathLike[str], render: Callable[[], str]) -> None:
    """Write a page, completely or not at all; what would fail is found before it is rendered."""
    check_can_write_html(path)
    write_atomically(path, render().encode())


def render_page(
    template: str, scripts: Sequence[str], payload: dict[str, Any], *, own: Path = PAGE, **values: object
) -> str:
    """Return a page: the template with `values`, scripts, and the data that they draw; files are in `own`, or here."""
    environment = _environment(own)
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    paths = [own / name if (own / name).is_file() else PAGE / name for name in ("page.js", *scripts)]
    # JSON for a script element: no character of it can end the element or open a comment.
    data = json.dumps(payload, allow_nan=False, separators=(",", ":"))
    data = data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return environment.get_template(template).render(
        **values,
        payload=Markup(data),
        style=Markup((PAGE / "page.css").read_text(encoding="utf-8")),
        scripts=Markup("\n".join(path.read_text(encoding="utf-8") for path in paths)),
        plotly=Markup(get_plotlyjs()),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def render_figures(template: str, figures: Sequence[Chart | Grid], **values: object) -> str:
    """Return the HTML text of a page that shows figures and sorts its tables."""
    return render_page(
        template,
        ["plots.js", "charts.js", "sorting.js", "figures.js"],
        {"figures": [figure.payload() for figure in figures]},
        own=PAGE,
        figures=figures,
        versions=versions(),
        **values,
    )


def _environment(own: Path = PAGE) -> "Environment":
    try:
        import jinja2
        import plotly  # noqa: F401  (asked for here, so that both are missed in one message)
    except ImportError as error:
        raise missing_extra("an HTML report", str(error.name), "report") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([own, PAGE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    from markupsafe import Markup, escape

    def prose(text: str) -> "Markup":
        """Turn text in `backticks` into code, and keep each number and its % on one line."""
        escaped = str(escape(text)).replace(" %", "\u00a0%")
        return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped))

    def shell(line: str) -> "Markup":
        """Keep the name of every option in a shell line on one line."""
        nowrap = r'<span class="nowrap">\1</span>'
        return Markup(re.sub(r"(?<= )(--?[a-z][a-z-]*)", nowrap, str(escape(line))))

    environment.filters.update(
        percent=percent, number=number, duration=duration, prose=prose, shell=shell, sort_key=sort_key
    )
    environment.globals.update(plural=plural)
    return environment


def sort_key(value: float | None) -> str:
    """Return a number as JavaScript reads it; empty, and so the last, for what is missing.

    >>> sort_key(0.25), sort_key(math.inf), sort_key(-math.inf), sort_key(math.nan), sort_key(None)
    ('0.25', 'Infinity', '-Infinity', '', '')
    """
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return f"{value:.7g}"
