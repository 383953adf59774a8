"""Figures of few, several and many audits: nothing is cut, nothing looks like another, and no page is too wide."""

from __future__ import annotations

import dataclasses
import re
import warnings
from functools import cache

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from intruders.audits.result.audit_result import Audit
from intruders.charts.drawing import Drawing
from intruders.reports.audit.comparison import common_matrices, labels_for
from intruders.reports.audit.comparison_figures import (
    comparison_drawings,
    draw_effective_ranks,
    draw_similarities,
    most_different,
)
from tests.made_up import made_up_audit

KINDS = {"up": (1.0, 1.0), "down": (1.0, 1.0)}
COUNTS = [2, 7, 13, 40]
LINES = ["over-epsilon", "over-k", "over-layers"]
SHORT = "checkpoint-"
LONG = "a-run-with-a-long-name-that-no-legend-has-room-for-at-step-"
WIDEST = 15  # inches


@cache
def audits_of(count: int, name: str = SHORT) -> list[Audit]:
    """Audits of a training run, with ranks that come in turn."""
    return [
        made_up_audit(
            2,
            KINDS,
            width=24,
            k=6,
            tuned=f"runs/{name}{100 * (i + 1)}",
            rank=(1, 8, None)[i % 3],
            seed=i,
            intruder_rate=(i + 1) / count,
        )
        for i in range(count)
    ]


@cache
def drawn(count: int, name: str) -> dict[str, Drawing]:
    """The comparison as it is drawn, each figure laid out; a warning is an error."""
    audits = audits_of(count, name)
    drawings = comparison_drawings(common_matrices(audits), labels_for(audits))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for drawing in drawings:
            FigureCanvasAgg(drawing.figure)
            drawing.figure.draw_without_rendering()  # where everything is, and no pixels, which nothing looks at
    return {drawing.name: drawing for drawing in drawings}


def parts(figure: Figure) -> list[Bbox]:
    """Where everything with text is, in pixels."""
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    title = figure._suptitle  # type: ignore[attr-defined]
    return [box for box in boxes if box is not None] + ([title.get_window_extent()] if title else [])


@pytest.mark.parametrize(("count", "name"), [*((count, SHORT) for count in COUNTS), (7, LONG), (13, LONG)])
def test_nothing_is_cut_and_no_figure_is_too_wide(count: int, name: str) -> None:
    for drawing in drawn(count, name).values():
        width, height = drawing.figure.bbox.width, drawing.figure.bbox.height
        assert drawing.figure.get_size_inches()[0] <= WIDEST, drawing.name
        for box in parts(drawing.figure):
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1, drawing.name


@pytest.mark.parametrize("count", COUNTS)
def test_no_two_audits_look_alike_and_no_legend_lies_over_the_lines(count: int) -> None:
    for name in LINES:
        figure = drawn(count, SHORT)[name].figure
        axes = figure.axes[0]
        assert len(axes.lines) == count
        looks = {(to_hex(line.get_color()), str(line._unscaled_dash_pattern)) for line in axes.lines}  # type: ignore[attr-defined]
        assert len(looks) == count
        if count > 6:
            assert axes.get_legend() is None
        for legend in figure.legends:
            assert not legend.get_window_extent().overlaps(axes.bbox)


@pytest.mark.parametrize("name", [*LINES, "over-rank"])
def test_the_bar_of_many_audits_names_the_first_and_the_last(name: str) -> None:
    axes, bar = drawn(40, SHORT)[name].figure.axes
    names = {
        round(at): text.get_text() for at, text in zip(bar.get_yticks(), bar.get_yticklabels(), strict=True)
    }
    assert (names[0], names[39]) == ("checkpoint-100", "checkpoint-4000")
    assert all(text == f"checkpoint-{100 * (at + 1)}" for at, text in names.items())
    assert axes.get_legend() is None


@pytest.mark.parametrize(("count", "panels"), [(7, 7), (24, 24), (25, 24)])
def test_similarities_are_in_rows_and_say_which_audits_they_are_of(count: int, panels: int) -> None:
    audits = audits_of(count)
    drawing = draw_similarities(common_matrices(audits).audits, labels_for(audits))
    *axes, _bar = drawing.figure.axes
    title = drawing.figure.get_suptitle()
    assert len(axes) == panels
    assert all(spec is not None and spec.get_gridspec().ncols <= 6 for spec in map(_spec, axes))
    told = [int(number) - 1 for number in re.findall(r"\d+", title.partition("given: ")[2])]
    assert bool(told) == (panels < count)
    shown = told or list(range(count))
    assert (shown[0], shown[-1]) == (0, count - 1)
    at = most_different(audits)
    for panel, i in zip(axes, shown, strict=True):
        assert panel.get_title().startswith(f"checkpoint-{100 * (i + 1)}\n")
        assert np.array_equal(np.asarray(panel.images[0].get_array()), audits[i].matrices[at].similarity)
    assert list(drawing.data["audit"].unique()) == [f"checkpoint-{100 * (i + 1)}" for i in shown]


def _spec(axes: object) -> object:
    return axes.get_subplotspec()  # type: ignore[attr-defined]


def test_many_audits_of_one_rank_lie_side_by_side_in_their_order() -> None:
    axes, _bar = drawn(40, SHORT)["over-rank"].figure.axes
    points = [container.lines[0].get_xydata()[0] for container in axes.containers]
    for turn in range(3):  # the ranks 1, 8 and full, at 0, 1 and 2
        places = [x for x, _y in points[turn::3]]
        assert places == sorted(set(places))
        assert all(round(x) == turn for x in places)
    assert [y for _x, y in points] == [audit.intruders for audit in audits_of(40)]


def with_effective_ranks(first: float, step: float) -> list[Audit]:
    """Two audits whose effective ranks rise by a step from matrix to matrix and from audit to audit."""
    return [
        dataclasses.replace(
            audit,
            matrices=[
                dataclasses.replace(
                    m, update=dataclasses.replace(m.update, effective_rank=first + step * (i + j))
                )
                for j, m in enumerate(audit.matrices)
            ],
        )
        for i, audit in enumerate(audits_of(2))
    ]


def test_effective_ranks_so_near_to_one_another_have_numbers_and_no_markup() -> None:
    figure = draw_effective_ranks(with_effective_ranks(31.0, 1.0), ["first", "second"]).figure
    FigureCanvasAgg(figure).draw()
    side = figure.axes[0].yaxis
    ticks = [*side.get_major_ticks(), *side.get_minor_ticks()]
    texts = [tick.label1.get_text() for tick in ticks if 31 <= tick.get_loc() <= 35]
    assert len(texts) >= 2
    assert all(31 <= float(text) <= 35 for text in texts)


def test_effective_ranks_that_differ_by_rounding_are_drawn_as_equal() -> None:
    figure = draw_effective_ranks(with_effective_ranks(1.0, 1e-6), ["first", "second"]).figure
    FigureCanvasAgg(figure).draw()
    low, high = figure.axes[0].get_ylim()
    assert low < 0.95 < 1.05 < high
    ticks = figure.axes[0].yaxis.get_major_ticks()
    texts = [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high]
    assert len(texts) == len(set(texts)) >= 1
