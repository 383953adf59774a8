"""Base and tuned, matched matrix by matrix, as a stream that holds one matrix at a time."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...linalg.pair import Pair
from ..opening.model_sum import ModelSum, parts_of
from ..opening.named_base import notes_on_trained_base
from ..opening.open import Opened
from ..stored.checkpoint import Checkpoint
from ..stored.matrices import require_selection
from ..stored.selection import AS_AUDITED, Selection
from .names_of_base import under_common_names
from .paired_rows import paired_rows
from .pairing import PairedMatrix, Pairing
from .side import sides_of


def pair_sides(base: Checkpoint, tuned: Opened, selection: Selection = AS_AUDITED) -> Pairing:
    """Pair every matrix of the base that the tuned side may have changed; list the rest with its reason.

    Args:
      base: the model before fine-tuning.
      tuned: the model after it, the adapter, or several with weights.
      selection: which of the base's tensors are taken.

    Returns:
      The matrices in the base's order, each to be loaded on its own.

    Raises:
      PairingError: the two do not belong together; the text says which tensors do not match, and how many do.
      SettingError: ``include`` matches no tensor.
    """
    require_selection(base, selection)
    weighted = parts_of(tuned)
    trained = [note for part, _ in weighted for note in notes_on_trained_base(base, part)]
    base, parts, notes = under_common_names(base, [part for part, _ in weighted])
    notes = [*trained, *notes]
    sides = sides_of(base, parts)
    weights = [weight for _, weight in weighted]
    rows = paired_rows(base, list(zip(sides, weights, strict=True)), selection, isinstance(tuned, ModelSum))
    notes += [note for side in sides for note in side.notes] + rows.notes
    return Pairing(
        base.source,
        tuned.source,
        tuned.kind,
        rows.pairs,
        rows.skipped,
        list(dict.fromkeys(notes)),
        [bias for side in sides for bias in side.biases],
        base_hub=base.hub,
        tuned_hub=tuned.hub,
    )


DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def with_rounded_base(pairing: Pairing, dtype: str | None) -> Pairing:
    """Return the pairing with each base matrix rounded to ``dtype``; None leaves it as it is."""
    if dtype is None:
        return pairing
    return replace(pairing, pairs=[_rounded(matrix, DTYPES[dtype]) for matrix in pairing.pairs])


def _rounded(matrix: PairedMatrix, dtype: torch.dtype) -> PairedMatrix:
    def load() -> Pair | None:
        pair = matrix.load()
        if pair is None:
            return None
        rounded = pair.base.to(dtype).to(pair.base.dtype)
        if torch.equal(rounded, pair.base):
            return pair  # a base that is stored so loses nothing, and an update of low rank keeps it
        is_double = any(part.dtype == torch.float64 for part in pair.parts)
        return Pair(rounded, pair.dense().to(torch.float64 if is_double else torch.float32))

    return replace(matrix, load=load)
