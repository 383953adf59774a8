"""The matrices of a checkpoint that a selection takes, and why it leaves out a tensor."""

from __future__ import annotations

from .checkpoint import Checkpoint, StoredTensor
from .matrices import MatrixView, matrices_of, not_a_matrix
from .selection import Selection


def reason_to_skip(name: str, stored: StoredTensor, selection: Selection) -> str | None:
    """Return why a tensor has no matrix to examine: it is none, or it is not wanted; None if it has."""
    # A stack of experts has one bias per expert, (experts, out).
    if len(stored.shape) == 2 and name.endswith(("_bias", ".bias")):
        return "one-dimensional"
    return not_a_matrix(stored) or selection.reason_to_leave_out(name)


def selected_matrices(checkpoint: Checkpoint, selection: Selection) -> list[MatrixView]:
    """Every matrix to examine, in the order of the checkpoint's tensors."""
    return [
        matrix
        for name, stored in checkpoint.tensors.items()
        if reason_to_skip(name, stored, selection) is None
        for matrix in matrices_of(checkpoint, name, selection.split_fused)
    ]


def require_selection(checkpoint: Checkpoint, selection: Selection) -> None:
    """Raise SettingError for a pattern that matches nothing, and for patterns that leave no matrix."""
    names = [*checkpoint.names(), *checkpoint.tied]
    holders = {name: checkpoint.tensors[checkpoint.tied.get(name, name)] for name in names}
    matrices = [name for name, stored in holders.items() if not_a_matrix(stored) is None]
    selection.require_matches(checkpoint.names(), checkpoint.source)
    selection.require_some(matrices, checkpoint.source)
