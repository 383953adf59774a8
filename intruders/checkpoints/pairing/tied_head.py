"""An adapter on an output head that is the embedding, and so has no tensor of its own in the base's file."""

from __future__ import annotations

from dataclasses import replace

from ..adapters.adapter import Adapter
from ..opening.model_sum import parts_of
from ..opening.open import Opened
from ..stored.checkpoint import Checkpoint
from ..stored.names import HEAD, tied_head


def with_tied_head(base: Checkpoint, tuned: Opened) -> Checkpoint:
    """The base with the head's name for its embedding, where an adapter changes the head and the file has none.

    While training, PEFT adds the update to the head alone. Its merge adds it to the tensor that both share. A head that
    the adapter stores in full (``modules_to_save``) takes the embedding's place at the output alone.
    """
    if HEAD in base.tensors or HEAD in base.tied or not _changes_the_head(tuned):
        return base
    embedding = tied_head(base.tensors, base.config)
    return base if embedding is None else replace(base, tied={**base.tied, HEAD: embedding})


def _changes_the_head(tuned: Opened) -> bool:
    adapters = [part for part, _ in parts_of(tuned) if isinstance(part, Adapter)]
    return any(
        HEAD in adapter.replaced.names() or any(update.name == HEAD for update in adapter.updates)
        for adapter in adapters
    )
