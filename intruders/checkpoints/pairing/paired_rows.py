"""Matrix after matrix of the base, with what the parts of the tuned side make of it: the last stage of pairing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import torch
from torch import Tensor

from ...linalg.low_rank import LowRank
from ...linalg.pair import Pair
from ..adapters.adapter import AdaptedWeight, Adapter
from ..adapters.formulas import widened
from ..stored.checkpoint import Checkpoint, StoredTensor
from ..stored.matrices import MatrixView, matrices_of, not_a_matrix
from ..stored.names import is_embedding_or_head
from ..stored.selection import Selection
from .acted_on import acts_on_in_words
from .decomposing import warn_of_decompositions
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
        holder = base.tied.get(name, name)
        skipped = _left_out(base, name, holder, sides, selection)
        if skipped is not None:
            rows.skipped.append(skipped)
            continue
        by_matrix: dict[str, list[tuple[PairedMatrix, float]]] = {}
        other_shape = ""
        for (side, weight), pairs in zip(sides, pairs_of_side, strict=True):
            matrices, remark = _matrices(side, name, holder, selection.split_fused)
            if matrices is None:
                other_shape = other_shape or remark
                continue
            rows.notes += [remark] if remark else []
            made = [_paired(base, side, name, matrix) for matrix in matrices]
            pairs += made
            for pair in made:
                by_matrix.setdefault(pair.name, []).append((pair, weight))
        if not by_matrix:
            rows.skipped.append(Skipped(name, other_shape, SkipKind.OTHER_SHAPE))
        first = next((number for number, (side, _) in enumerate(sides) if side.holds(name)), 0)
        by_first_side[first] += [
            _summed(weighted) if is_sum else weighted[0][0] for weighted in by_matrix.values()
        ]
    rows.pairs = [pair for pairs in by_first_side for pair in pairs]
    for (side, _), pairs in zip(sides, pairs_of_side, strict=True):
        known = {skipped.name for skipped in rows.skipped} if is_sum else set()
        rows.skipped += [skipped for skipped in side.skipped if skipped.name not in known]
        if isinstance(side.acting.part, Adapter):
            warn_of_decompositions(side.acting.part, pairs)
        if side.acting.made_by and any(pair.rank is None for pair in pairs):
            rows.notes.insert(0, acts_on_in_words(side.acting))
    return rows


def _left_out(
    base: Checkpoint,
    name: str,
    holder: str,
    sides: Sequence[tuple[Side, float]],
    selection: Selection,
) -> Skipped | None:
    """Return why a tensor of the base has no matrix to audit; None where it has."""
    reason = not_a_matrix(base.tensors[holder]) or selection.reason_to_leave_out(name)
    if reason is not None:
        return Skipped(name, reason)
    if any(side.holds(name) for side, _ in sides):
        return None
    if holder != name:
        return Skipped(name, f"the same tensor as '{holder}'")
    return Skipped(name, *sides[0][0].lacking)


def _matrices(side: Side, name: str, holder: str, split_fused: bool) -> tuple[list[MatrixView] | None, str]:
    """The matrices of a tensor that a side holds, under the name, and a note; None with the reason it has none."""
    if not side.holds(name):
        return None, ""
    stored = side.tensors.get(name)
    matrices, note = matrices_of(side.base, holder, split_fused), ""
    if stored is not None and stored.shape != side.base.shape(holder):
        common = _common_rows(side.base, holder, stored.shape)
        if common is None:
            return None, f"other shape: {side.base.shape(holder)} and {stored.shape}"
        matrices = [common]
        counts = side.base.shape(holder)[0], stored.shape[0]
        note = f"'{holder}' on the first {min(counts)} tokens; base has {counts[0]}, tuned {counts[1]}"
    return [replace(matrix, name=name + matrix.name.removeprefix(holder)) for matrix in matrices], note


def _common_rows(base: Checkpoint, name: str, other: tuple[int, ...]) -> MatrixView | None:
    """The tokens that both embeddings have, when only their number differs."""
    shape = base.shape(name)
    if len(shape) != 2 or len(other) != 2 or shape[1] != other[1] or not is_embedding_or_head(name):
        return None
    rows = min(shape[0], other[0])
    (whole,) = matrices_of(base, name)
    return replace(whole, shape=(rows, shape[1]), rows=torch.arange(rows))


def _paired(base: Checkpoint, side: Side, name: str, matrix: MatrixView) -> PairedMatrix:
    if name in side.updates:
        pair = _updated_pair(side.base, matrix, side.updates[name])
    else:
        pair = _dense_pair(side.base, matrix, side.tensors[name])
    return _moved(pair, matrix, base) if side.acting.made_by else pair


def _dense_pair(base: Checkpoint, matrix: MatrixView, stored: StoredTensor) -> PairedMatrix:
    """The matrix before and after, read in full on both sides."""

    def load() -> Pair | None:
        before, after = matrix.read(base.tensors[matrix.tensor]), matrix.read(stored)
        # A base in float32 and a tuned model saved in bfloat16 differ by rounding where nothing was trained.
        same = torch.equal(before, after) or torch.equal(before.to(after.dtype), after)
        return None if same else Pair(before, after)

    return PairedMatrix(matrix.name, matrix.shape, None, load)


def _updated_pair(base: Checkpoint, matrix: MatrixView, update: AdaptedWeight) -> PairedMatrix:
    """The matrix before, and what an adapter makes of it."""
    whole = replace(matrix, rows=None)

    def load() -> Pair | None:
        before = whole.read(base.tensors[matrix.tensor])
        change = update.change(before, matrix.expert)
        if isinstance(change, LowRank):
            left = matrix.cut(change.left)
            if not left.any() or not change.right.any():
                return None
            return Pair(matrix.cut(before), LowRank(left, change.right))
        before, after = matrix.cut(before), matrix.cut(change)
        return None if torch.equal(before, after.to(before.dtype)) else Pair(before, after)

    def merged(dtype: torch.dtype) -> Tensor:
        assert update.merged is not None
        return matrix.cut(update.merged(whole.read(base.tensors[matrix.tensor]).to(dtype)))

    return PairedMatrix(
        matrix.name,
        matrix.shape,
        update.rank,
        load,
        update.scale,
        None if update.merged is None else merged,
    )


def _moved(pair: PairedMatrix, matrix: MatrixView, base: Checkpoint) -> PairedMatrix:
    """The same update W - W1 on top of the base that is audited: W0 + (W - W1)."""

    def load() -> Pair | None:
        both = pair.load()
        return None if both is None else both.moved_to(matrix.read(base.tensors[matrix.tensor]))

    return replace(pair, load=load)


def _summed(pairs: list[tuple[PairedMatrix, float]]) -> PairedMatrix:
    """``W0 + sum_i w_i D_i``, in which low-rank updates stay factors, side by side."""
    ranks = [pair.rank for pair, _ in pairs]
    rank = sum(rank for rank in ranks if rank is not None) if None not in ranks else None

    def load() -> Pair | None:
        loaded = [(both, weight) for pair, weight in pairs if (both := pair.load()) is not None and weight]
        if not loaded:
            return None
        base = loaded[0][0].base
        low_rank = [both.tuned.scaled(weight) for both, weight in loaded if isinstance(both.tuned, LowRank)]
        if len(low_rank) == len(loaded):
            return Pair(base, reduce(LowRank.plus, low_rank))
        total = widened(base) + sum(
            (weight * both.widened().update.dense() for both, weight in loaded), torch.tensor(0.0)
        )
        return None if torch.equal(total, widened(base)) else Pair(base, total)

    return PairedMatrix(pairs[0][0].name, pairs[0][0].shape, rank, load)
