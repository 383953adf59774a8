"""Charts as figures for papers: one style, colors for things in an order, and each as PNG, SVG, and CSV.

Colours are Okabe and Ito's and single-hue scales of even lightness, so that the colour-blind read them, and a
grey print too; lines differ in dash and points in shape as well.
"""

import hashlib
import io
import math
import os
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ResultFileError, missing_extra, os_reason
from ..system.files import user_path, write_atomically
from ..system.words import number, plural, shorten
from .chart import TONES, Axis, Chart, Grid, Rule, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#222222")
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "D", "^", "X", "v")

_LONGEST = 150  # characters of a file's name, to which its suffix comes

STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
    "text.parse_math": False,  # names come from files, and a $ in one is a $
    "svg.fonttype": "none",  # text stays text, which a journal's typesetter can set
    "svg.hashsalt": "intruders",  # the same figure is the same file
}


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib in the style of these figures; the user's own settings are back afterwards."""
    try:
        import matplotlib
    except ImportError as error:
        raise missing_extra("a figure", "matplotlib", "report") from error
    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure of `width` x `height` inches, which shows itself in a notebook."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """Figures made without pyplot are not shown by every notebook; this one brings its own picture."""

        def _repr_png_(self) -> bytes:
            return picture(self, "png")

    figure = NotebookFigure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def picture(figure: "Figure", kind: str, *, transparent: bool = False) -> bytes:
    """The figure as the content of a PNG (200 dots an inch) or SVG file, without the time of writing."""
    content = io.BytesIO()
    without_time = {"Date": None} if kind == "svg" else None
    with styled():
        figure.savefig(content, format=kind, dpi=200, metadata=without_time, transparent=transparent)
    return content.getvalue()


def write_drawings(figures: Sequence[Chart | Grid], folder: str | os.PathLike[str]) -> list[Path]:
    """Draw every figure to `folder` as .png, .svg and .csv; return the paths. Warn of figures of an earlier call."""
    try:
        with styled():  # raises without matplotlib, where an empty folder would be left
            user_path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultFileError(f"cannot make the folder '{folder}': {os_reason(error).lower()}") from error
    paths = []
    for figure, name in zip(figures, _file_names(figures), strict=True):
        stem, drawn = user_path(folder) / name, draw(figure)
        contents = {kind: picture(drawn, kind) for kind in ("png", "svg")}
        contents["csv"] = figure.frame().to_csv(index=False).encode()
        for suffix, content in contents.items():
            paths.append(stem.with_name(f"{stem.name}.{suffix}"))
            write_atomically(paths[-1], content)
    names = {path.name for path in user_path(folder).iterdir()} - {path.name for path in paths}
    csvs = (name for name in names if name.endswith(".csv"))
    others = sorted(name for name in csvs if {f"{name[:-4]}.png", f"{name[:-4]}.svg"} <= names)
    if others:
        warnings.warn(
            f"{plural(len(others), 'figure')} in '{user_path(folder)}' {'is' if len(others) == 1 else 'are'} of an "
            f"earlier report ('{others[0]}'), and not of this one; remove what is out of date, or choose another "
            "folder",
            stacklevel=1,
        )
    return paths


def _file_names(figures: Sequence[Chart | Grid]) -> list[str]:
    """Return a name for each that no other has where case does not count; those cut or shared end in a digest."""
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "_", figure.name) for figure in figures]
    count = Counter(name[:_LONGEST].lower() for name in plain)
    given: Counter[tuple[str, str]] = Counter()
    names = []
    for figure, name in zip(figures, plain, strict=True):
        if len(name) > _LONGEST or count[name.lower()] > 1:
            in_full = figure.name, figure.title
            given[in_full] += 1
            content = "\n".join([*in_full, str(given[in_full])]).encode(errors="surrogatepass")
            digest = hashlib.sha256(content).hexdigest()[:8]
            name = f"{name[: _LONGEST - len(digest) - 1]}-{digest}"
        names.append(name)
    return names


_WIDTH, _HEIGHT = 3.6, 2.7
_LONG = 30  # characters of a name above which the legend has one column
_LEGEND_ROW = 0.17  # inches that a row of the legend takes
_TICKS = 12  # of a side of a grid whose cells are small
_BAR_WIDTH = 1.3  # inches that the bar takes with its names
_LIGHTEST = 0.88  # of viridis; what is above is too light for a line on white
_NAMED = 6  # names beside the bar


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of the positions 0, ..., `count` - 1: evenly apart, with the first and the last."""
    positions: list[int] = np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
    return positions


def order_colors(count: int) -> list[tuple[float, float, float, float]]:
    """Return `count` colors (RGBA) from dark to light, which the color-blind and a gray print keep in order."""
    from matplotlib import colormaps

    return [colormaps["viridis"](_LIGHTEST * i / max(1, count - 1)) for i in range(count)]


def add_order_bar(figure: "Figure", axes: "Axes", names: Sequence[str], title: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    count = len(names)
    scale = ScalarMappable(Normalize(-0.5, count - 0.5), ListedColormap(order_colors(count)))
    bar = figure.colorbar(scale, ax=axes)
    named = evenly(count, _NAMED)
    bar.ax.minorticks_off()
    bar.set_ticks(named, labels=[shorten(names[i], 18) for i in named])
    bar.ax.tick_params(labelsize=7)
    bar.set_label(title, fontsize=8)


def draw_chart(chart: Chart) -> "Figure":
    named = [len(series.name) for series in chart.series if series.in_legend and not chart.in_order]
    colors: Sequence[Any] = order_colors(len(chart.series)) if chart.in_order else [None] * len(chart.series)
    categories = len(chart.y.ticks) if chart.y.ticks is not None else 0
    columns = 1 if max(named, default=0) > _LONG else 2
    rows = 0 if len(named) < 2 else math.ceil(len(named) / columns)
    height = max(_HEIGHT, 0.9 + 0.24 * categories) + _LEGEND_ROW * rows
    width = _WIDTH * (1.4 if categories or chart.wide else 1.0) + (_BAR_WIDTH if chart.in_order else 0)
    with styled():
        figure, axes = new_figure(width, height)
        for series, color in zip(chart.series, colors, strict=True):
            _draw_series(axes, series, color)
        for rule in chart.rules:
            _draw_rule(axes, rule)
        set_axis(axes, "x", chart.x)
        set_axis(axes, "y", chart.y)
        axes.set_title(_wrapped(chart.title, 46), fontsize=9)
        if rows:
            figure.legend(loc="outside lower center", ncols=columns, fontsize=6.5)
        if chart.in_order:
            add_order_bar(figure, axes, [series.name for series in chart.series], chart.in_order)
    return figure


def draw_grid(grid: Grid) -> "Figure":
    from matplotlib.ticker import MaxNLocator

    values = np.array(grid.values, dtype=float)
    low, high = grid.value.limits or (float(np.nanmin(values)), float(np.nanmax(values)))
    with styled():
        cell_width, cell_height = (0.62, 0.34) if grid.has_numbers else (0.16, 0.12)
        width, height = 1.9 + cell_width * len(grid.columns), 1.3 + cell_height * len(grid.rows)
        figure, axes = new_figure(max(3.0, width), height)
        image = axes.imshow(
            values, vmin=low, vmax=high, cmap="RdBu_r" if grid.signed else "Blues", aspect="auto"
        )
        form = ".0f" if grid.are_counts else ".2f"
        for (row, column), value in np.ndenumerate(values):
            if math.isfinite(value) and grid.has_numbers:
                dark = abs(value) > 0.6 * high if grid.signed else value > low + 0.6 * (high - low)
                colour = "white" if dark else "black"
                axes.text(column, row, f"{value:{form}}", ha="center", va="center", fontsize=8, color=colour)
        sides = ((axes.set_xticks, grid.columns, 14), (axes.set_yticks, grid.rows, 22))
        for set_ticks, names, length in sides:
            step = 1 if grid.has_numbers else math.ceil(len(names) / _TICKS)
            named = range(0, len(names), step)
            set_ticks(named, [shorten(names[i], length) for i in named])
        axes.set(xlabel=grid.column_title, ylabel=grid.row_title)
        axes.set_title(_wrapped(grid.title, 40), fontsize=9)
        ticks = MaxNLocator(integer=True) if grid.are_counts else None
        figure.colorbar(image, ax=axes, label=grid.value.title, ticks=ticks)
    return figure


def draw(figure: Chart | Grid) -> "Figure":
    return draw_grid(figure) if isinstance(figure, Grid) else draw_chart(figure)


def _wrapped(text: str, width: int) -> str:
    """`text` in as many lines as it takes; the figure has room for `width` characters."""
    return "\n".join(textwrap.wrap(shorten(text, 3 * width), width))


def _draw_series(axes: "Axes", series: Series, in_order: Any = None) -> None:
    """Draw a series in its tone, or in the color of its place among many, which have one dash and one shape."""
    tone = series.tone if in_order is None else 0
    colour = LINES[tone % TONES] if in_order is None else in_order
    has_line = series.look != "points"
    alpha = 0.35 if series.faint else 1.0
    common: dict[str, Any] = {
        "color": colour,
        "marker": MARKERS[(tone + tone // TONES) % len(MARKERS)] if series.look != "line" else "",
        "ls": DASHES[(tone + tone // TONES) % len(DASHES)] if has_line else "",
        "ms": 3.5 if series.faint else 5,
        "lw": 1 if series.faint else 1.6,
        "alpha": alpha,
        "label": shorten(series.name, 44) if series.in_legend else None,
    }
    y_error = _distances(series.y, series.low, series.high)
    x_error = _distances(series.x, series.x_low, series.x_high)
    if series.band and series.low is not None and series.high is not None:
        axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.18, lw=0)
        y_error = None
    if y_error is None and x_error is None:
        axes.plot(series.x, series.y, **common)
    else:
        axes.errorbar(series.x, series.y, y_error, x_error, capsize=2, elinewidth=1, **common)


def _distances(middle: Sequence[float], low: Sequence[float] | None, high: Sequence[float] | None) -> Any:
    """Return the distances of an interval's ends from the point, as matplotlib takes them."""
    if low is None or high is None:
        return None
    centre = np.asarray(middle, dtype=float)
    ends = np.array([centre - np.asarray(low, dtype=float), np.asarray(high, dtype=float) - centre])
    return np.where(np.isfinite(ends), np.maximum(0, ends), 0)  # an end that is not known has no bar


def _draw_rule(axes: "Axes", rule: Rule) -> None:
    dashed: dict[str, Any] = {"color": "black", "lw": 0.8, "ls": "--"}
    across, down = axes.get_xaxis_transform(), axes.get_yaxis_transform()
    if rule.side == "diagonal":
        axes.axline((1, 1), (2, 2), **dashed)
    elif rule.side == "x":
        axes.axvline(rule.at, **dashed)
        axes.text(rule.at, 0.99, f" {rule.label}", transform=across, va="top", fontsize=7)
    else:
        axes.axhline(rule.at, **dashed)
        axes.text(0.99, rule.at, rule.label, transform=down, ha="right", va="bottom", fontsize=7)


def set_axis(axes: "Axes", side: str, axis: Axis) -> None:
    """Set the title, ticks and limits of one side of the axes, after everything is drawn into them."""
    from matplotlib.ticker import LogLocator

    at = axes.xaxis if side == "x" else axes.yaxis
    set_limits = axes.set_xlim if side == "x" else axes.set_ylim
    at.set_label_text(_wrapped(axis.title, 46 if side == "x" else 34))
    # The least positive value, for an interval of few seeds can end below zero; infinite where nothing is drawn.
    least = float(at.get_minpos())
    if axis.log and math.isfinite(least):
        axes.set(**{f"{side}scale": "log"})
        # Powers of ten where the data span two decades or more; 1, 2, 5 otherwise.
        is_wide = at.get_data_interval()[1] > 200 * least
        at.set_major_locator(LogLocator(subs=(1.0,) if is_wide else (1.0, 2.0, 5.0)))
        at.set_major_formatter(lambda value, _: number(value))
        at.set_ticks([], minor=True)
    if axis.marks is not None:
        at.set_ticks(axis.marks, [number(mark) for mark in axis.marks])
        at.set_ticks([], minor=True)
    if axis.ticks is not None:
        at.set_ticks(range(len(axis.ticks)), [shorten(tick, 30) for tick in axis.ticks])
        set_limits(-0.6, len(axis.ticks) - 0.4)
        if side == "y":
            axes.invert_yaxis()
    if axis.limits is not None:
        set_limits(*axis.limits)
    elif axis.from_zero and not axis.log:
        set_limits(min(0.0, at.get_view_interval()[0]))
