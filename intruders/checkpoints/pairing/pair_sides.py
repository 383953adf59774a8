"""Base and tuned, matched matrix by matrix, as a stream that holds one matrix at a time."""

from __future__ import annotations

from ..opening.model_sum import ModelSum, parts_of
from ..opening.open import Opened
from ..stored.checkpoint import Checkpoint
from ..stored.selected import require_selection
from ..stored.selection import AS_AUDITED, Selection
from .names_of_base import under_common_names
from .paired_rows import paired_rows
from .pairing import Pairing
from .side import sides_of
from .trained_base import notes_on_trained_base


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
