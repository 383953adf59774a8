"""Numbers of matrices as a grid of layers and kinds of module."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..charts.chart import Axis, Grid
from ..checkpoints.stored.names import module_paths


def layer_grid(
    name: str,
    title: str,
    value: Axis,
    values: Mapping[str, float],
    caption: str,
    *,
    signed: bool = False,
    is_count: bool = False,
) -> Grid:
    """Arrange numbers of matrices as layers x kinds of module.

    A cell of several matrices, such as experts, is their mean; of counts, their sum. An encoder and a decoder have
    rows of their own.
    """
    paths = module_paths(list(values))
    has_several = len({path.stack for path in paths if path.layer is not None}) > 1
    cells: dict[tuple[str, str], list[float]] = {}
    for path, number in zip(paths, values.values(), strict=True):
        row = "-" if path.layer is None else path.layer_label if has_several else str(path.layer)
        cells.setdefault((row, path.kind), []).append(number)
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(kind for _, kind in cells))
    table: Sequence[Sequence[float]] = [
        [
            sum(own) / (1 if is_count else len(own)) if (own := cells.get((row, kind))) else math.nan
            for kind in columns
        ]
        for row in rows
    ]
    return Grid(name, title, "layer", "module", value, rows, columns, table, caption, signed)
