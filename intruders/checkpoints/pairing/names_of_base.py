"""The base under the names that all parts of the tuned side have for its tensors: the first stage of pairing."""

from __future__ import annotations

from collections.abc import Sequence

from ..opening.model_sum import ModelSum, Part, parts_of
from ..stored.checkpoint import Checkpoint
from ..stored.tied import is_separated, separated, tied_uses
from .experts import aligned_experts
from .tied_head import with_tied_head


def with_stacks_of(base: Checkpoint, tuned: Part | ModelSum) -> Checkpoint:
    """The base with the stacks of experts that a part of the tuned side has, after which a pairing names matrices."""
    for part, _ in parts_of(tuned):
        base, _, _ = aligned_experts(base, part)
    return base


def _separated(part: Checkpoint) -> Checkpoint:
    uses = tied_uses(part)
    return part if uses is None else separated(part, uses)


def under_common_names(base: Checkpoint, parts: Sequence[Part]) -> tuple[Checkpoint, list[Part], list[str]]:
    """The base and the parts with the same names for the same tensors, and notes of what was renamed.

    One part with stacked experts decides their names on all sides. Where one has the head apart from the embedding that
    it is tied to, all have.
    """
    for part in parts:
        base = with_tied_head(base, part)
    if is_separated(base):
        parts = [_separated(part) if isinstance(part, Checkpoint) else part for part in parts]
    notes: list[str] = []
    for part in parts:
        base, _, renamed = aligned_experts(base, part)
        notes += renamed
    aligned: list[Part] = []
    for part in parts:
        _, same_part, renamed = aligned_experts(base, part)
        aligned.append(same_part)
        notes += renamed
    return base, aligned, list(dict.fromkeys(notes))
