"""The figures of several audits of one base, on the matrices that all of them have."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from ...audits.result.audit_result import Audit
from ...audits.result.figures import similarity_data, similarity_image
from ...charts.chart import TONES, Axis
from ...charts.drawing import (
    BAR_WIDTH,
    DASHES,
    LINES,
    MANY,
    Drawing,
    add_order_bar,
    evenly,
    new_figure,
    order_colors,
    styled,
)
from ...charts.figure import LEGEND_ROW, MARKERS, set_axis
from ...charts.text import plural, shorten
from ...checkpoints.stored.names import module_paths
from .audit_figures import EPSILONS
from .comparison import Shared

_PANELS_IN_ROW = 6
_MOST_PANELS = 24
_ORDER = "audit, in the order given"


def comparison_drawings(shared: Shared, labels: Sequence[str]) -> list[Drawing]:
    """Draw similarity matrices in rows; intruders over epsilon, k, layers and rank; effective ranks."""
    audits = shared.audits
    k = min(audit.k for audit in audits)
    epsilon = audits[0].epsilon
    layers = sorted({layer for layer in _layers(audits[0]) if layer is not None})
    drawings = [
        draw_similarities(audits, labels),
        _lines("over-epsilon", "epsilon", EPSILONS, audits, labels, lambda audit, x: audit.count(k, x)),
        _lines(
            "over-k", "k", range(1, k + 1), audits, labels, lambda audit, x: audit.count(round(x), epsilon)
        ),
    ]
    if layers:
        drawings.append(
            _lines(
                "over-layers",
                "layer",
                layers,
                audits,
                labels,
                lambda audit, x: _in_layer(audit, round(x), k, epsilon),
            )
        )
    return [*drawings, draw_over_rank(audits, labels, k, epsilon), draw_effective_ranks(audits, labels)]


def most_different(audits: Sequence[Audit]) -> int:
    """Return the position of the matrix whose number of intruders differs most between the audits."""
    spreads = [
        max(counts) - min(counts)
        for counts in zip(*([matrix.intruders for matrix in audit.matrices] for audit in audits), strict=True)
    ]
    return spreads.index(max(spreads))


def draw_similarities(audits: Sequence[Audit], labels: Sequence[str]) -> Drawing:
    """Draw one matrix in every audit, or in evenly chosen ones where there are more than a page has room for."""
    at = most_different(audits)
    chosen = evenly(len(audits), _MOST_PANELS)
    rows = math.ceil(len(chosen) / _PANELS_IN_ROW)
    columns = math.ceil(len(chosen) / rows)
    title = shorten(audits[0].matrices[at].name, 80)
    if len(chosen) < len(audits):
        positions = ", ".join(str(i + 1) for i in chosen)
        note = f"{len(chosen)} of {len(audits)} audits, evenly chosen in the order given: {positions}"
        title += "\n" + textwrap.fill(note, 150)
    parts = []
    with styled():
        figure, panels = new_figure(1.0 + 2.2 * columns, 0.6 + 2.4 * rows, columns, len(chosen))
        for axes, i in zip(panels, chosen, strict=True):
            matrix = audits[i].matrices[at]
            image = similarity_image(axes, matrix)
            axes.set_title(f"{shorten(labels[i], 28)}\n{plural(matrix.intruders, 'intruder')}", fontsize=8)
            parts.append(similarity_data(matrix).assign(audit=labels[i]))
        figure.colorbar(image, ax=panels, label="|cosine|")
        figure.suptitle(title, fontsize=9)
    return Drawing("similarities", figure, pd.concat(parts, ignore_index=True))


def _looks(count: int) -> list[dict[str, Any]]:
    """Return color, dash and marker of each audit: no two alike, and of many audits a color by their order."""
    if count > MANY:
        return [{"color": color, "ls": "-", "marker": "o"} for color in order_colors(count)]
    marks = [i + i // TONES for i in range(count)]  # a color that comes again has another dash and shape
    return [
        {"color": LINES[i % TONES], "ls": DASHES[mark % TONES], "marker": MARKERS[mark % TONES]}
        for i, mark in enumerate(marks)
    ]


def _lines(
    name: str,
    x_label: str,
    steps: Sequence[float],
    audits: Sequence[Audit],
    labels: Sequence[str],
    count: Callable[[Audit, float], tuple[int, int]],
) -> Drawing:
    frames = []
    many = len(audits) > MANY
    below = len(audits) > TONES and not many  # a legend inside would cover the lines
    with styled():
        height = 2.8 + (LEGEND_ROW * math.ceil(len(audits) / 2) if below else 0)
        figure, [axes] = new_figure(4.2 + (BAR_WIDTH if many else 0), height)
        for audit, label, look in zip(audits, labels, _looks(len(audits)), strict=True):
            frame = pd.DataFrame([count(audit, x) for x in steps], columns=["at_least", "at_most"])
            frame.insert(0, x_label, list(steps))
            frame.insert(0, "audit", label)
            axes.plot(
                frame[x_label],
                frame["at_least"],
                color=look["color"],
                ls=look["ls"],
                lw=1 if many else None,
                label=shorten(label, 30),
            )
            axes.fill_between(
                frame[x_label], frame["at_least"], frame["at_most"], color=look["color"], alpha=0.2, lw=0
            )
            frames.append(frame)
        axes.set(xlabel=x_label, ylabel="intruders")
        axes.set_ylim(bottom=0)
        if many:
            add_order_bar(figure, axes, labels, _ORDER)
        elif below:
            figure.legend(loc="outside lower center", ncols=2, fontsize=6.5)
        else:
            axes.legend(fontsize=8)
    return Drawing(name, figure, pd.concat(frames, ignore_index=True))


def _layers(audit: Audit) -> list[int | None]:
    return [path.layer for path in module_paths([matrix.name for matrix in audit.matrices])]


def _in_layer(audit: Audit, layer: int, k: int, epsilon: float) -> tuple[int, int]:
    import dataclasses

    inside = [m for m, at in zip(audit.matrices, _layers(audit), strict=True) if at == layer]
    return dataclasses.replace(audit, matrices=inside).count(k, epsilon)


def update_rank(audit: Audit) -> int | None:
    """Return the largest rank of the audit's updates; None if one of them came as a dense matrix."""
    ranks = [matrix.rank for matrix in audit.matrices]
    known = [rank for rank in ranks if rank is not None]
    return max(known) if known and len(known) == len(ranks) else None


def draw_over_rank(audits: Sequence[Audit], labels: Sequence[str], k: int, epsilon: float) -> Drawing:
    ranks = [update_rank(audit) for audit in audits]
    known = sorted({rank for rank in ranks if rank is not None})
    ticks = [str(rank) for rank in known] + ["full"] * (None in ranks)
    counts = [audit.count(k, epsilon) for audit in audits]
    frame = pd.DataFrame(counts, columns=["at_least", "at_most"])
    frame.insert(0, "rank", ["full" if rank is None else str(rank) for rank in ranks])
    frame.insert(0, "audit", list(labels))
    many = len(audits) > MANY
    with styled():
        figure, [axes] = new_figure(3.4 + (BAR_WIDTH if many else 0), 2.8)
        marks = zip(frame["rank"], counts, _looks(len(audits)), strict=True)
        for i, (rank, (least, most), look) in enumerate(marks):
            # Many audits of one rank would lie on one another: they are put side by side in their order.
            x = ticks.index(rank) + (0.7 * (i / (len(audits) - 1) - 0.5) if many else 0)
            axes.errorbar(
                [x],
                [least],
                [[0], [most - least]],
                fmt=look["marker"],
                color=look["color"],
                ms=4 if many else None,
                capsize=2 if many else 3,
            )
            if not many:
                axes.annotate(
                    shorten(labels[i], 22), (x, least), (6, 4), textcoords="offset points", fontsize=7
                )
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set(xlabel="rank of the update", ylabel="intruders")
        axes.set_xlim(-0.5, len(ticks) - (0.5 if many else 0.2))
        axes.set_ylim(bottom=0)
        if many:
            axes.set_xlabel("rank of the update\n(audits of one rank in the order given)")
            add_order_bar(figure, axes, labels, _ORDER)
    return Drawing("over-rank", figure, frame)


def draw_effective_ranks(audits: Sequence[Audit], labels: Sequence[str]) -> Drawing:
    frame = pd.DataFrame(
        [
            (label, matrix.name, matrix.update.effective_rank, matrix.update.effective_rank_error)
            for label, audit in zip(labels, audits, strict=True)
            for matrix in audit.matrices
        ],
        columns=["audit", "matrix", "effective_rank", "effective_rank_error"],
    )
    named = evenly(len(audits), MANY)  # the axis has room for no more names
    with styled():
        figure, [axes] = new_figure(1.2 + 0.9 * len(named), 2.8)
        axes.boxplot(
            [frame.loc[frame["audit"] == label, "effective_rank"].to_numpy() for label in labels],
            showfliers=False,
            medianprops={"color": "black"},
        )
        axes.set_xticks([i + 1 for i in named], [shorten(labels[i], 14) for i in named])
        set_axis(axes, "y", Axis("effective_rank", "effective rank of the update", log=True))
        low, high = axes.get_ylim()
        if high < 1.1 * low:  # as of rank-1 updates, which differ by rounding alone
            axes.set_ylim(low / 1.1, high * 1.1)
        axes.tick_params(axis="x", labelrotation=30 if len(labels) > 3 else 0)
        if len(named) < len(labels):
            axes.set_xlabel(f"{len(labels)} audits in the order given, {len(named)} of them with their names")
    return Drawing("effective-ranks", figure, frame)
