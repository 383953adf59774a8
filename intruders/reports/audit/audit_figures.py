"""The figures of one audit: its layers, its intruders over epsilon, and its worst matrices."""

from __future__ import annotations

import pandas as pd

from ...audits.result.audit_result import Audit
from ...audits.result.figures import draw_cosines, draw_layers, draw_similarity, draw_values
from ...audits.result.summary import worst
from ...charts.drawing import INTRUDER, Drawing, new_figure, styled

WORST_DRAWN = 3  # matrices that get figures of their own
EPSILONS = [round(0.01 * (i + 1), 2) for i in range(100)]


def audit_drawings(audit: Audit) -> list[Drawing]:
    """Draw the layers, the intruders over epsilon, and three figures for each of the worst matrices."""
    if not audit.matrices:
        return []
    drawings = [draw_layers(audit.matrices), draw_over_epsilon(audit)]
    for matrix in worst(audit.matrices, WORST_DRAWN) or audit.matrices[:1]:
        drawings += [draw_similarity(matrix), draw_cosines(matrix, audit.epsilon), draw_values(matrix)]
    return drawings


def draw_over_epsilon(audit: Audit) -> Drawing:
    counts = [audit.count(epsilon=epsilon) for epsilon in EPSILONS]
    frame = pd.DataFrame(counts, columns=["at_least", "at_most"])
    frame.insert(0, "epsilon", EPSILONS)
    with styled():
        figure, [axes] = new_figure(3.4, 2.4)
        axes.plot(frame["epsilon"], frame["at_least"], color=INTRUDER)
        axes.fill_between(
            frame["epsilon"], frame["at_least"], frame["at_most"], color=INTRUDER, alpha=0.25, lw=0
        )
        axes.axvline(audit.epsilon, color="black", lw=0.8, ls="--")
        axes.set(xlabel="epsilon", ylabel=f"intruders (k = {audit.k})", xlim=(0, 1))
        axes.set_ylim(bottom=0)
    return Drawing("over-epsilon", figure, frame)
