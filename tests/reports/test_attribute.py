"""The maps of an attribution: shares of both signs, one of which outweighs all others."""

import math
import re
from dataclasses import replace

import pytest

from intruders.charts.drawing import draw
from intruders.experiments.attribution import Attribution, MatrixShare, MeasuredRise
from intruders.measures.intervals import Interval
from intruders.reports.attribute import (
    attribution_grids,
    print_attribution,
    remarks,
    render_attribution,
    rise_line,
)
from tests.reports.made_up_attribution import OF_NORMS, PARTS, made_up_attribution
from tests.reports.on_console import on_console

LAYERS, RISE = 60, 2.0


def attribution_of(rises: list[MeasuredRise], matrices: list[MatrixShare]) -> Attribution:
    return Attribution("base", "tuned", rises, matrices, [], [], None, [], {}, {})


def test_colors_tell_the_common_shares_apart_and_both_signs() -> None:
    """Sixty layers with parts of 0.01 and -0.01 by turns, and the rest of the rise in the last one."""
    parts = [0.01 * (-1) ** layer for layer in range(LAYERS)]
    parts[-1] = RISE - sum(parts[:-1])
    shares = [
        MatrixShare(f"model.layers.{layer}.mlp.up_proj.weight", {"text": Interval(part, part, part, 4)}, 0)
        for layer, part in enumerate(parts)
    ]
    of_all = Interval(RISE, RISE, RISE, 4)
    rise = MeasuredRise("text", "text", "cross-entropy", 4, 100, 3.0, 3.0 + RISE, of_all, RISE, 5)
    (grid,) = attribution_grids(attribution_of([rise], shares))
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
    (image,) = draw(grid).axes[0].get_images()
    above, below, nothing = (image.cmap(image.norm(value)) for value in (5.0, -5.0, 0.0))
    assert above[0] > above[2]  # red
    assert below[2] > below[0]  # blue
    assert min(nothing[:3]) > 0.9


def tables_of(page: str) -> list[list[str]]:
    """The rows of every table, the texts of whose cells are joined."""
    return [
        [" | ".join(re.findall(r"<td[^>]*>([^<]*)</td>", row)) for row in re.findall("<tr>.*?</tr>", body)]
        for body in re.findall("<tbody>(.*?)</tbody>", page, re.DOTALL)
    ]


def test_the_kinds_of_the_page_sum_to_the_rise_and_a_part_of_one_document_has_no_ends() -> None:
    kinds, layers, matrices = tables_of(render_attribution(made_up_attribution()))
    assert kinds == [f"up_proj | {sum(PARTS):+.4f}", f"norms, biases and others | {OF_NORMS:+.4f}"]
    assert layers == ["0 | +0.2500", "1 | +0.5000", "2 | -0.1250"]
    assert [row.split(" | ", 1)[1] for row in matrices] == ["+0.2500 | 1", "+0.5000 | 1", "-0.1250 | 1"]


def test_a_part_of_several_documents_has_its_ends() -> None:
    made = made_up_attribution(None)
    kinds = [replace(made.kinds[0], parts={"text": Interval(0.625, 0.5, 0.75, 4)})]
    table = tables_of(render_attribution(replace(made, kinds=kinds)))[0]
    assert table == ["up_proj | +0.6250 [+0.5000, +0.7500]"]


@pytest.mark.parametrize(("total", "is_told"), [(2.0, False), (2.039, False), (2.041, True), (1.959, True)])
def test_parts_that_miss_the_measured_change_are_told_with_what_to_do(total: float, is_told: bool) -> None:
    measured = Interval(2.0, 1.9, 2.1, 4)
    rise = MeasuredRise("text", "text", "cross-entropy", 4, 100, 3.0, 5.0, measured, total, 20)
    notes = [line for line in remarks(attribution_of([rise], [])) if line.startswith("note: ")]
    expected = (
        f"note: the parts miss the change on text by {abs(total - 2):.4f} nats per token with 20 nodes; "
        "pass --dtype float32 if the models are in 16 bits, or a larger --nodes"
    )
    assert notes == [expected] * is_told


@pytest.mark.parametrize("of_norms", [OF_NORMS, 0.0, None])
def test_the_printed_kinds_sum_to_the_rise(of_norms: float | None) -> None:
    """With what norms and biases have of it, where these were tuned and changed the loss."""
    attribution = made_up_attribution(of_norms)
    printed = on_console(lambda page: print_attribution(attribution, page), 100)
    table = printed.split("kind of module")[1].split("\n\n")[0].splitlines()[1:]
    parts = [float(line.split()[-1]) for line in table]
    assert parts == [sum(PARTS), *([of_norms] if of_norms else [])]
    assert f"the parts sum to {sum(parts):+.4f} " in rise_line(attribution.rises[0])
