"""A forest plot: every effect with its interval, in panels of one unit each, with its verdict at the right."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

import pandas as pd

from intruders.charts.drawing import styled

from ..claims.shared.claim import CONTRADICTED, REPORTED, SUPPORTED, UNDECIDED
from .study_effect import StudyEffect

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.19  # inches
_WIDTH = 9.6
_MOST_LETTERS = 62  # in a line of what an effect is, before it runs into the axes
_FURTHER_LINE = 0.65  # of a row


@dataclass(frozen=True)
class Theme:
    """Colors of a page. Verdicts differ in shape as well, so that a gray print shows them."""

    name: str
    text: str
    faint: str
    verdicts: Sequence[str]  # in the order of the marks

    def color_of(self, verdict: str) -> str:
        return self.verdicts[list(_MARKS).index(verdict)]


LIGHT = Theme("light", "#222222", "#8a8a8a", ("#0072B2", "#D55E00", "#666666", "#8a6d00"))
DARK = Theme("dark", "#e6e6e6", "#9a9a9a", ("#56B4E9", "#FF8A3D", "#b4b4b4", "#E0C341"))
_MARKS = {SUPPORTED: "o", CONTRADICTED: "X", UNDECIDED: "s", REPORTED: "D"}


def forest_plot(effects: Sequence[StudyEffect], theme: Theme) -> "Figure":
    """Draw one panel per unit, one line per effect; open marks have one seed and no interval."""
    panels = _panels(effects)
    with styled():
        from matplotlib.figure import Figure

        heights = [sum(_height(effect) for effect in panel) + 2.6 for panel in panels]
        figure = Figure(figsize=(_WIDTH, _ROW * sum(heights) + 0.5))
        total = _ROW * sum(heights) + 0.5
        top = total - 0.45
        for panel, height in zip(panels, heights, strict=True):
            bottom = top - _ROW * (height - 1.9)
            axes = figure.add_axes((0.45, bottom / total, 0.27, (top - bottom) / total))
            _draw(axes, panel, theme)
            top = bottom - _ROW * 1.9
        _legend(figure, theme, 1 - 0.14 / total)
        return figure


def effects_frame(effects: Sequence[StudyEffect]) -> pd.DataFrame:
    """Return the numbers of the plot, as measured, in its order."""
    ordered = [effect for panel in _panels(effects) for effect in panel]
    return pd.DataFrame([vars(effect) | {"verdict": effect.verdict} for effect in ordered])


def _panels(effects: Sequence[StudyEffect]) -> list[list[StudyEffect]]:
    units = list(dict.fromkeys(effect.unit for effect in effects))
    claims = list(dict.fromkeys(effect.claim for effect in effects))
    ordered = sorted(effects, key=lambda effect: (units.index(effect.unit), claims.index(effect.claim)))
    return [list(panel) for _, panel in groupby(ordered, key=lambda effect: effect.unit)]


def _lines(effect: StudyEffect) -> list[str]:
    """What the effect is, complete, as lines that fit beside the axes."""
    return textwrap.wrap(f"{effect.where}: {effect.effect}", _MOST_LETTERS)


def _height(effect: StudyEffect) -> float:
    return 1 + _FURTHER_LINE * (len(_lines(effect)) - 1)


def _draw(axes: "Axes", panel: Sequence[StudyEffect], theme: Theme) -> None:
    heights = [_height(effect) for effect in panel]
    *tops, end = accumulate(heights, initial=0.0)
    for index, (effect, top, height) in enumerate(zip(panel, tops, heights, strict=True)):
        row = top + height / 2
        color = theme.color_of(effect.verdict)
        at = effect.towards_the_claim(effect.estimate)
        if effect.has_interval:
            ends = sorted(map(effect.towards_the_claim, (effect.low, effect.high)))
            axes.plot(ends, [row, row], color=color, linewidth=1.4, solid_capstyle="butt")
        axes.plot(
            [at],
            [row],
            marker=_MARKS[effect.verdict],
            markersize=4.5,
            color=color,
            markerfacecolor=color if effect.has_interval else "none",
            linestyle="none",
        )
        previous = panel[index - 1].claim if index else ""
        claim = effect.claim if effect.claim != previous else ""
        _text(axes, -1.66, row, claim, theme.text, weight="bold")
        _text(axes, -1.30, row, "\n".join(_lines(effect)), theme.text)
        _text(axes, 1.03, row, number_text(effect), theme.text)
        _text(axes, 1.56, row, f"{effect.seeds}", theme.text)
        _text(axes, 1.65, row, effect.verdict, color)
    axes.axvline(0, color=theme.faint, linewidth=0.8, zorder=0)
    axes.set_ylim(end, -0.1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_color(theme.faint)
    axes.patch.set_alpha(0)
    axes.tick_params(colors=theme.text, labelsize=7, length=2)
    axes.set_xlabel(panel[0].unit, color=theme.text, fontsize=7.5, labelpad=1)


def _text(axes: "Axes", x: float, row: float, text: str, color: str, weight: str = "normal") -> None:
    beside = axes.get_yaxis_transform()
    axes.text(x, row, text, transform=beside, va="center", color=color, fontsize=7, weight=weight)


def _legend(figure: "Figure", theme: Theme, y: float) -> None:
    """Name the columns; the plot itself has the words of the verdicts."""
    for x, text, side in (
        (0.005, "claim, model and task, effect", "left"),
        (0.585, "← against the claim | as it expects →", "center"),
        (0.728, "effect, 95 % CI", "left"),
        (0.868, "seeds, verdict", "left"),
    ):
        figure.text(x, y, text, ha=side, va="center", fontsize=7, color=theme.faint)


def number_text(effect: StudyEffect) -> str:
    """Return the estimate with its interval: +0.35 [+0.00, +0.69]."""
    estimate = f"{effect.estimate:+.2f}"
    if effect.seeds == 1:
        return f"{estimate} (one seed)"
    if not effect.has_interval:
        return f"{estimate} (no interval)"
    return f"{estimate} [{effect.low:+.2f}, {effect.high:+.2f}]"
