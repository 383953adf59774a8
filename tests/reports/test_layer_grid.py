"""Numbers of matrices in layers x kinds of module: what shares a cell, and what has a row of its own."""

from __future__ import annotations

import math

import pytest

from intruders.charts.chart import Axis, Grid
from intruders.reports.layer_grid import layer_grid

COUNTS = {f"model.layers.0.mlp.experts.{e}.down_proj.weight": float(n) for e, n in enumerate([3, 0, 0, 1])}


def grid(values: dict[str, float], **how: bool) -> Grid:
    return layer_grid("g", "G", Axis("intruders", "intruders"), values, "", **how)


@pytest.mark.parametrize(("is_count", "cell"), [(True, 4), (False, 1)])
def test_experts_of_one_layer_are_summed_where_they_are_counts(is_count: bool, cell: float) -> None:
    made = grid(COUNTS | {"model.layers.0.self_attn.q_proj.weight": 2.0}, is_count=is_count)
    assert (made.rows, made.columns, made.values) == (["0"], ["down_proj", "q_proj"], [[cell, 2]])


def test_an_encoder_and_a_decoder_have_rows_of_their_own() -> None:
    made = grid(
        {
            "encoder.block.0.layer.0.SelfAttention.q.weight": 4.0,
            "decoder.block.0.layer.0.SelfAttention.q.weight": 1.0,
            "shared.weight": 2.0,
        }
    )
    assert made.rows == ["encoder.block.0", "decoder.block.0", "-"]
    assert [[cell for cell in row if math.isfinite(cell)] for row in made.values] == [[4], [1], [2]]
