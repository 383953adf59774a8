"""The figures of audited matrices as charts and grids: layers, counts, cosines, singular values, similarities."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ...charts.chart import Axis, Chart, Grid, Rule, Series
from ...checkpoints.stored.names import module_paths
from .forgetting import Forgetting
from .records import AuditedMatrix, Vector

EPSILONS = [round(0.01 * (i + 1), 2) for i in range(100)]
COUNT = Axis("intruders", "intruders", from_zero=True)


def similarity(matrix: AuditedMatrix, of: str | None = None, title: str | None = None) -> Grid:
    """Return |<x_i, y_j>| of the leading base vectors (down) and tuned vectors (across), counted from 1."""
    rows, columns = matrix.similarity.shape
    return Grid(
        f"similarity-{of or matrix.name}",
        title or matrix.name,
        "base vector",
        "tuned vector",
        Axis("cosine", "|cosine|", limits=(0.0, 1.0)),
        [str(i + 1) for i in range(rows)],
        [str(j + 1) for j in range(columns)],
        matrix.similarity.tolist(),
        has_numbers=False,
    )


def intruders_by_layer(matrices: Sequence[AuditedMatrix]) -> Grid:
    """Return the number of intruders by layer (down) and kind of module (across)."""
    counts = {matrix.name: float(matrix.intruders) for matrix in matrices}
    return layer_grid("layers", "Intruders", Axis("intruders", "intruders"), counts, "", is_count=True)


def shares_by_layer(forgetting: Forgetting) -> Grid:
    """Return how much of the predicted KL is in each layer (down) and kind of module (across)."""
    shares = {name: 100 * share for name, share in forgetting.by_matrix.items()}
    axis = Axis("share", "share of the KL, %")
    grid = layer_grid("nats", "Predicted forgetting", axis, shares, "", is_count=True)
    return replace(grid, has_numbers=False)


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


def counted(name: str, steps: Sequence[float], counts: Sequence[tuple[int, int]], tone: int = 0) -> Series:
    """Return a line of numbers of intruders, (at least, at most), with a band where the bounds leave them open."""
    least, most = (list(ends) for ends in zip(*counts, strict=True))
    low, high = (least, most) if least != most else (None, None)
    return Series(name, steps, least, low, high, look="line", tone=tone, band=low is not None)


def cosines(matrix: AuditedMatrix, epsilon: float) -> Chart:
    series = []
    for tone, name, of_kind in _by_decision(matrix):
        low, high = (list(ends) for ends in zip(*(vector.max_cosine for vector in of_kind), strict=True))
        at = [vector.index + 1 for vector in of_kind]
        notes = [vector.certificate for vector in of_kind]
        series.append(Series(name, at, low, low, high, notes=notes, tone=tone))
    x, y = Axis("vector", "tuned vector"), Axis("max_cosine", "max cosine", limits=(0.0, 1.02))
    rule = Rule("y", epsilon, f"epsilon = {epsilon:g}")
    return Chart(f"cosines-{matrix.name}", matrix.name, x, y, series, [rule])


def singular_values(matrix: AuditedMatrix) -> Chart:
    base = matrix.base_singular_values
    series = [Series("base", list(range(1, len(base) + 1)), base, look="line", tone=5)]
    for tone, name, of_kind in _by_decision(matrix):
        sizes = [vector.singular_value for vector in of_kind]
        series.append(Series(f"tuned, {name}", [vector.index + 1 for vector in of_kind], sizes, tone=tone))
    x = Axis("position", "position, largest first")
    y = Axis("singular_value", "singular value", from_zero=True)
    return Chart(f"values-{matrix.name}", matrix.name, x, y, series)


def _by_decision(matrix: AuditedMatrix) -> Iterator[tuple[int, str, list[Vector]]]:
    for tone, name in enumerate(("not an intruder", "intruder")):
        if vectors := [vector for vector in matrix.vectors if vector.intruder == bool(tone)]:
            yield tone, name, vectors
