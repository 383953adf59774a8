"""An adapter on an output head that is the embedding, and so has no tensor of its own in the base's file."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..adapters.adapter import Adapter
from ..opening.model_sum import parts_of
from ..opening.open import Opened
from ..stored.checkpoint import Checkpoint
from ..stored.names import HEADS, tied_head


def with_tied_head(base: Checkpoint, tuned: Opened) -> Checkpoint:
    """The base with the head's name for its embedding, where an adapter changes the head and the file has none.

    While training, PEFT adds the update to the head alone. Its merge adds it to the tensor that both share. A head that
    the adapter stores in full (``modules_to_save``) takes the embedding's place at the output alone.
    """
    head = _changed_head(tuned)
    if head is None or any(name in base.tensors or name in base.tied for name in HEADS):
        return base
    embedding = tied_head(base.tensors, base.config)
    return base if embedding is None else replace(base, tied={**base.tied, head: embedding})


def with_own_head(base: Checkpoint, merged: Checkpoint) -> Checkpoint:
    """The base with a tensor of its own for a head that it ties, where a merged model has another head beside it.

    PEFT's merge of a head that the adapter stores in full leaves the embedding as it is.
    """
    own = {
        head: base.tensors[embedding]
        for head, embedding in base.tied.items()
        if head in merged.tensors
        and embedding in merged.tensors
        and not torch.equal(merged.read(head), merged.read(embedding))
    }
    tied = {head: embedding for head, embedding in base.tied.items() if head not in own}
    return replace(base, tensors={**base.tensors, **own}, tied=tied) if own else base


def _changed_head(tuned: Opened) -> str | None:
    changed = {
        name
        for part, _ in parts_of(tuned)
        if isinstance(part, Adapter)
        for name in (*part.replaced.names(), *(update.name for update in part.updates))
    }
    return next((head for head in HEADS if head in changed), None)
