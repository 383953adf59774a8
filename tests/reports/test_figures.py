"""Figures of few, several and many audits: nothing is cut, nothing looks like another, and no page is too wide."""

from __future__ import annotations

import dataclasses
import re
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from intruders.audits.result.audit_result import Audit
from intruders.audits.result.figures import draw_cosines, draw_values
from intruders.charts.drawing import Drawing, picture, write_drawings
from intruders.errors import MissingDependencyError
from intruders.reports.compare_audits import common_matrices, labels_for
from intruders.reports.figures import (
    audit_drawings,
    comparison_drawings,
    draw_effective_ranks,
    draw_over_epsilon,
    draw_similarities,
    most_different,
    update_rank,
)
from tests.made_up import BERT, made_up_audit

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


AUDIT = made_up_audit(6, BERT, width=64, prefix="encoder.layer", intruder_rate=0.3)


def named(drawings: list[Drawing], name: str) -> Drawing:
    [found] = [drawing for drawing in drawings if drawing.name == name]
    return found


def test_every_figure_is_written_as_png_svg_and_csv(tmp_path: Path) -> None:
    drawings = audit_drawings(AUDIT)
    assert len(drawings) == 2 + 3 * 3
    assert [drawing.name.partition("-")[0] for drawing in drawings[2:]] == 3 * [
        "similarity",
        "cosines",
        "values",
    ]
    one_of_a_kind = drawings[:5]
    paths = write_drawings(one_of_a_kind, tmp_path / "made" / "here")
    assert len(paths) == 3 * len(one_of_a_kind)
    assert sorted(paths) == sorted((tmp_path / "made" / "here").iterdir())
    for path in paths:
        content = path.read_bytes()
        if path.suffix == ".png":
            assert content.startswith(b"\x89PNG")
            assert content.rstrip().endswith(b"IEND\xaeB`\x82")
        elif path.suffix == ".svg":
            assert ElementTree.fromstring(content).tag.endswith("svg")
        else:
            assert len(pd.read_csv(path)) > 0


def test_the_same_figure_is_the_same_file() -> None:
    first, second = (picture(draw_over_epsilon(AUDIT).figure, "svg") for _ in range(2))
    assert first == second
    assert b">epsilon<" in first  # text stays text


def test_the_numbers_beside_a_figure_are_the_audits() -> None:
    matrix = AUDIT.matrices[7]
    layers = audit_drawings(AUDIT)[0].data
    assert layers["intruders"].sum() == AUDIT.intruders
    assert set(layers["layer"]) == set(range(6))
    curve = draw_over_epsilon(AUDIT).data.set_index("epsilon")
    assert tuple(curve.loc[0.3]) == AUDIT.count(epsilon=0.3)
    similarity = AUDIT.plot_similarity(matrix.name)
    assert np.array_equal(np.asarray(similarity.axes[0].images[0].get_array()), matrix.similarity)
    assert list(draw_cosines(matrix, 0.5).data["upper"]) == [
        vector.max_cosine[1] for vector in matrix.vectors
    ]
    values = draw_values(matrix).data
    assert list(values.loc[values["side"] == "base", "singular_value"]) == matrix.base_singular_values


def test_the_layers_figure_has_a_cell_for_every_matrix() -> None:
    cells = np.asarray(AUDIT.plot_layers().axes[0].images[0].get_array())
    assert cells.shape == (len(BERT), 6)
    expected = np.array([matrix.intruders for matrix in AUDIT.matrices]).reshape(6, len(BERT)).T
    assert np.array_equal(cells, expected)


def test_experts_of_one_layer_share_a_cell() -> None:
    names = [f"model.layers.0.mlp.experts.{i}.up_proj.weight" for i in range(4)]
    matrices = [dataclasses.replace(m, name=n) for m, n in zip(AUDIT.matrices[:4], names, strict=True)]
    cells = np.asarray(
        dataclasses.replace(AUDIT, matrices=matrices).plot_layers().axes[0].images[0].get_array()
    )
    assert cells.tolist() == [[sum(matrix.intruders for matrix in matrices)]]


def test_figures_show_themselves_in_a_notebook() -> None:
    assert AUDIT.plot_layers()._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_names_with_dollars_slashes_and_markup_are_drawn_as_text(tmp_path: Path) -> None:
    odd = dataclasses.replace(AUDIT.matrices[0], name="../$\\frac{1}$/<b>.layers.0.q.weight")
    paths = write_drawings(audit_drawings(dataclasses.replace(AUDIT, matrices=[odd])), tmp_path)
    assert all(path.parent == tmp_path for path in paths)
    assert any("$\\frac" in path.read_text() for path in paths if path.suffix == ".svg")


def test_an_audit_of_nothing_and_one_without_intruders() -> None:
    assert audit_drawings(dataclasses.replace(AUDIT, matrices=[])) == []
    assert len(audit_drawings(made_up_audit(2, BERT, width=64, intruder_rate=0))) == 5


def compared() -> tuple[list[Audit], list[str]]:
    audits = [
        made_up_audit(4, BERT, width=64, rank=1, intruder_rate=0.4),
        made_up_audit(4, BERT, width=64, rank=16, intruder_rate=0.1),
        made_up_audit(4, BERT, width=64, rank=None, intruder_rate=0.0),
    ]
    return audits, ["r1", "r16", "full"]


def test_comparisons_are_drawn_from_the_audits_counts() -> None:
    audits, labels = compared()
    drawings = comparison_drawings(common_matrices(audits), labels)
    over_k = named(drawings, "over-k").data
    over_epsilon = named(drawings, "over-epsilon").data
    for audit, label in zip(audits, labels, strict=True):
        at_k = over_k[over_k["audit"] == label].set_index("k")
        assert tuple(at_k.loc[4, ["at_least", "at_most"]]) == audit.count(k=4)
        at = over_epsilon[over_epsilon["audit"] == label].set_index("epsilon")
        assert tuple(at.loc[0.7, ["at_least", "at_most"]]) == audit.count(epsilon=0.7)
    over_layers = named(drawings, "over-layers").data
    assert over_layers.groupby("audit")["at_least"].sum()["r1"] == audits[0].intruders
    assert list(named(drawings, "over-rank").data["rank"]) == ["1", "16", "full"]
    ranks = named(drawings, "effective-ranks").data
    assert len(ranks) == 3 * 4 * len(BERT)
    assert [update_rank(audit) for audit in audits] == [1, 16, None]
    spreads = [
        abs(a.intruders - c.intruders) for a, c in zip(audits[0].matrices, audits[2].matrices, strict=True)
    ]
    assert spreads[most_different([audits[0], audits[2]])] == max(spreads)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[report\]'"):
        AUDIT.plot_layers()
