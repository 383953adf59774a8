"""Audits are compared on what they have in common."""

import dataclasses
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from intruders.audits.audit import audit
from intruders.audits.result.audit_result import Audit
from intruders.audits.result.records import AuditedMatrix
from intruders.charts.chart import Chart, Grid
from intruders.charts.drawing import draw
from intruders.errors import SettingError
from intruders.reports.compare_audits import (
    common_matrices,
    comparison_figures,
    effective_ranks,
    labels_for,
    most_different,
    similarities,
    update_rank,
)
from intruders.reports.write_report import write_report
from tests.made_up import BERT, made_up_audit

ONE = made_up_audit(3, BERT, width=32, tuned="runs/a/r1")
TWO = made_up_audit(3, BERT, width=32, tuned="runs/a/r8", rank=8, seed=1)


def test_only_shared_matrices_are_kept_in_the_first_audits_order() -> None:
    fewer = dataclasses.replace(TWO, matrices=list(reversed(TWO.matrices[2:])))
    shared = common_matrices([ONE, fewer])
    assert [m.name for m in shared.audits[0].matrices] == [m.name for m in ONE.matrices[2:]]
    assert [m.name for m in shared.audits[1].matrices] == [m.name for m in ONE.matrices[2:]]
    assert shared.left_out == 2
    assert len(shared.audits[0].matrices) == len(ONE.matrices) - 2
    assert shared.other_bases == []


def test_a_matrix_of_another_shape_is_not_shared_and_another_base_shows_in_its_singular_values() -> None:
    first = dataclasses.replace(TWO.matrices[0], shape=(1, 2))
    shared = common_matrices([ONE, dataclasses.replace(TWO, matrices=[first, *TWO.matrices[1:]])])
    assert len(shared.audits[0].matrices) == len(ONE.matrices) - 1
    first = dataclasses.replace(TWO.matrices[0], base_singular_values=[1.0])
    shared = common_matrices([ONE, TWO, dataclasses.replace(TWO, tuned_source="x", matrices=[first])])
    assert shared.other_bases == ["x"]


def test_what_cannot_be_compared_is_refused() -> None:
    other = made_up_audit(3, BERT, prefix="bert.layer", tuned="elsewhere")
    # An audit of nothing is not one in which nothing changed.
    nothing = dataclasses.replace(ONE, matrices=[], skipped=[], tuned_source="elsewhere")
    for one in (other, nothing):
        with pytest.raises(SettingError, match=r"'runs/a/r1', 'elsewhere' have no matrix in common"):
            common_matrices([ONE, one])
    same = dataclasses.replace(ONE, matrices=[])
    with pytest.raises(SettingError, match=r"^the audits of 'runs/a/r1', 'second' compare no matrix"):
        common_matrices([same, dataclasses.replace(same, tuned_source="second")])


@pytest.mark.parametrize("at", [0, 1])
def test_a_checkpoint_that_changed_nothing_is_listed_without_intruders(tmp_path: Path, at: int) -> None:
    """As of an adapter at its first step; that it has no intruder says a dense decomposition of the base, too."""
    weight = torch.diag(torch.arange(9.0, 0.0, -1.0))
    changed = weight + 100 * torch.ones(9, 9) / 9
    settings: dict[str, Any] = {"k": 3, "cache": False}
    files = [tmp_path / "trained.json", tmp_path / "first.json"]
    for file, tuned in zip(files, (changed, weight.clone()), strict=True):
        audit({"up.weight": weight}, {"up.weight": tuned}, **settings).save(file)
    audits = [Audit.load(file) for file in files]
    assert (len(audits[0].matrices), audits[0].intruders, len(audits[1].matrices)) == (1, 1, 0)
    order = [audits[at], audits[1 - at]]
    shared = common_matrices(order)
    assert [each.intruders for each in shared.audits] == [each.intruders for each in order]
    assert (len(shared.audits[0].matrices), shared.left_out, shared.other_bases) == (1, 0, [])
    (unchanged,) = shared.audits[1 - at].matrices
    base = np.linalg.svd(weight.double().numpy())
    values = [vector.singular_value for vector in unchanged.vectors]
    assert values == pytest.approx(base.S[:3].tolist(), rel=1e-5)
    cosines = np.abs(base.U.T @ base.U)[: len(unchanged.similarity), :3]
    np.testing.assert_allclose(unchanged.similarity, cosines, atol=1e-12)
    assert write_report([files[at], files[1 - at]], tmp_path / "page.html", tmp_path / "figures")


@pytest.mark.parametrize(
    ("sources", "labels"),
    [
        (["runs/a/r1", "runs/a/r8"], ["r1", "r8"]),
        (["runs/a/r1/final", "runs/b/r1/final/"], ["a/r1/final", "b/r1/final"]),
        (["runs/a", "runs/a/b"], ["a", "a/b"]),
        (["x", "y"], ["x", "y"]),
        (["same", "same"], ["1: same", "2: same"]),
        (["/m/a", "hub/b"], ["/m/a", "hub/b"]),
    ],
)
def test_labels_drop_what_all_share(sources: list[str], labels: list[str]) -> None:
    assert labels_for([dataclasses.replace(ONE, tuned_source=source) for source in sources]) == labels


KINDS = {"up": (1.0, 1.0), "down": (1.0, 1.0)}
LINES = ["over-epsilon", "over-k", "over-layers"]
LONG = "a-run-with-a-long-name-that-no-legend-has-room-for-at-step-"


@cache
def audits_of(count: int, name: str = "checkpoint-") -> list[Audit]:
    """Audits of a training run, with ranks that come in turn."""
    small: dict[str, Any] = {"width": 24, "k": 6}
    rates = [{"rank": (1, 8, None)[i % 3], "intruder_rate": (i + 1) / count} for i in range(count)]
    names = [f"runs/{name}{100 * (i + 1)}" for i in range(count)]
    return [made_up_audit(2, KINDS, **small, tuned=names[i], seed=i, **rates[i]) for i in range(count)]


def figures_of(audits: list[Audit]) -> dict[str, Chart | Grid]:
    return {one.name: one for one in comparison_figures(common_matrices(audits), labels_for(audits))}


@cache
def drawn(count: int, name: str = "checkpoint-") -> dict[str, Figure]:
    """The comparison but the similarities as it is drawn, each figure laid out; a warning is an error."""
    named = {one: own for one, own in figures_of(audits_of(count, name)).items() if isinstance(own, Chart)}
    figures = {one: draw(chart) for one, chart in named.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in figures.values():
            FigureCanvasAgg(figure)
            figure.draw_without_rendering()  # where everything is, and no pixels, which nothing looks at
    return figures


@pytest.mark.parametrize(("count", "name"), [(2, "checkpoint-"), (7, LONG), (13, LONG), (40, "checkpoint-")])
def test_nothing_is_cut_and_no_figure_is_too_wide(count: int, name: str) -> None:
    for title, figure in drawn(count, name).items():
        width, height = figure.bbox.width, figure.bbox.height
        assert figure.get_size_inches()[0] <= 8, title
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        boxes += [legend.get_window_extent() for legend in figure.legends]
        for box in filter(None, boxes):
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1, title


@pytest.mark.parametrize("count", [2, 7, 13, 40])
def test_no_two_audits_look_alike_and_no_legend_lies_over_the_lines(count: int) -> None:
    labels = labels_for(audits_of(count))
    for name in LINES:
        figure = drawn(count)[name]
        lines = [line for line in figure.axes[0].lines if line.get_label() in labels]
        looks = {(to_hex(line.get_color()), str(line._unscaled_dash_pattern)) for line in lines}  # type: ignore[attr-defined]
        assert len(lines) == len(looks) == count
        assert figure.axes[0].get_legend() is None
        assert bool(figure.legends) == (count <= 12)
        for legend in figure.legends:
            assert not legend.get_window_extent().overlaps(figure.axes[0].bbox)


@pytest.mark.parametrize("name", [*LINES, "over-rank"])
def test_the_bar_of_many_audits_names_the_first_and_the_last(name: str) -> None:
    _axes, bar = drawn(40)[name].axes
    names = {round(at): t.get_text() for at, t in zip(bar.get_yticks(), bar.get_yticklabels(), strict=True)}
    assert (names[0], names[39]) == ("checkpoint-100", "checkpoint-4000")
    assert all(text == f"checkpoint-{100 * (at + 1)}" for at, text in names.items())


def test_many_audits_of_one_rank_lie_side_by_side_in_their_order() -> None:
    chart = figures_of(audits_of(40))["over-rank"]
    assert isinstance(chart, Chart)
    for turn in range(3):  # the ranks 1, 8 and full, at 0, 1 and 2
        places = [series.x[0] for series in chart.series[turn::3]]
        assert places == sorted(set(places))
        assert all(round(x) == turn for x in places)
    assert [series.y[0] for series in chart.series] == [audit.intruders for audit in audits_of(40)]


@pytest.mark.parametrize(("count", "shown"), [(7, 7), (24, 24), (25, 24)])
def test_similarities_are_those_of_the_most_different_matrix(count: int, shown: int) -> None:
    audits = audits_of(count)
    at = most_different(audits)
    grids = similarities(audits, labels_for(audits))
    assert len(grids) == shown
    by_name = {f"similarity-checkpoint-{100 * (i + 1)}": audit for i, audit in enumerate(audits)}
    assert (grids[0].name, grids[-1].name) == (next(iter(by_name)), [*by_name][-1])
    for grid in grids:
        assert np.array_equal(grid.values, by_name[grid.name].matrices[at].similarity)


def with_effective_ranks(first: float, step: float) -> list[Audit]:
    """Two audits whose effective ranks rise by a step from matrix to matrix and from audit to audit."""

    def with_rank(matrix: AuditedMatrix, rank: float) -> AuditedMatrix:
        return dataclasses.replace(matrix, update=dataclasses.replace(matrix.update, effective_rank=rank))

    return [
        dataclasses.replace(
            audit, matrices=[with_rank(m, first + step * (i + j)) for j, m in enumerate(audit.matrices)]
        )
        for i, audit in enumerate(audits_of(2))
    ]


@pytest.mark.parametrize(
    ("first", "step", "most"), [(31.0, 1.0, 36), (1.0, 1e-6, 1.2)], ids=["near", "equal but for rounding"]
)
def test_near_effective_ranks_have_numbers_and_no_markup(first: float, step: float, most: float) -> None:
    figure = draw(effective_ranks(with_effective_ranks(first, step), ["first", "second"]))
    FigureCanvasAgg(figure).draw()
    low, high = figure.axes[0].get_xlim()
    assert first * 0.8 < low < first < high < most * 1.1
    ticks = figure.axes[0].xaxis.get_major_ticks()
    texts = [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high]
    assert len(texts) == len(set(texts)) >= 1
    assert all(low <= float(text) <= high for text in texts)


def test_comparisons_are_drawn_from_the_audits_counts() -> None:
    ranks = {"r1": 1, "r16": 16, "full": None}
    rates = {"r1": 0.4, "r16": 0.1, "full": 0.0}
    audits = [
        made_up_audit(4, BERT, width=64, rank=rank, intruder_rate=rates[name], tuned=f"runs/{name}")
        for name, rank in ranks.items()
    ]
    frames = {name: figure.frame() for name, figure in figures_of(audits).items()}
    ends = ["intruders_low", "intruders_high"]

    def cell(figure: str, column: str, label: str, at: float) -> tuple[float, float]:
        rows = frames[figure].set_index(["series", column]).loc[(label, at)]
        known = rows.reindex(ends).fillna(rows["intruders"])  # ends that are the count itself are not told
        return known["intruders_low"], known["intruders_high"]

    for one, label in zip(audits, ranks, strict=True):
        assert cell("over-k", "k", label, 4) == one.count(k=4)
        assert cell("over-epsilon", "epsilon", label, 0.7) == one.count(epsilon=0.7)
    assert frames["over-layers"].groupby("series")["intruders"].sum()["r1"] == audits[0].intruders
    assert list(frames["over-rank"]["rank"]) == ["1", "16", "full"]
    medians = [np.median([m.update.effective_rank for m in audit.matrices]) for audit in audits]
    assert list(frames["effective-ranks"]["effective_rank"]) == pytest.approx(medians)
    assert [update_rank(audit) for audit in audits] == [1, 16, None]
    ends = [audits[0], audits[2]]
    spreads = [abs(a.intruders - c.intruders) for a, c in zip(*(one.matrices for one in ends), strict=True)]
    assert spreads[most_different(ends)] == max(spreads)
