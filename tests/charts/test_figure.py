"""Charts as figures for papers: their axes."""

from __future__ import annotations

import pytest

from intruders.charts.chart import Axis, Chart, Grid, Series
from intruders.charts.figure import draw


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        ([-38, -62, -43], [88, 127, 147], [50, 100]),  # Student's intervals of two seeds
        ([-38, 20, 30], [400, 500, 6000], [100, 1000]),  # more than two decades above zero
        ([20, 30, 45], [30, 40, 60], [20, 50]),
    ],
)
def test_a_logarithmic_axis_has_ticks_where_intervals_end_below_zero(
    low: list[float], high: list[float], ticks: list[float]
) -> None:
    series = Series("alpha = 2r", [1, 4, 16], [25, 32, 52], low, high, look="both")
    drawing = draw(Chart("rank", "Rank", Axis("r", "rank"), Axis("e", "effective rank", log=True), [series]))
    (axes,) = drawing.figure.axes
    assert axes.get_yscale() == "log"
    least, most = axes.get_ylim()
    assert [tick for tick in axes.get_yticks() if least <= tick <= most] == ticks


@pytest.mark.parametrize(
    ("values", "limits", "cells"),
    [
        ([[0, 1], [3, float("nan")]], None, {"0", "1", "3"}),  # counts
        ([[0, 1], [1, float("nan")]], (0.0, 1.0), {"0.00", "1.00"}),  # accuracies that happen to be 0 and 1
        ([[0.5, 1], [3, 0]], None, {"0.50", "1.00", "3.00", "0.00"}),
    ],
)
def test_counts_are_written_as_whole_numbers(
    values: list[list[float]], limits: tuple[float, float] | None, cells: set[str]
) -> None:
    grid = Grid(
        "map", "Map", "layer", "module", Axis("n", "intruders", limits=limits), ["0", "1"], ["q", "v"], values
    )
    axes, bar = draw(grid).figure.axes
    assert {text.get_text() for text in axes.texts} == cells
    assert grid.payload()["counts"] == (limits is None and 0.5 not in values[0])
    if grid.are_counts:
        assert all(tick == round(tick) for tick in bar.get_yticks())
