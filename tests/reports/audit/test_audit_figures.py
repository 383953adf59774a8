"""Figures are files that open, with the numbers they show beside them."""

from __future__ import annotations

import dataclasses
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from intruders.audits.result.audit_result import Audit
from intruders.audits.result.figures import draw_cosines, draw_values
from intruders.charts.drawing import Drawing, picture, write_drawings
from intruders.errors import MissingDependencyError
from intruders.reports.audit.audit_figures import audit_drawings, draw_over_epsilon
from intruders.reports.audit.comparison import common_matrices
from intruders.reports.audit.comparison_figures import comparison_drawings, most_different, update_rank
from tests.made_up import BERT, made_up_audit

AUDIT = made_up_audit(6, BERT, width=64, prefix="encoder.layer", intruder_rate=0.3)


def drawn(drawings: list[Drawing], name: str) -> Drawing:
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
    over_k = drawn(drawings, "over-k").data
    over_epsilon = drawn(drawings, "over-epsilon").data
    for audit, label in zip(audits, labels, strict=True):
        at_k = over_k[over_k["audit"] == label].set_index("k")
        assert tuple(at_k.loc[4, ["at_least", "at_most"]]) == audit.count(k=4)
        at = over_epsilon[over_epsilon["audit"] == label].set_index("epsilon")
        assert tuple(at.loc[0.7, ["at_least", "at_most"]]) == audit.count(epsilon=0.7)
    over_layers = drawn(drawings, "over-layers").data
    assert over_layers.groupby("audit")["at_least"].sum()["r1"] == audits[0].intruders
    assert list(drawn(drawings, "over-rank").data["rank"]) == ["1", "16", "full"]
    ranks = drawn(drawings, "effective-ranks").data
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
