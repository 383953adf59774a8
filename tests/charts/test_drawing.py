"""Files of figures: each has its own, whatever the figures are called; what comes in an order keeps it."""

import warnings
from itertools import pairwise
from pathlib import Path

import pytest

from intruders.charts.chart import Axis, Chart, Grid, Series
from intruders.charts.drawing import draw, evenly, order_colors, write_drawings

LONG = "sequence-accuracy-" + "home-me-projects-support-data-" * 5


def small(name: str, title: str, at: int = 0) -> Chart:
    return Chart(name, title, Axis("x", "x"), Axis("y", "y"), [Series("s", [at], [10.0 + at])])


@pytest.mark.usefixtures("without_pictures")  # what is looked at are names and numbers
@pytest.mark.parametrize(
    "names",
    [
        ["rank-on-x-y", "rank-on-x-y"],  # of tasks x_y and x-y
        ["rank-on-SST2", "rank-on-sst2"],  # one file where case does not count
        [f"{LONG}agnews", f"{LONG}sst2"],
        ["forgetting-текст", "forgetting-слова"],
        [LONG[:150], f"{LONG}sst2"],
    ],
)
def test_every_figure_has_files_of_its_own(names: list[str], tmp_path: Path) -> None:
    charts = [small(name, f"Figure {at}", at) for at, name in enumerate([*names, "layers"])]
    paths = write_drawings(charts, tmp_path)
    assert len({str(path).lower() for path in paths}) == 9
    assert all(len(path.name) < 160 for path in paths)
    # Each figure's own numbers are in its file, and a name that no other has stays as it is.
    assert [path.read_text().split()[1] for path in paths[2::3]] == ["s,0,10.0", "s,1,11.0", "s,2,12.0"]
    assert paths[-1].name == "layers.csv"
    assert write_drawings(charts, tmp_path) == paths
    assert len(set(write_drawings([charts[0]] * 2, tmp_path / "of one name and title"))) == 6
    assert write_drawings([], tmp_path / "of none") == []


@pytest.mark.usefixtures("without_pictures")
def test_figures_of_an_earlier_report_in_the_folder_are_told(tmp_path: Path) -> None:
    first, second = small("layers", "Layers"), small("cosines", "Cosines")
    for name in ("mine.csv", "mine.png", "notes.svg"):  # a person's own files
        (tmp_path / name).touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        earlier = write_drawings([first, second], tmp_path)
        write_drawings([second, first], tmp_path)
    with pytest.warns(
        UserWarning, match=r"^1 figure in '.*' is of an earlier report \('layers.csv'\), and not"
    ):
        write_drawings([second], tmp_path)
    assert all(path.is_file() for path in earlier)


@pytest.mark.parametrize("series", [[], [Series("s", [], [])]])
@pytest.mark.parametrize("log", [True, False])
def test_a_chart_without_points_has_headings(series: list[Series], log: bool, tmp_path: Path) -> None:
    chart = Chart("empty", "Nothing", Axis("lost", "lost", log=log), Axis("saved", "saved", log=log), series)
    *_, numbers = write_drawings([chart], tmp_path)
    assert numbers.read_text().split() == ["series,lost,saved"]


@pytest.mark.parametrize(("count", "most"), [(25, 24), (40, 24), (40, 12), (47, 24), (1000, 6)])
def test_the_choice_has_both_ends_and_no_gap_longer_than_another_by_two(count: int, most: int) -> None:
    chosen = evenly(count, most)
    assert (len(chosen), chosen[0], chosen[-1]) == (most, 0, count - 1)
    gaps = [after - before for before, after in pairwise(chosen)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1
    assert [evenly(few, most) for few in (1, 2, most)] == [[*range(few)] for few in (1, 2, most)]


@pytest.mark.parametrize("count", [2, 13, 40, 200])
def test_every_color_is_lighter_than_the_one_before_on_gray_paper(count: int) -> None:
    gray = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue, _ in order_colors(count)]
    assert len(gray) == count
    assert all(before < after for before, after in pairwise(gray))
    assert gray[-1] < 0.8  # a line on white is still seen


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        ([-38, -62, -43], [88, 127, 147], [50, 100]),  # Student's intervals of two seeds
        ([-38, 20, 30], [400, 500, 6000], [100, 1000]),  # more than two decades above zero
        ([20, 30, 45], [30, 40, 60], [20, 50]),
    ],
)
def test_a_logarithmic_axis_has_ticks(low: list[float], high: list[float], ticks: list[float]) -> None:
    series = Series("alpha = 2r", [1, 4, 16], [25, 32, 52], low, high, look="both")
    figure = draw(Chart("rank", "Rank", Axis("r", "rank"), Axis("e", "effective rank", log=True), [series]))
    (axes,) = figure.axes
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
    axes, bar = draw(grid).axes
    assert {text.get_text() for text in axes.texts} == cells
    assert grid.payload()["counts"] == (limits is None and 0.5 not in values[0])
    if grid.are_counts:
        assert all(tick == round(tick) for tick in bar.get_yticks())
