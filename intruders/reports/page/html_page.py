"""A report as one HTML file that needs nothing else: no network, and no other files.

The file contains plotly.js completely (4.8 MB, as the installed plotly package has it: a smaller bundle would have
to be kept here and updated) and the audit as JSON. The scripts in `page/` draw and recount it in the browser.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...audits.result.audit_result import Audit
from ...audits.result.subspaces import medians
from ...audits.result.summary import (
    ambiguous,
    by_kind,
    certificates,
    median_relative,
    skipped_by_reason,
    update_norm,
)
from ...audits.scales.critical_scales_result import CriticalScales
from ...charts.chart import Chart, Grid
from ...charts.drawing import MANY
from ...charts.text import duration, number, percent, plural
from ...errors import missing_extra
from ...studies.advice.steps import INTERPRETATION
from ...system.files import check_writable, write_atomically
from ...system.versions import versions
from ..audit.audit_command import audit_command
from ..audit.comparison import common_matrices, labels_for
from ..audit.next_steps import next_steps
from ..audit.page_payload import audit_payload, scales_payload
from ..shared.sort_key import sort_key

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

PAGE = Path(__file__).parent


def check_can_write_html(path: str | os.PathLike[str]) -> None:
    """Raise now what writing a report to `path` would raise at the end of the work."""
    check_writable(path)
    _environment()


def write_page(path: str | os.PathLike[str], render: Callable[[], str]) -> None:
    """Write a page, completely or not at all; what would fail is found before it is rendered.

    Raises:
      ResultFileError: `path` cannot be written.
      MissingDependencyError: plotly or jinja2 is missing.
    """
    check_can_write_html(path)
    write_atomically(path, render().encode())


def write_html(audit: Audit, path: str | os.PathLike[str], scales: CriticalScales | None = None) -> None:
    """Write the report of one audit, with its critical scales if given, to `path`, completely or not at all.

    Raises:
      ResultFileError, MissingDependencyError: as :func:`write_page`.
    """
    write_page(path, lambda: render_audit(audit, scales))


def write_comparison_html(audits: Sequence[Audit], path: str | os.PathLike[str]) -> None:
    """Write the report that compares several audits of one base.

    Raises:
      SettingError: fewer than two audits were given, or no matrix is in all of them.
      ResultFileError, MissingDependencyError: as :func:`write_page`.
    """
    write_page(path, lambda: render_comparison(audits))


def render_audit(audit: Audit, scales: CriticalScales | None = None) -> str:
    """Return the HTML text of the report of one audit, with its critical scales if given."""
    return render_page(
        "audit.html.j2",
        ["count.js", "plots.js", "charts.js", "audit.js"],
        {**audit_payload(audit), "scale": None if scales is None else scales_payload(scales)},
        scales=scales,
        audit=audit,
        words=next_steps(audit, scales),
        interpretation=INTERPRETATION,
        kinds=by_kind(audit.matrices),
        norm=update_norm(audit.matrices),
        relative=median_relative(audit.matrices),
        certificates=certificates(audit.matrices),
        ambiguous=ambiguous(audit.matrices),
        reasons=skipped_by_reason(audit.skipped),
        subspaces=medians([matrix.subspaces for matrix in audit.matrices if matrix.subspaces is not None]),
        command=audit_command(audit),
        settings={"k": audit.k, "epsilon": audit.epsilon, "exact": audit.exact, **audit.settings},
    )


def render_comparison(audits: Sequence[Audit]) -> str:
    """Return the HTML text of the report of several audits, on the matrices that all of them have."""
    shared = common_matrices(audits)
    names = labels_for(audits)
    return render_page(
        "compare.html.j2",
        ["count.js", "plots.js", "compare.js"],
        {"audits": [audit_payload(audit, name) for audit, name in zip(shared.audits, names, strict=True)]},
        shared=shared,
        audits=list(zip(names, audits, strict=True)),
        many=MANY,
        versions=_grouped_versions(names, audits),
    )


def _grouped_versions(names: Sequence[str], audits: Sequence[Audit]) -> list[tuple[str, list[str]]]:
    """Return every set of versions once, with the audits made by it."""
    groups: dict[str, list[str]] = {}
    for name, audit in zip(names, audits, strict=True):
        groups.setdefault(", ".join(f"{key} {value}" for key, value in audit.versions.items()), []).append(
            name
        )
    return list(groups.items())


def render_page(
    template: str, scripts: Sequence[str], payload: dict[str, Any], *, own: Path = PAGE, **values: object
) -> str:
    """Return the HTML text of a page: the template with `values`, the scripts, and `payload` as the data they draw.

    The template and the scripts are in the folder `own`, or here.
    """
    environment = _environment(own)
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return environment.get_template(template).render(
        **values,
        payload=_as_json(payload),
        style=Markup((PAGE / "page.css").read_text(encoding="utf-8")),
        scripts=Markup(
            "\n".join(_script(script, own).read_text(encoding="utf-8") for script in ["page.js", *scripts])
        ),
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


def _script(name: str, own: Path) -> Path:
    return own / name if (own / name).is_file() else PAGE / name


def _environment(own: Path = PAGE) -> Environment:
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
    environment.filters.update(
        percent=percent, number=number, duration=duration, prose=_prose, shell=_shell, sort_key=sort_key
    )
    environment.globals.update(plural=plural)
    return environment


def _prose(text: str) -> Markup:
    """Turn text in `backticks` into code, and keep each number and its % on one line."""
    from markupsafe import Markup, escape

    escaped = str(escape(text)).replace(" %", "\u00a0%")
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped))


def _shell(line: str) -> Markup:
    """Keep the name of every option in a shell line on one line."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<= )(--?[a-z][a-z-]*)", r'<span class="nowrap">\1</span>', str(escape(line))))


def _as_json(payload: dict[str, Any]) -> Markup:
    """Return JSON for a script element: no character of it can end the element or open a comment."""
    from markupsafe import Markup

    text = json.dumps(payload, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))
