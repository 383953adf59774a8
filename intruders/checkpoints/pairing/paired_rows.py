"""Matrix after matrix of the base, with what the parts of the tuned side make of it: the last stage of pairing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..adapters.adapter import Adapter
from ..stored.checkpoint import Checkpoint
from ..stored.matrices import MatrixView, common_matrices, matrices_of
from ..stored.selected import reason_to_skip
from ..stored.selection import Selection
from .acted_on import acts_on_in_words
from .decomposing import warn_of_decompositions
from .paired_matrix import paired_matrix, summed
from .pairing import PairedMatrix, SkipKind, Skipped
from .side import Side


@dataclass
class Rows:
    """The audited matrices in the base's order (of a sum, part after part), and the tensors left out."""

    pairs: list[PairedMatrix] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def paired_rows(
    base: Checkpoint, sides: Sequence[tuple[Side, float]], selection: Selection, is_sum: bool
) -> Rows:
    """Every matrix of the base that a side holds; the rest is listed with its reason.

    Args:
      base: what is audited.
      sides: the parts of the tuned side, with their weights.
      selection: which tensors are taken.
      is_sum: whether the tuned side is W0 + sum_i w_i (W_i - W0), also over one part.
    """
    rows = Rows()
    pairs_of_side: list[list[PairedMatrix]] = [[] for _ in sides]
    by_first_side: list[list[PairedMatrix]] = [[] for _ in sides]
    for name in (*base.names(), *base.tied):
        skipped = _left_out(base, name, sides, selection)
        if skipped is not None:
            rows.skipped.append(skipped)
            continue
        by_matrix: dict[str, list[tuple[PairedMatrix, float]]] = {}
        other_shape = ""
        remarks = []
        for (side, weight), pairs in zip(sides, pairs_of_side, strict=True):
            matrices, remark = _matrices(side, name, selection.split_fused)
            if matrices is None:
                other_shape = other_shape or remark
                continue
            remarks += [remark] if remark else []
            made = [paired_matrix(base, side, name, matrix) for matrix in matrices]
            pairs += made
            for pair in made:
                by_matrix.setdefault(pair.name, []).append((pair, weight))
        if not by_matrix:
            rows.skipped.append(Skipped(name, other_shape, SkipKind.OTHER_SHAPE))
        unequal = _of_unequal_parts(by_matrix)
        rows.skipped += unequal
        for matrix_name in (skipped.name for skipped in unequal):
            del by_matrix[matrix_name]
        rows.notes += remarks if by_matrix else []
        first = next((number for number, (side, _) in enumerate(sides) if side.holds(name)), 0)
        by_first_side[first] += [
            summed(weighted) if is_sum else weighted[0][0] for weighted in by_matrix.values()
        ]
    rows.skipped += [Skipped(name, reason) for name, reason in base.ignored]
    rows.pairs = [pair for pairs in by_first_side for pair in pairs]
    for (side, _), pairs in zip(sides, pairs_of_side, strict=True):
        known = {skipped.name for skipped in rows.skipped} if is_sum else set()
        rows.skipped += [skipped for skipped in side.skipped if skipped.name not in known]
        if isinstance(side.acting.part, Adapter):
            warn_of_decompositions(side.acting.part, pairs)
        if side.acting.made_by and any(pair.rank is None for pair in pairs):
            rows.notes.insert(0, acts_on_in_words(side.acting))
    return rows


def _of_unequal_parts(by_matrix: Mapping[str, list[tuple[PairedMatrix, float]]]) -> list[Skipped]:
    """Return the matrices that the parts of a sum have on other numbers of tokens: their updates have no sum."""
    unequal = []
    for name, weighted in by_matrix.items():
        shapes = dict.fromkeys(pair.shape for pair, _ in weighted)
        if len(shapes) > 1:
            reason = f"other shape in parts of the sum: {' and '.join(map(str, shapes))}"
            unequal.append(Skipped(name, reason, SkipKind.OTHER_SHAPE))
    return unequal


def _left_out(
    base: Checkpoint,
    name: str,
    sides: Sequence[tuple[Side, float]],
    selection: Selection,
) -> Skipped | None:
    """Return why a tensor of the base has no matrix to audit; None where it has."""
    holder = base.tied.get(name, name)
    reason = reason_to_skip(name, base.tensors[holder], selection)
    if reason is not None:
        return Skipped(name, reason)
    if holder != name:
        return Skipped(name, f"the same tensor as '{holder}'")
    if any(side.holds(name) for side, _ in sides):
        return None
    return Skipped(name, *sides[0][0].lacking)


def _matrices(side: Side, name: str, split_fused: bool) -> tuple[list[MatrixView] | None, str]:
    """The matrices of a tensor that a side holds, and a note; None with the reason it has none."""
    if not side.holds(name):
        return None, ""
    ours = side.base.tensors[name].shape
    theirs = side.tensors[name].shape if name in side.tensors else ours
    matrices, note = common_matrices(matrices_of(side.base, name, split_fused), ours, theirs), ""
    if not matrices:
        return None, f"other shape: {ours} and {theirs}"
    if ours != theirs:
        note = f"'{name}' on the first {matrices[0].shape[0]} tokens; base has {ours[0]}, tuned {theirs[0]}"
    return matrices, note
