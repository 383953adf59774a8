"""Many things in the order in which they were given: a color for each, a bar that tells them, an even choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..system.words import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 12  # names that a legend tells apart by color and dash; above it, a color tells the order alone
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
