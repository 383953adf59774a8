"""Weights with scales that are beside them under another name."""

from __future__ import annotations

import pytest
import torch

from intruders.checkpoints.quantized.scaled import scaled_weights
from intruders.checkpoints.stored.checkpoint import StoredTensor
from intruders.errors import CheckpointError


def stored(tensor: torch.Tensor) -> StoredTensor:
    return StoredTensor(tuple(tensor.shape), tensor.dtype, "test", lambda: tensor)


def test_four_bits_in_a_byte_are_refused() -> None:
    """Two codes a byte, a scale for 16 of them and one for the tensor: read as bytes they fit, and say nothing."""
    tensors = {
        "q.weight": stored(torch.zeros(8, 16, dtype=torch.uint8)),
        "q.weight_scale": stored(torch.ones(8, 2)),
        "q.weight_scale_2": stored(torch.ones(())),
    }
    with pytest.raises(CheckpointError, match="NVFP4"):
        scaled_weights(tensors, {})
    del tensors["q.weight_scale_2"]
    weights, _ = scaled_weights(tensors | {"q.weight": stored(torch.full((8, 16), 3, dtype=torch.int8))}, {})
    assert weights["q.weight"].read().unique().tolist() == [3.0]
