"""The maps of an attribution: shares of both signs, one of which outweighs all others."""

from __future__ import annotations

import math

import pytest

from intruders.experiments.attribution.attribution import Attribution, MatrixShare, MeasuredRise
from intruders.measures.intervals import Interval
from intruders.reports.attribution.attribution_page import attribution_grids

LAYERS, RISE = 60, 2.0


@pytest.fixture
def attribution() -> Attribution:
    """Sixty layers with parts of 0.01 and -0.01 by turns, and the rest of the rise in the last one."""
    parts = [0.01 * (-1) ** layer for layer in range(LAYERS)]
    parts[-1] = RISE - sum(parts[:-1])
    shares = [
        MatrixShare(f"model.layers.{layer}.mlp.up_proj.weight", {"text": interval(part)}, intruders=0)
        for layer, part in enumerate(parts)
    ]
    rise = MeasuredRise("text", "text", "cross-entropy", 4, 100, 3.0, 3.0 + RISE, interval(RISE), RISE, 5)
    return Attribution("base", "tuned", [rise], shares, [], [], None, [], {}, {})


def interval(value: float) -> Interval:
    return Interval(value, value, value, 4)


def test_colors_tell_the_common_shares_apart(attribution: Attribution) -> None:
    (grid,) = attribution_grids(attribution)
    assert grid.signed
    assert grid.value.limits is not None
    low, high = grid.value.limits
    assert low == -high
    # 0.01 of 2 nats is half a per cent, and the last matrix has one hundred.
    assert 0.5 <= high < 5
    cells = [row[0] for row in grid.values]
    assert math.isclose(sum(cells), 100)
    assert math.isclose(cells[0], 0.5)
    assert grid.payload()["signed"] is True


def test_both_drawings_have_a_color_for_each_side(attribution: Attribution) -> None:
    import matplotlib.pyplot as plt

    from intruders.charts.figure import draw

    (grid,) = attribution_grids(attribution)
    (image,) = draw(grid).figure.axes[0].get_images()
    above, below, nothing = (image.cmap(image.norm(value)) for value in (5.0, -5.0, 0.0))
    assert above[0] > above[2]  # red
    assert below[2] > below[0]  # blue
    assert min(nothing[:3]) > 0.9
    plt.close("all")
