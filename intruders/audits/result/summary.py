"""The numbers that every report of an audit shows, gathered once: by module kind, by layer, by reason."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median

from ...charts.text import number, percent, plural
from ...checkpoints.pairing.pairing import SkipKind, Skipped
from ...checkpoints.stored.names import module_paths
from .records import CERTIFICATES, AuditedMatrix, energy_share

# Kinds of reasons to skip a tensor that leave open whether fine-tuning changed it, though it was selected.
_NOT_COMPARED = (SkipKind.OTHER_SHAPE, SkipKind.NO_COUNTERPART, SkipKind.NOT_FINITE)


@dataclass(frozen=True)
class KindSummary:
    """All matrices of one kind of module."""

    kind: str
    matrices: int
    affected: int  # matrices with at least one intruder
    intruders: int
    vectors: int
    energy_share: float
    frobenius: float  # of all their updates together: square root of the summed squares
    relative_update: float  # median of ||D||_2 / s_1(W0)
    effective_rank: float  # median


@dataclass(frozen=True)
class LayerStrip:
    """Intruders by layer of one stack of layers, from its first audited layer to its last."""

    stack: str
    first: int
    intruders: list[int | None]  # None for a layer of which nothing was audited

    @property
    def last(self) -> int:
        return self.first + len(self.intruders) - 1


def by_kind(matrices: Sequence[AuditedMatrix]) -> list[KindSummary]:
    """Summarize every kind of module, in the order in which they first occur."""
    groups: dict[str, list[AuditedMatrix]] = {}
    for matrix, path in zip(matrices, module_paths([m.name for m in matrices]), strict=True):
        groups.setdefault(path.kind, []).append(matrix)
    return [summarize(kind, matrices) for kind, matrices in groups.items()]


def summarize(kind: str, matrices: Sequence[AuditedMatrix]) -> KindSummary:
    """Summarize one or more `matrices` under the name `kind`."""
    return KindSummary(
        kind=kind,
        matrices=len(matrices),
        affected=sum(matrix.intruders > 0 for matrix in matrices),
        intruders=sum(matrix.intruders for matrix in matrices),
        vectors=sum(len(matrix.vectors) for matrix in matrices),
        energy_share=energy_share(vector for matrix in matrices for vector in matrix.vectors),
        frobenius=update_norm(matrices),
        relative_update=median_relative(matrices),
        effective_rank=median(matrix.update.effective_rank for matrix in matrices),
    )


def median_relative(matrices: Iterable[AuditedMatrix]) -> float:
    """Return the median relative update of the matrices that have one, which a base of zeros has not; NaN if none."""
    relative = [matrix.relative_update for matrix in matrices]
    return median([value for value in relative if math.isfinite(value)] or [math.nan])


def update_norm(matrices: Iterable[AuditedMatrix]) -> float:
    """Return the Frobenius norm of all updates together, as if they were one long vector."""
    return math.hypot(*(matrix.update.frobenius for matrix in matrices))


def by_layer(matrices: Sequence[AuditedMatrix]) -> list[LayerStrip]:
    """Count the intruders of every layer, in one strip per stack of layers (encoder and decoder have one each)."""
    counts: dict[str, dict[int, int]] = {}
    for matrix, path in zip(matrices, module_paths([m.name for m in matrices]), strict=True):
        if path.layer is not None:
            layers = counts.setdefault(path.stack, {})
            layers[path.layer] = layers.get(path.layer, 0) + matrix.intruders
    return [
        LayerStrip(name, min(layers), [layers.get(i) for i in range(min(layers), max(layers) + 1)])
        for name, layers in counts.items()
    ]


def worst(matrices: Iterable[AuditedMatrix], limit: int) -> list[AuditedMatrix]:
    """Return the affected matrices with most intruders; among equals those with the larger energy share."""
    affected = [matrix for matrix in matrices if matrix.intruders]
    return sorted(affected, key=lambda m: (-m.intruders, -m.intruder_energy_share))[:limit]


def skipped_by_reason(left_out: Iterable[Skipped]) -> list[tuple[str, int]]:
    """Count the skipped tensors by reason, most frequent first; without details after ':' or '('."""
    reasons = Counter(re.split(r"[:(]", skipped.reason, maxsplit=1)[0].strip() for skipped in left_out)
    return reasons.most_common()


def not_compared(matrices: Sequence[AuditedMatrix], left_out: Iterable[Skipped]) -> Skipped | None:
    """Return a matrix that could not be compared, if no matrix could: the counts of zero are no answer then."""
    return next((skipped for skipped in left_out if not matrices and skipped.kind in _NOT_COMPARED), None)


def certificates(matrices: Iterable[AuditedMatrix]) -> list[tuple[str, int]]:
    """Count the vectors that each certificate decided, in the order in which the engine tries them."""
    counts = Counter(vector.certificate for matrix in matrices for vector in matrix.vectors)
    return [(name, counts[name]) for name in CERTIFICATES if counts[name]]


def ambiguous(matrices: Iterable[AuditedMatrix]) -> int:
    """Count the decisions that depend on the choice of vectors within a cluster of equal singular values."""
    return sum(vector.ambiguous for matrix in matrices for vector in matrix.vectors)


def audit_as_html(sources: str, matrices: Sequence[AuditedMatrix], k: int, epsilon: float) -> str:
    """An audit as a notebook shows it: a table in the notebook's own style; every name is escaped."""
    vectors = [vector for matrix in matrices for vector in matrix.vectors]
    totals = (
        f"{plural(sum(vector.intruder for vector in vectors), 'intruder dimension')} in "
        f"{plural(len(vectors), 'vector')} of {plural(len(matrices), 'matrix', 'matrices')}, "
        f"energy share {percent(energy_share(vectors))}, update norm {number(update_norm(matrices))}; "
        f"k = {k}, epsilon = {epsilon:g}"
    )
    titles = (
        "module",
        "matrices",
        "intruders",
        "energy share",
        "update norm",
        "relative update",
        "effective rank",
    )
    head = "".join(f"<th>{title}</th>" for title in titles)
    rows = "".join(
        f"<tr><td>{escape(kind.kind)}</td><td>{kind.matrices}</td><td>{kind.intruders}</td>"
        f"<td>{percent(kind.energy_share)}</td><td>{number(kind.frobenius)}</td>"
        f"<td>{percent(kind.relative_update)}</td><td>{number(kind.effective_rank)}</td></tr>"
        for kind in by_kind(matrices)
    ).replace("<0.1 %", "&lt;0.1 %")
    return (
        f"<div><p>{escape(sources)}<br><strong>{escape(totals)}</strong></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
