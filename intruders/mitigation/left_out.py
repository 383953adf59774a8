"""What a new adapter cannot hold of a fine-tuning of all weights."""

from __future__ import annotations

import warnings

import torch

from ..checkpoints.pairing.names_of_base import under_common_names
from ..checkpoints.pairing.pair_sides import pair_sides
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.names import match_names, tensor_of
from ..errors import some_of


def warn_of_tensors_left_out(base: Checkpoint, tuned: Checkpoint) -> None:
    """Warn of the tensors that the fine-tuning changed and that an adapter of its linear layers leaves as the base's.

    These are embeddings, heads, norms and biases.
    """
    base, (part,), _ = under_common_names(base, [tuned])
    assert isinstance(part, Checkpoint)
    adapted = {tensor_of(pair.name) for pair in pair_sides(base, part).pairs}
    matched = match_names(base.shapes(), part.shapes()).tuned_of
    changed = [
        name
        for name, other in matched.items()
        if name not in adapted and not _is_same(base.read(name), part.read(other))
    ]
    if changed:
        warnings.warn(
            f"the adapter leaves out {len(changed)} tensors of the fine-tuning that are no linear layers: "
            f"{some_of(changed)}; write a checkpoint (--as checkpoint) to keep them",
            stacklevel=3,
        )


def _is_same(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Return whether a tensor is the base's, or a rounding of it."""
    return torch.equal(before, after) or torch.equal(before.to(after.dtype), after)
