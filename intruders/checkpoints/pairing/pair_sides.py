"""Base and tuned, matched matrix by matrix, as a stream that holds one matrix at a time."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce

import torch
from torch import Tensor

from ...errors import PairingError, some_of
from ...linalg.low_rank import LowRank
from ...linalg.pair import Pair
from ..adapters.adapter import AdaptedWeight, Adapter
from ..adapters.by_formula import widened
from ..opening.model_sum import ModelSum, parts_of
from ..opening.named_base import notes_on_trained_base
from ..opening.open import Opened
from ..stored.checkpoint import Checkpoint, StoredTensor
from ..stored.matrices import MatrixView, common_matrices, matrices_of, reason_to_skip, require_selection
from ..stored.selection import AS_AUDITED, Selection
from .pairing import PairedMatrix, Pairing, SkipKind, Skipped
from .side import Side, sides_of


def pair_sides(base: Checkpoint, tuned: Opened, selection: Selection = AS_AUDITED) -> Pairing:
    """Pair every matrix of the base that the tuned side may have changed; list the rest with its reason.

    PairingError, which says which tensors do not match, if the two do not belong together; SettingError for patterns
    that match none.
    """
    require_selection(base, selection)
    trained = [note for part, _ in parts_of(tuned) for note in notes_on_trained_base(base, part)]
    named, sides, renamed = sides_of(base, tuned)
    pairs, skipped, remarks = _paired_matrices(named, sides, selection, isinstance(tuned, ModelSum))
    notes = [*trained, *renamed, *(note for side, _ in sides for note in side.notes), *remarks]
    biases = [bias for side, _ in sides for bias in side.biases]
    return Pairing(base, tuned, pairs, skipped, list(dict.fromkeys(notes)), biases)


def with_rounded_base(pairing: Pairing, dtype: str | None) -> Pairing:
    """Return the pairing with each base matrix rounded to ``dtype``; None leaves it as it is."""
    if dtype is None:
        return pairing
    rounding: torch.dtype = getattr(torch, dtype)

    def rounded(load: Callable[[], Pair | None]) -> Pair | None:
        pair = load()
        if pair is None:
            return None
        base = pair.base.to(rounding).to(pair.base.dtype)
        if torch.equal(base, pair.base):
            return pair  # a base that is stored so loses nothing, and an update of low rank keeps it
        is_double = any(part.dtype == torch.float64 for part in pair.parts)
        return Pair(base, pair.dense().to(torch.float64 if is_double else torch.float32))

    pairs = [replace(matrix, load=partial(rounded, matrix.load)) for matrix in pairing.pairs]
    return replace(pairing, pairs=pairs)


def _paired_matrix(base: Checkpoint, side: Side, name: str, matrix: MatrixView) -> PairedMatrix:
    """A matrix of the base under the name that a side has for its tensor, and what the side makes of it."""
    if name in side.updates:
        pair = _updated_pair(side, matrix, side.updates[name])
    else:
        pair = _dense_pair(side.base, matrix, side.tensors[name])

    def moved() -> Pair | None:
        """The same update W - W1 on top of the base that is audited: W0 + (W - W1)."""
        both = pair.load()
        return None if both is None else both.moved_to(matrix.read(base.tensors[matrix.tensor]))

    return replace(pair, load=moved) if side.made_by else pair


def _dense_pair(base: Checkpoint, matrix: MatrixView, stored: StoredTensor) -> PairedMatrix:

    def load() -> Pair | None:
        before, after = matrix.read(base.tensors[matrix.tensor]), matrix.read(stored)
        # A base in float32 and a tuned model saved in bfloat16 differ by rounding where nothing was trained.
        same = torch.equal(before, after) or torch.equal(before.to(after.dtype), after)
        return None if same else Pair(before, after)

    return PairedMatrix(matrix.name, matrix.shape, None, load)


def _updated_pair(side: Side, matrix: MatrixView, update: AdaptedWeight) -> PairedMatrix:
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

    made = update.merged
    merged = None if made is None else lambda dtype: matrix.cut(made(acted_on().to(dtype)))
    return PairedMatrix(matrix.name, matrix.shape, update.rank, load, update.scale, merged)


def _require_own_weight(before: Tensor, side: Side, matrix: MatrixView, name: str) -> None:
    """Refuse an update of another weight, which the adapter stores; one of 16 bits is stored as it was rounded."""
    part = side.part
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


def _paired_matrices(
    base: Checkpoint, sides: Sequence[tuple[Side, float]], selection: Selection, is_sum: bool
) -> tuple[list[PairedMatrix], list[Skipped], list[str]]:
    """The matrices of the base that a side holds, in its order (of a sum, part after part); the rest; and notes.

    With ``is_sum`` each is W0 + sum_i w_i (W_i - W0), also over one part.
    """
    left_out: list[Skipped] = []
    notes: list[str] = []
    pairs_of_side: list[list[PairedMatrix]] = [[] for _ in sides]
    by_first_side: list[list[PairedMatrix]] = [[] for _ in sides]
    for name in (*base.names(), *base.tied):
        skipped = _left_out(base, name, sides, selection)
        if skipped is not None:
            left_out.append(skipped)
            continue
        by_matrix: dict[str, list[tuple[PairedMatrix, float]]] = {}
        other_shape = ""
        remarks = []
        for (side, weight), pairs in zip(sides, pairs_of_side, strict=True):
            if not side.holds(name):
                continue
            ours = side.base.tensors[name].shape
            theirs = side.tensors[name].shape if name in side.tensors else ours
            matrices = common_matrices(matrices_of(side.base, name, selection.split_fused), ours, theirs)
            if not matrices:
                other_shape = other_shape or f"other shape: {ours} and {theirs}"
            elif ours != theirs:
                tokens = f"the first {matrices[0].shape[0]} tokens; base has {ours[0]}, tuned {theirs[0]}"
                remarks.append(f"'{name}' on {tokens}")
            made = [_paired_matrix(base, side, name, matrix) for matrix in matrices]
            pairs += made
            for pair in made:
                by_matrix.setdefault(pair.name, []).append((pair, weight))
        if not by_matrix:
            left_out.append(Skipped(name, other_shape, SkipKind.OTHER_SHAPE))
        for matrix_name, weighted in list(by_matrix.items()):
            shapes = dict.fromkeys(pair.shape for pair, _ in weighted)
            if len(shapes) > 1:  # parts of a sum, on other numbers of tokens: their updates have no sum
                reason = f"other shape in parts of the sum: {' and '.join(map(str, shapes))}"
                left_out.append(Skipped(matrix_name, reason, SkipKind.OTHER_SHAPE))
                del by_matrix[matrix_name]
        notes += remarks if by_matrix else []
        first = next(number for number, (side, _) in enumerate(sides) if side.holds(name))
        by_first_side[first] += [
            summed(weighted) if is_sum else weighted[0][0] for weighted in by_matrix.values()
        ]
    left_out += [Skipped(name, reason) for name, reason in base.ignored]
    for (side, _), pairs in zip(sides, pairs_of_side, strict=True):
        known = {skipped.name for skipped in left_out} if is_sum else set()
        left_out += [skipped for skipped in side.skipped if skipped.name not in known]
        if isinstance(side.part, Adapter) and side.part.decomposes:
            _warn_of_decompositions(side.part, pairs)
        if side.made_by and any(pair.rank is None for pair in pairs):
            notes.insert(0, f"'{side.part.source}' acts on {some_of(list(side.made_by))}")
    return [pair for pairs in by_first_side for pair in pairs], left_out, notes


def _left_out(
    base: Checkpoint, name: str, sides: Sequence[tuple[Side, float]], selection: Selection
) -> Skipped | None:
    holder = base.tied.get(name, name)
    reason = reason_to_skip(name, base.tensors[holder], selection)
    if reason is not None:
        return Skipped(name, reason)
    if holder != name:
        return Skipped(name, f"the same tensor as '{holder}'")
    if any(side.holds(name) for side, _ in sides):
        return None
    if isinstance(sides[0][0].part, Adapter):
        return Skipped(name, "unchanged", SkipKind.UNCHANGED)
    return Skipped(name, "missing in tuned", SkipKind.NO_COUNTERPART)


# A full decomposition of 4096 x 4096 takes about 11 seconds on two cores.
_SECONDS = 11 / 4096**3
_WORTH_SAYING = 60  # seconds


def _warn_of_decompositions(adapter: Adapter, pairs: list[PairedMatrix]) -> None:
    seconds = _SECONDS * sum(m * n * min(m, n) for m, n in (pair.shape for pair in pairs))
    if seconds > _WORTH_SAYING:
        warnings.warn(
            f"the adapter '{adapter.source}' ({adapter.peft_type}) decomposes each of its {len(pairs)} matrices in "
            f"full, as PEFT does when it loads it: about {seconds / 60:.0f} minutes on two cores beside the audit",
            stacklevel=2,
        )
