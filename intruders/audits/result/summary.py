"""The numbers that every report of an audit shows, by module kind, layer and reason, and what they leave out."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from ...checkpoints.pairing.pairing import SkipKind, Skipped
from ...checkpoints.stored.names import module_paths
from ...checkpoints.stored.selection import Selection
from ...system.words import plural
from .forgetting import is_predictable
from .records import CERTIFICATES, AuditedMatrix, energy_share

# Kinds of reasons to skip a tensor that leave open whether fine-tuning changed it, though it was selected.
_NOT_COMPARED = (SkipKind.OTHER_SHAPE, SkipKind.NO_COUNTERPART, SkipKind.NOT_FINITE)
_ON_ONE_SIDE = (SkipKind.NO_COUNTERPART, SkipKind.OTHER_SHAPE)
# No update of our studies that forgot less than a nat was near this many times as large as its base.
_LARGEST_RELATIVE = 100


@dataclass(frozen=True)
class KindSummary:
    """All matrices of one kind of module."""

    kind: str
    matrices: int
    intruders: int
    vectors: int
    energy_share: float
    frobenius: float  # of all their updates together: square root of the summed squares
    relative_update: float  # median of ||D||_2 / s_1(W0)
    effective_rank: float  # median


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


def median_rank(matrices: Iterable[AuditedMatrix]) -> float:
    return median([matrix.update.effective_rank for matrix in matrices] or [math.nan])


def would_have_nats(matrices: Sequence[AuditedMatrix]) -> bool:
    """Return whether a prepared base would give a number; of so large an update it says "large" and no more."""
    return is_predictable(median_rank(matrices)) and not median_relative(matrices) > _LARGEST_RELATIVE


def update_norm(matrices: Iterable[AuditedMatrix]) -> float:
    """Return the Frobenius norm of all updates together, as if they were one long vector."""
    return math.hypot(*(matrix.update.frobenius for matrix in matrices))


def by_layer(matrices: Sequence[AuditedMatrix]) -> dict[str, Counter[int]]:
    """Count the intruders of every audited layer, by stack of layers (encoder and decoder have one each)."""
    counts: dict[str, Counter[int]] = {}
    for matrix, path in zip(matrices, module_paths([m.name for m in matrices]), strict=True):
        if path.layer is not None:
            counts.setdefault(path.stack, Counter())[path.layer] += matrix.intruders
    return counts


def worst(matrices: Iterable[AuditedMatrix], limit: int) -> list[AuditedMatrix]:
    """Return the affected matrices with most intruders; among equals those with the larger energy share."""
    affected = [matrix for matrix in matrices if matrix.intruders]
    return sorted(affected, key=lambda m: (-m.intruders, -m.intruder_energy_share))[:limit]


def skipped_by_reason(left_out: Iterable[Skipped]) -> list[tuple[str, int]]:
    """Count the skipped tensors by reason, most frequent first; without details after ':' or '('."""
    reasons = Counter(re.split(r"[:(]", skipped.reason, maxsplit=1)[0].strip() for skipped in left_out)
    return reasons.most_common()


def not_compared(matrices: Sequence[object], left_out: Iterable[Skipped]) -> Skipped | None:
    """Return a matrix that could not be compared, if no matrix could: the counts of zero are no answer then."""
    return next((skipped for skipped in left_out if not matrices and skipped.kind in _NOT_COMPARED), None)


def certificates(matrices: Iterable[AuditedMatrix]) -> list[tuple[str, int]]:
    """Count the vectors that each certificate decided, in the order in which the engine tries them."""
    counts = Counter(vector.certificate for matrix in matrices for vector in matrix.vectors)
    return [(name, counts[name]) for name in CERTIFICATES if counts[name]]


def ambiguous(matrices: Iterable[AuditedMatrix]) -> int:
    """Count the decisions that depend on the choice of vectors within a cluster of equal singular values."""
    return sum(vector.ambiguous for matrix in matrices for vector in matrix.vectors)


_SHOWN = {
    "rotation, left (mean sin²)": ("rotation_left_sine2", "rotation_left_sine2_chance"),
    "rotation, right (mean sin²)": ("rotation_right_sine2", "rotation_right_sine2_chance"),
    "update in leading left (rho_k)": ("rho_k", "rho_k_chance"),
    "update off principal": ("off_principal", "off_principal_chance"),
}


def beside_chance(matrices: Sequence[AuditedMatrix]) -> list[tuple[str, float, float]]:
    """Return numbers by name: the median over the matrices that have one, and that of chance. Omit what none has.

    How many have one depends on what was known of the base before the audit, so that it is not shown.
    """
    rows = []
    subspaces = [matrix.subspaces for matrix in matrices if matrix.subspaces is not None]
    for name, (measured, chance) in _SHOWN.items():
        known = [own for own in subspaces if math.isfinite(getattr(own, measured))]
        if known:
            value, beside = (median(getattr(own, key) for own in known) for key in (measured, chance))
            rows.append((name, value, beside))
    return rows


def matrices_on_one_side(
    audited: Sequence[str], left_out: Sequence[Skipped], selection: Selection
) -> list[Skipped]:
    """Return the matrices that one of two models lacks, or has in another shape, though an audit would examine them.

    Heads, poolers and embeddings, which are outside the numbered layers, do not count: a model for another task has
    its own. Of tensors that the base lacks, only those of a kind that is compared in other layers are matrices to
    examine, and of those that the tuned model lacks also every weight; norms, biases and buffers are of neither.
    ``audited`` are the names of matrices that differ, and ``left_out`` all other tensors.
    """
    open_ones = [skipped for skipped in left_out if skipped.kind in _ON_ONE_SIDE]
    compared = [*audited, *(skipped.name for skipped in left_out if skipped.kind == SkipKind.UNCHANGED)]
    paths = module_paths([*compared, *(skipped.name for skipped in open_ones)])
    kinds = {path.kind for path in paths[: len(compared)]}
    has_layers = any(path.layer is not None for path in paths[: len(compared)])
    return [
        skipped
        for skipped, path in zip(open_ones, paths[len(compared) :], strict=True)
        if (path.layer is not None or not has_layers)
        and (path.kind in kinds or (skipped.reason != "missing in base" and "weight" in skipped.name))
        and not skipped.name.endswith("bias")  # as the causal masks that old files of GPT-2 name attn.bias
        and selection.reason_to_leave_out(skipped.name) is None
    ]


def left_open_in_words(left_open: Sequence[Skipped]) -> str | None:
    """Return what to tell of matrices that could not be compared; None of no matrix."""
    if not left_open:
        return None
    first = left_open[0]
    return (
        f"{plural(len(left_open), 'matrix', 'matrices')} could not be compared, the first '{first.name}' "
        f"({first.reason}); leave out what is meant to be absent with --exclude"
    )


def unchanged_in_words(base: str, tuned: str) -> str:
    """Return what to tell of a model that equals its base in every matrix that was to be audited."""
    return f"nothing differs between '{base}' and '{tuned}'; check that the paths are the intended ones"
