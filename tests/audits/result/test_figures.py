"""The figures of an audit: they have its numbers, in the files and in a notebook."""

import dataclasses
import math
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from intruders.audits.result.figures import (
    cosines,
    intruders_by_layer,
    layer_grid,
    similarity,
    singular_values,
)
from intruders.charts.chart import Axis, Grid
from intruders.charts.drawing import draw, picture, write_drawings
from intruders.errors import MissingDependencyError
from intruders.reports.audit import audit_figures, intruders_over_epsilon
from tests.made_up import BERT, made_up_audit

AUDIT = made_up_audit(6, BERT, width=64, prefix="encoder.layer", intruder_rate=0.3)


def test_every_figure_is_written_as_png_svg_and_csv(tmp_path: Path) -> None:
    figures = audit_figures(AUDIT)
    kinds = [figure.name.partition("-")[0] for figure in figures]
    assert kinds == ["layers", "over", *3 * ["similarity", "cosines", "values"]]
    paths = write_drawings(figures[:5], tmp_path / "made" / "here")  # one of a kind
    assert len(paths) == 3 * 5
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


def test_the_same_figure_is_the_same_file_and_a_picture_in_a_notebook() -> None:
    first, second = (picture(draw(intruders_over_epsilon(AUDIT)), "svg") for _ in range(2))
    assert first == second
    assert b">epsilon<" in first  # text stays text
    assert AUDIT.plot_layers()._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_the_numbers_beside_a_figure_are_the_audits() -> None:
    matrix = AUDIT.matrices[7]
    layers = intruders_by_layer(AUDIT.matrices)
    assert np.array(layers.values).shape == (6, len(BERT))
    assert np.array(layers.values).ravel().tolist() == [one.intruders for one in AUDIT.matrices]
    assert layers.frame()["intruders"].sum() == AUDIT.intruders
    curve = intruders_over_epsilon(AUDIT).frame().set_index("epsilon")
    assert tuple(curve.loc[0.3, ["intruders_low", "intruders_high"]]) == AUDIT.count(epsilon=0.3)
    drawn = AUDIT.plot_similarity(matrix.name).axes[0].images[0].get_array()
    assert np.array_equal(np.asarray(drawn), matrix.similarity)
    bounds = cosines(matrix, 0.5).frame().set_index("vector")
    for vector in matrix.vectors:
        row = bounds.loc[vector.index + 1]
        assert (row["max_cosine_low"], row["max_cosine_high"]) == vector.max_cosine
        assert (row["series"] == "intruder", row["note"]) == (vector.intruder, vector.certificate)
    sizes = singular_values(matrix).frame()
    assert list(sizes.loc[sizes["series"] == "base", "singular_value"]) == matrix.base_singular_values


def test_names_with_dollars_slashes_and_markup_are_drawn_as_text(tmp_path: Path) -> None:
    odd = dataclasses.replace(AUDIT.matrices[0], name="../$\\frac{1}$/<b>.layers.0.q.weight")
    figures = audit_figures(dataclasses.replace(AUDIT, matrices=[odd]))
    paths = write_drawings(figures, tmp_path)
    assert all(path.parent == tmp_path for path in paths)
    assert any("$\\frac" in path.read_text() for path in paths if path.suffix == ".svg")


def test_an_audit_of_nothing_and_one_without_intruders() -> None:
    assert audit_figures(dataclasses.replace(AUDIT, matrices=[])) == []
    assert len(audit_figures(made_up_audit(2, BERT, width=64, intruder_rate=0))) == 5


COUNTS = {f"model.layers.0.mlp.experts.{e}.down_proj.weight": float(n) for e, n in enumerate([3, 0, 0, 1])}


def grid(cells: dict[str, float], *, is_count: bool = False) -> Grid:
    return layer_grid("g", "G", Axis("intruders", "intruders"), cells, "", is_count=is_count)


@pytest.mark.parametrize(("is_count", "cell"), [(True, 4), (False, 1)])
def test_experts_of_one_layer_are_summed_where_they_are_counts(is_count: bool, cell: float) -> None:
    made = grid(COUNTS | {"model.layers.0.self_attn.q_proj.weight": 2.0}, is_count=is_count)
    assert (made.rows, made.columns, made.values) == (["0"], ["down_proj", "q_proj"], [[cell, 2]])


def test_an_encoder_and_a_decoder_have_rows_of_their_own() -> None:
    name = "block.0.layer.0.SelfAttention.q.weight"
    made = grid({f"encoder.{name}": 4.0, f"decoder.{name}": 1.0, "shared.weight": 2.0})
    assert made.rows == ["encoder.block.0", "decoder.block.0", "-"]
    assert [[cell for cell in row if math.isfinite(cell)] for row in made.values] == [[4], [1], [2]]


def test_the_figures_of_a_large_matrix_fit_a_page() -> None:
    """A grid without numbers has small cells, and names some of its rows alone."""
    matrix = AUDIT.matrices[0]
    wide = dataclasses.replace(matrix, similarity=np.zeros((50, len(matrix.vectors)), "f4"))
    figure = draw(similarity(wide))
    assert max(figure.get_size_inches()) < 9
    assert list(figure.axes[0].get_yticks()) == list(range(0, 50, 5))
    assert not figure.axes[0].texts


def test_without_matplotlib_nothing_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[report\]'"):
        write_drawings([intruders_over_epsilon(AUDIT)], tmp_path / "figures")
    assert not list(tmp_path.iterdir())
