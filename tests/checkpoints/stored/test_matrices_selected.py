"""Which matrices a selection takes of a checkpoint, and why a tensor is left out."""

from __future__ import annotations

import pytest
import torch

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.stored.checkpoint import Checkpoint
from intruders.checkpoints.stored.matrices import reason_to_skip, require_selection, selected_matrices
from intruders.checkpoints.stored.selection import Selection
from intruders.errors import SettingError


@pytest.fixture
def checkpoint() -> Checkpoint:
    """Two projections, a norm, whole numbers, nothing at all, an embedding, a class token, three experts in one tensor
    and their biases."""
    return open_checkpoint(
        {
            "model.embed_tokens.weight": torch.ones(7, 4),
            "model.layers.0.self_attn.q_proj.weight": torch.ones(4, 4),
            "model.layers.0.self_attn.k_proj.weight": torch.ones(2, 4),
            "model.layers.0.input_layernorm.weight": torch.ones(4),
            "model.layers.0.mlp.experts.down_proj": torch.ones(3, 4, 2),
            "model.layers.0.mlp.experts.down_proj_bias": torch.ones(3, 4),
            "model.class_token": torch.ones(1, 1, 4),
            "model.layers.0.mlp.counts": torch.ones(2, 2, dtype=torch.int64),
            "model.layers.0.mlp.empty": torch.ones(0, 4),
        }
    )


def test_matrices_are_taken_in_the_order_of_tensors(checkpoint: Checkpoint) -> None:
    taken = [
        (matrix.name.removeprefix("model.layers.0."), matrix.shape)
        for matrix in selected_matrices(checkpoint, Selection(exclude=("*k_proj*",)))
    ]
    assert taken == [
        ("self_attn.q_proj.weight", (4, 4)),
        ("mlp.experts.down_proj[0]", (4, 2)),
        ("mlp.experts.down_proj[1]", (4, 2)),
        ("mlp.experts.down_proj[2]", (4, 2)),
    ]


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("q_proj.weight", None),
        ("k_proj.weight", "excluded"),
        ("layernorm.weight", "one-dimensional"),
        ("down_proj_bias", "one-dimensional"),
        ("class_token", "one-dimensional"),
        ("counts", "numbers of type int64"),
        ("empty", "empty"),
        ("embed_tokens.weight", "embedding (use --include-embeddings)"),
    ],
)
def test_a_tensor_is_left_out_for_a_reason(checkpoint: Checkpoint, ending: str, reason: str | None) -> None:
    (name,) = [name for name in checkpoint.names() if name.endswith(ending)]
    assert reason_to_skip(name, checkpoint.tensors[name], Selection(exclude=("*k_proj*",))) == reason


@pytest.mark.parametrize("patterns", [("*v_proj*",), ("*layernorm*",)])
def test_patterns_that_leave_no_matrix_are_refused(checkpoint: Checkpoint, patterns: tuple[str, ...]) -> None:
    with pytest.raises(SettingError, match=r"include '\*"):
        require_selection(checkpoint, Selection(include=patterns))
    require_selection(checkpoint, Selection(include=("*q_proj*", "*layernorm*")))
