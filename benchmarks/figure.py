"""The figure: how cost grows with the size of a square matrix."""

from collections.abc import Sequence
from pathlib import Path

from .measure import Row


def save_figure(square: Sequence[Row], path: Path) -> None:
    """Seconds over the number of weights, both logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    lines = (
        ("reference: two full SVDs", "tab:red", [(row.elements, row.reference) for row in square]),
        ("intruders, nothing cached", "tab:blue", [(row.elements, row.cold.seconds) for row in square]),
        ("intruders, base cached", "tab:green", [(row.elements, row.cached.seconds) for row in square]),
    )
    for label, color, points in lines:
        known = [(elements, time) for elements, time in points if time is not None]
        axes.plot(*zip(*known, strict=True), "o-", color=color, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([row.elements for row in square], [row.label.split(" ")[0] for row in square])
    axes.minorticks_off()
    axes.set_xlabel("n of an n x n matrix, 10 vectors examined, some of them intruders")
    axes.set_ylabel("seconds a matrix")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
