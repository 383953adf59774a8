"""The figures of several audits of one base, on the matrices that all of them have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from ...audits.result.audit_result import Audit
from ...audits.result.figures import similarity_data, similarity_image
from ...charts.drawing import DASHES, LINES, Drawing, new_figure, styled
from ...charts.text import number, plural, shorten
from ...checkpoints.stored.names import module_paths
from .audit_figures import EPSILONS
from .comparison import Shared


def comparison_drawings(shared: Shared, labels: Sequence[str]) -> list[Drawing]:
    """Draw similarity matrices in a row; intruders over epsilon, k, layers and rank; effective ranks."""
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
    at = most_different(audits)
    with styled():
        figure, panels = new_figure(1.0 + 2.2 * len(audits), 3.0, len(audits))
        for axes, audit, label in zip(panels, audits, labels, strict=True):
            matrix = audit.matrices[at]
            image = similarity_image(axes, matrix)
            axes.set_title(f"{shorten(label, 28)}\n{plural(matrix.intruders, 'intruder')}", fontsize=8)
        figure.colorbar(image, ax=panels, label="|cosine|")
        figure.suptitle(shorten(audits[0].matrices[at].name, 80), fontsize=9)
    parts = [
        similarity_data(audit.matrices[at]).assign(audit=label)
        for audit, label in zip(audits, labels, strict=True)
    ]
    return Drawing("similarities", figure, pd.concat(parts, ignore_index=True))


def _lines(
    name: str,
    x_label: str,
    steps: Sequence[float],
    audits: Sequence[Audit],
    labels: Sequence[str],
    count: Callable[[Audit, float], tuple[int, int]],
) -> Drawing:
    frames = []
    with styled():
        figure, [axes] = new_figure(4.2, 2.8)
        for i, (audit, label) in enumerate(zip(audits, labels, strict=True)):
            frame = pd.DataFrame([count(audit, x) for x in steps], columns=["at_least", "at_most"])
            frame.insert(0, x_label, list(steps))
            frame.insert(0, "audit", label)
            colour, dash = LINES[i % len(LINES)], DASHES[i % len(DASHES)]
            axes.plot(frame[x_label], frame["at_least"], color=colour, ls=dash, label=shorten(label, 30))
            axes.fill_between(
                frame[x_label], frame["at_least"], frame["at_most"], color=colour, alpha=0.2, lw=0
            )
            frames.append(frame)
        axes.set(xlabel=x_label, ylabel="intruders")
        axes.set_ylim(bottom=0)
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
    with styled():
        figure, [axes] = new_figure(3.4, 2.8)
        for i, (rank, (least, most)) in enumerate(zip(frame["rank"], counts, strict=True)):
            colour = LINES[i % len(LINES)]
            axes.errorbar(
                [ticks.index(rank)],
                [least],
                [[0], [most - least]],
                fmt="osD^Xv"[i % 6],
                color=colour,
                capsize=3,
            )
            axes.annotate(
                shorten(labels[i], 22),
                (ticks.index(rank), least),
                (6, 4),
                textcoords="offset points",
                fontsize=7,
            )
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set(xlabel="rank of the update", ylabel="intruders", xlim=(-0.5, len(ticks) - 0.2))
        axes.set_ylim(bottom=0)
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
    with styled():
        figure, [axes] = new_figure(1.2 + 0.9 * len(audits), 2.8)
        axes.boxplot(
            [frame.loc[frame["audit"] == label, "effective_rank"].to_numpy() for label in labels],
            tick_labels=[shorten(label, 14) for label in labels],
            showfliers=False,
            medianprops={"color": "black"},
        )
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: number(value))
        axes.set_ylabel("effective rank of the update")
        axes.tick_params(axis="x", labelrotation=30 if len(labels) > 3 else 0)
    return Drawing("effective-ranks", figure, frame)
