"""One matrix before and after: read in full, made of an adapter's factors, moved to another base, or summed."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from ...errors import PairingError
from ...linalg.low_rank import LowRank
from ...linalg.pair import Pair
from ..adapters.adapter import AdaptedWeight, Adapter
from ..adapters.formulas import widened
from ..stored.checkpoint import Checkpoint, StoredTensor
from ..stored.matrices import MatrixView
from .pairing import PairedMatrix
from .side import Side


def paired_matrix(base: Checkpoint, side: Side, name: str, matrix: MatrixView) -> PairedMatrix:
    """A matrix of the base under the name that a side has for its tensor, and what the side makes of it."""
    if name in side.updates:
        pair = _updated_pair(side, matrix, side.updates[name])
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


def _updated_pair(side: Side, matrix: MatrixView, update: AdaptedWeight) -> PairedMatrix:
    """The matrix before, and what an adapter makes of it."""
    whole = replace(matrix, rows=None)

    def acted_on() -> Tensor:
        before = whole.read(side.base.tensors[matrix.tensor])
        _require_own_weight(before, side, whole, update.name)
        return before

    def load() -> Pair | None:
        before = acted_on()
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
        return matrix.cut(update.merged(acted_on().to(dtype)))

    return PairedMatrix(
        matrix.name,
        matrix.shape,
        update.rank,
        load,
        update.scale,
        None if update.merged is None else merged,
    )


def _require_own_weight(before: Tensor, side: Side, matrix: MatrixView, name: str) -> None:
    """Refuse an update of another weight than the base's, which the adapter stores: PEFT puts it in the base's place.

    A base that was loaded in 16 bits for training is stored as it was rounded, in whatever type.
    """
    part = side.acting.part
    stored = part.beneath.get(name) if isinstance(part, Adapter) else None
    # The codes of a quantized weight are of another shape.
    if stored is None or stored.shape != side.base.tensors[matrix.tensor].shape:
        return
    beneath = matrix.read(stored)
    rounded = (beneath.dtype, torch.bfloat16, torch.float16)
    if not any(torch.equal(before.to(dtype).float(), beneath.float()) for dtype in rounded):
        raise PairingError(
            f"'{part.source}' stores '{name}' of its base with other values than '{side.base.source}' has, and changes "
            "those; expected the base that it was trained on; pass that, or merge the adapter with PEFT, and pass the "
            "merged model"
        )


def _moved(pair: PairedMatrix, matrix: MatrixView, base: Checkpoint) -> PairedMatrix:
    """The same update W - W1 on top of the base that is audited: W0 + (W - W1)."""

    def load() -> Pair | None:
        both = pair.load()
        return None if both is None else both.moved_to(matrix.read(base.tensors[matrix.tensor]))

    return replace(pair, load=load)


def summed(pairs: list[tuple[PairedMatrix, float]]) -> PairedMatrix:
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
