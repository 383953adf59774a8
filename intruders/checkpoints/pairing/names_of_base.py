"""The base under the names that all parts of the tuned side have for its tensors: the first stage of pairing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ...linalg.low_rank import LowRank
from ..adapters.adapter import AdaptedWeight, Adapter
from ..opening.model_sum import ModelSum, Part, parts_of
from ..opening.open import Opened
from ..stored.checkpoint import Checkpoint, StoredTensor
from ..stored.names import may_be_same, scores_classes
from ..stored.tied import HEADS, Tied, has_head, is_separated, separated, tied_uses
from .experts import with_experts_as

_Change = AdaptedWeight | StoredTensor


def with_tied_head(base: Checkpoint, tuned: Opened) -> Checkpoint:
    """The base as adapters change it: with a head of its own where they change one use of a tied tensor alone.

    While training, PEFT adds an update to the module that it is for, and a module that is stored in full
    (``modules_to_save``) takes the place of one use. Only where both are changed alike, as ``ensure_weight_tying``
    has it, do they stay one tensor, under the name of the embedding.
    """
    uses = None if is_separated(base) else tied_uses(base)
    adapters = [part for part, _ in parts_of(tuned) if isinstance(part, Adapter)]
    if uses is None or not adapters:
        return base
    changes = [_changes(adapter) for adapter in adapters]
    head = next((name for name in (uses.head, *HEADS) if any(name in change for change in changes)), None)
    uses = uses if head is None else Tied(uses.embedding, head)
    touched = [
        (
            next((change[name] for name in change if may_be_same(uses.embedding, name)), None),
            change.get(uses.head),
            adapter,
        )
        for change, adapter in zip(changes, adapters, strict=True)
    ]
    touched = [entry for entry in touched if not (entry[0] is None and entry[1] is None)]
    if not touched:
        return base
    stored = [name for adapter in adapters for name in adapter.replaced.names()]
    # A classifier's adapter brings another head, so that the base's has no part in what is computed.
    if head is None and (not has_head(base.config) or any(scores_classes(name) for name in stored)):
        return base
    if all(_are_alike(base, uses, *entry) for entry in touched):
        return replace(base, tied={**base.tied, uses.head: uses.embedding})
    return separated(base, uses)


def with_own_head(base: Checkpoint, merged: Checkpoint) -> Checkpoint:
    """The base with a tensor of its own for a head that it ties, where a merged model has another head beside it."""
    uses = tied_uses(base)
    if uses is None or not {uses.head, uses.embedding} <= merged.tensors.keys():
        return base
    is_same = torch.equal(merged.read(uses.head), merged.read(uses.embedding))
    return base if is_same else separated(base, uses)


def _changes(adapter: Adapter) -> dict[str, _Change]:
    changes: dict[str, _Change] = {update.name: update for update in adapter.updates}
    return changes | dict(adapter.replaced.tensors)


def _are_alike(
    base: Checkpoint, uses: Tied, embedding: _Change | None, head: _Change | None, adapter: Adapter
) -> bool:
    """Whether an adapter changes both uses to the same numbers."""
    if isinstance(embedding, StoredTensor) and isinstance(head, StoredTensor):
        return embedding.shape == head.shape and torch.equal(embedding.read(), head.read())
    if not isinstance(embedding, AdaptedWeight) or not isinstance(head, AdaptedWeight):
        return False
    if adapter.named_for is not None or (embedding.rank, embedding.scale) != (head.rank, head.scale):
        return False
    before = base.read(uses.embedding)
    first, second = embedding.change(before, None), head.change(before, None)
    scale = embedding.scale or 1.0
    if not isinstance(first, LowRank) or not isinstance(second, LowRank):
        return False
    # PEFT has the scale on B, which is the right factor of an embedding and the left one of a head.
    return torch.equal(scale * first.left, second.left) and torch.equal(first.right, scale * second.right)


def with_stacks_of(base: Checkpoint, tuned: Part | ModelSum) -> Checkpoint:
    """The base with the stacks of experts that a part of the tuned side has, after which a pairing names matrices."""
    for part, _ in parts_of(tuned):
        base = with_experts_as(_names_of(part), base)
    return base


def _names_of(part: Part) -> list[str]:
    if isinstance(part, Checkpoint):
        return part.names()
    return [*(update.name for update in part.updates), *part.replaced.names()]


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
    stacked = base
    for part in parts:
        stacked = with_stacks_of(stacked, part)
    if stacked is not base:
        notes.append("experts that base stores one by one, as the stacks that tuned has")
    names = stacked.names()
    aligned = [with_experts_as(names, part) if isinstance(part, Checkpoint) else part for part in parts]
    if any(after is not part for after, part in zip(aligned, parts, strict=True)):
        notes.append("experts that tuned stores one by one, as the stacks that base has")
    return stacked, aligned, notes
