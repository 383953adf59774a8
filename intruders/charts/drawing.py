"""Figures for papers: one style, colors for things in an order, and each as PNG, SVG, and its numbers as CSV.

Colours are Okabe and Ito's and single-hue scales of even lightness, so that the colour-blind read them, and a
grey print too; lines differ in dash and points in shape as well.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import ResultFileError, missing_extra, os_reason
from ..system.files import user_path, write_atomically
from ..system.words import plural, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#222222")
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)))
COSINES = "Blues"
SIGNED = "RdBu_r"

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


@dataclass(frozen=True)
class Drawing:
    """A figure under a name that can be a file's, and the numbers in it."""

    name: str
    figure: Figure
    data: pd.DataFrame
    title: str = ""  # in full, where it tells apart what the name does not


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib in the style of these figures; the user's own settings are back afterwards."""
    try:
        import matplotlib
    except ImportError as error:
        raise missing_extra("a figure", "matplotlib", "report") from error
    with matplotlib.rc_context(STYLE):
        yield


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` inches, which shows itself in a notebook."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        """Figures made without pyplot are not shown by every notebook; this one brings its own picture."""

        def _repr_png_(self) -> bytes:
            return picture(self, "png")

    figure = NotebookFigure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def picture(figure: Figure, kind: str, *, transparent: bool = False) -> bytes:
    """The figure as the content of a PNG (200 dots an inch) or SVG file, without the time of writing."""
    content = io.BytesIO()
    without_time = {"Date": None} if kind == "svg" else None
    with styled():
        figure.savefig(content, format=kind, dpi=200, metadata=without_time, transparent=transparent)
    return content.getvalue()


def write_drawings(drawings: Sequence[Drawing], folder: str | os.PathLike[str]) -> list[Path]:
    """Write every drawing to `folder` as .png, .svg and .csv, and give the paths; makes the folder.

    Figures that an earlier call left there are told in a warning, since they may be of other results.
    """
    try:
        user_path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultFileError(f"cannot make the folder '{folder}': {os_reason(error).lower()}") from error
    paths = []
    for drawing, name in zip(drawings, _file_names(drawings), strict=True):
        stem = user_path(folder) / name
        contents = {kind: picture(drawing.figure, kind) for kind in ("png", "svg")}
        contents["csv"] = drawing.data.to_csv(index=False).encode()
        for suffix, content in contents.items():
            paths.append(stem.with_name(f"{stem.name}.{suffix}"))
            write_atomically(paths[-1], content)
    _tell_of_others(user_path(folder), {path.name for path in paths})
    return paths


def _tell_of_others(folder: Path, written: Collection[str]) -> None:
    names = {path.name for path in folder.iterdir()} - set(written)
    csvs = (name for name in names if name.endswith(".csv"))
    others = sorted(name for name in csvs if {f"{name[:-4]}.png", f"{name[:-4]}.svg"} <= names)
    if others:
        warnings.warn(
            f"{plural(len(others), 'figure')} in '{folder}' {'is' if len(others) == 1 else 'are'} of an earlier report "
            f"('{others[0]}'), and not of this one; remove what is out of date, or choose another folder",
            stacklevel=2,
        )


def _file_names(drawings: Sequence[Drawing]) -> list[str]:
    """Return a name for the files of each drawing that no other has, not even where case does not count.

    A name that would be cut, or that several have, ends in a digest of what the drawing is called in full.
    """
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "_", drawing.name) for drawing in drawings]
    count = Counter(name[:_LONGEST].lower() for name in plain)
    given: Counter[tuple[str, str]] = Counter()
    names = []
    for drawing, name in zip(drawings, plain, strict=True):
        if len(name) > _LONGEST or count[name.lower()] > 1:
            in_full = drawing.name, drawing.title
            given[in_full] += 1
            content = "\n".join([*in_full, str(given[in_full])]).encode(errors="surrogatepass")
            digest = hashlib.sha256(content).hexdigest()[:8]
            name = f"{name[: _LONGEST - len(digest) - 1]}-{digest}"
        names.append(name)
    return names


BAR_WIDTH = 1.3  # inches that the bar takes with its names
_LIGHTEST = 0.88  # of viridis; what is above is too light for a line on white
_NAMED = 6  # names beside the bar


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of the positions 0, ..., `count` - 1: evenly apart, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def order_colors(count: int) -> list[tuple[float, float, float, float]]:
    """Return `count` colors (RGBA) from dark to light, which the color-blind and a gray print keep in order."""
    from matplotlib import colormaps

    return [colormaps["viridis"](_LIGHTEST * i / max(1, count - 1)) for i in range(count)]


def add_order_bar(figure: Figure, axes: Axes, names: Sequence[str], title: str) -> None:
    """Add the bar of these colors, with the names of the first, the last, and some between."""
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
