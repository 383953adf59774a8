"""A base's embeddings with as many rows as those of an adapter that was trained after tokens were added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..errors import CheckpointError


def resize_as_stored(model: Any, source: str, location: str, stored: Mapping[str, Tensor]) -> list[str]:
    """Give the base the embeddings' rows that an adapter stores, and return a note if their number differed.

    PEFT saves embeddings and output head with an adapter if the number of tokens was changed before the training
    (``resize_token_embeddings``), and loads them only into as many rows.

    Args:
      model: the base at ``location``.
      source: the adapter.
      location: of the base.
      stored: the tensors of the adapter, as PEFT names them.

    Raises:
      CheckpointError: the rows of the output head are not stored, so that those of new tokens would be random.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = _stored_rows(model, embedding, stored)
    before = len(embedding.weight)
    if rows is None or rows == before:
        return []
    is_apart = head is not None and head.weight is not embedding.weight
    if is_apart and rows > before and _stored_rows(model, head, stored) != rows:
        raise CheckpointError(
            f"adapter {source!r} has embeddings of {rows:,} tokens, and base {location!r} of {before:,}, but it has no "
            "weights of the output head for the others, which would be random; save it again with "
            "save_embedding_layers=True"
        )
    model.resize_token_embeddings(rows, mean_resizing=False)
    note = (
        f"adapter {source!r} was trained with {rows:,} tokens and base {location!r} has {before:,}, so the embeddings "
        "are resized as they were for the training"
    )
    return [note]


def _stored_rows(model: nn.Module, module: Any, stored: Mapping[str, Tensor]) -> int | None:
    """Return the rows of a module's weight in an adapter, which wraps it under several names; None if it has none."""
    name = next(name for name, other in model.named_modules() if other is module)
    for key, tensor in stored.items():
        # A factor of a LoRA on the head, (r, n), is no weight of it.
        is_weight = (
            key.startswith(f"base_model.model.{name}.") and key.endswith(".weight") and ".lora_" not in key
        )
        if is_weight and tensor.dim() == 2 and tensor.shape[1] == module.weight.shape[1]:
            return len(tensor)
    return None
