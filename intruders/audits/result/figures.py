"""Figures of audited matrices: similarities, layers, cosines and singular values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...charts.drawing import BASE, COSINES, COUNTS, INTRUDER, OPEN, Drawing, new_figure, styled
from ...charts.text import shorten
from ...checkpoints.stored.names import module_paths
from .records import AuditedMatrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage


def draw_similarity(matrix: AuditedMatrix) -> Drawing:
    """|<x_i, y_j>| of the leading base vectors (down) and tuned vectors (across)."""
    with styled():
        figure, [axes] = new_figure(3.4, 3.4)
        image = similarity_image(axes, matrix)
        axes.set_title(shorten(matrix.name, 42), fontsize=8)
        figure.colorbar(image, ax=axes, label="|cosine|")
    return Drawing(f"similarity-{matrix.name}", figure, similarity_data(matrix))


def similarity_image(axes: Axes, matrix: AuditedMatrix) -> AxesImage:
    """Draw the similarity matrix into `axes`, counting vectors from 1, on a scale from 0 to 1."""
    from matplotlib.ticker import MaxNLocator

    rows, columns = matrix.similarity.shape
    image = axes.imshow(
        matrix.similarity,
        vmin=0,
        vmax=1,
        cmap=COSINES,
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, columns + 0.5, rows + 0.5, 0.5),
    )
    axes.set(xlabel="tuned vector", ylabel="base vector")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return image


def similarity_data(matrix: AuditedMatrix) -> pd.DataFrame:
    """One row an entry: base vector, tuned vector (both from 1), cosine."""
    base, tuned = np.indices(matrix.similarity.shape)
    return pd.DataFrame(
        {
            "base_vector": base.ravel() + 1,
            "tuned_vector": tuned.ravel() + 1,
            "cosine": matrix.similarity.ravel(),
        }
    )


def draw_layers(matrices: Sequence[AuditedMatrix]) -> Drawing:
    """Number of intruders by module kind (down) and layer (across)."""
    paths = module_paths([matrix.name for matrix in matrices])
    frame = pd.DataFrame(
        {
            "stack": [path.stack for path in paths],
            "layer": [-1 if path.layer is None else path.layer for path in paths],
            "module": [path.kind for path in paths],
            "intruders": [matrix.intruders for matrix in matrices],
            "vectors": [len(matrix.vectors) for matrix in matrices],
        }
    )
    kinds = list(dict.fromkeys(frame["module"]))
    stack_names = list(dict.fromkeys(frame["stack"]))
    columns = sorted(
        set(zip(frame["stack"], frame["layer"], strict=True)),
        key=lambda column: (column[1] < 0, stack_names.index(column[0]), column[1]),
    )
    counts = np.full((len(kinds), len(columns)), np.nan)
    for stack_name, layer, kind, intruders in zip(*(frame[c] for c in list(frame)[:4]), strict=True):
        at = kinds.index(kind), columns.index((stack_name, layer))
        counts[at] = np.nansum([counts[at], intruders])
    with styled():
        figure, [axes] = new_figure(max(3.4, 1.6 + 0.16 * len(columns)), 1.0 + 0.24 * len(kinds))
        image = axes.imshow(counts, vmin=0, vmax=max(1, np.nanmax(counts)), cmap=COUNTS, aspect="auto")
        axes.set_yticks(range(len(kinds)), [shorten(kind, 30) for kind in kinds])
        step = max(1, round(len(columns) / 12))
        ticks = range(0, len(columns), step)
        axes.set_xticks(ticks, ["-" if columns[i][1] < 0 else str(columns[i][1]) for i in ticks])
        axes.set_xlabel("layer")
        figure.colorbar(image, ax=axes, label="intruders")
    return Drawing("layers", figure, frame)


def draw_cosines(matrix: AuditedMatrix, epsilon: float) -> Drawing:
    frame = pd.DataFrame(
        {
            "vector": [vector.index + 1 for vector in matrix.vectors],
            "lower": [vector.max_cosine[0] for vector in matrix.vectors],
            "upper": [vector.max_cosine[1] for vector in matrix.vectors],
            "intruder": [vector.intruder for vector in matrix.vectors],
            "certificate": [vector.certificate for vector in matrix.vectors],
        }
    )
    with styled():
        figure, [axes] = new_figure(3.4, 2.6)
        for intruder, colour, marker, label in _GROUPS:
            group = frame[frame["intruder"] == intruder]
            if len(group):
                up = group["upper"] - group["lower"]
                axes.errorbar(
                    group["vector"],
                    group["lower"],
                    np.array([0 * up, up]),
                    fmt=marker,
                    color=colour,
                    label=label,
                    ms=5,
                    capsize=2,
                )
        axes.axhline(epsilon, color="black", lw=0.8, ls="--")
        axes.set(xlabel="tuned vector", ylabel="max cosine", ylim=(0, 1.02))
        axes.set_title(shorten(matrix.name, 42), fontsize=8)
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return Drawing(f"cosines-{matrix.name}", figure, frame)


def draw_values(matrix: AuditedMatrix) -> Drawing:
    base = pd.DataFrame({"side": "base", "singular_value": matrix.base_singular_values})
    base.insert(0, "position", range(1, len(base) + 1))
    tuned = pd.DataFrame(
        {
            "position": [vector.index + 1 for vector in matrix.vectors],
            "side": ["tuned, intruder" if vector.intruder else "tuned" for vector in matrix.vectors],
            "singular_value": [vector.singular_value for vector in matrix.vectors],
        }
    )
    with styled():
        figure, [axes] = new_figure(3.4, 2.6)
        axes.plot(base["position"], base["singular_value"], color=OPEN, label="base")
        for intruder, colour, marker, label in _GROUPS:
            group = tuned[(tuned["side"] == "tuned, intruder") == intruder]
            if len(group):
                axes.plot(
                    group["position"],
                    group["singular_value"],
                    marker,
                    color=colour,
                    label=f"tuned, {label}",
                    ms=5,
                )
        axes.set(xlabel="position, largest first", ylabel="singular value")
        axes.set_ylim(bottom=0)
        axes.set_title(shorten(matrix.name, 42), fontsize=8)
        axes.legend(fontsize=8)
    return Drawing(f"values-{matrix.name}", figure, pd.concat([base, tuned], ignore_index=True))


_GROUPS = ((False, BASE, "o", "not an intruder"), (True, INTRUDER, "X", "intruder"))
