"""Eigenvalue decompositions of the small symmetric matrices of a batch, where they are quickest.

On a GPU torch decomposes batches of matrices beyond a side of 32 one after another, each with several launches and
waits (pytorch issues 174674 and 175585). A processor is done with all of them before: they go there in one transfer,
and come back in one. A matrix that is alone, or large enough to fill a GPU by itself, stays.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Sides between which a batch leaves a GPU.
_BATCHED_UP_TO, _FILLS_A_GPU = 32, 1024


def moves_to_processor(shape: torch.Size, device: torch.device) -> bool:
    """Return whether a batch ``(*batch, a, a)`` on a device is decomposed on the processor.

    >>> moves_to_processor(torch.Size([7, 100, 100]), torch.device("cuda"))
    True
    >>> moves_to_processor(torch.Size([7, 20, 20]), torch.device("cuda"))
    False
    """
    is_batch = shape[:-2].numel() > 1
    return device.type != "cpu" and is_batch and _BATCHED_UP_TO < shape[-1] < _FILLS_A_GPU


def eigh(cores: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(*batch, a)``, ascending, and eigenvectors as columns ``(*batch, a, a)`` of symmetric matrices."""
    if not moves_to_processor(cores.shape, cores.device):
        values, vectors = torch.linalg.eigh(cores)
        return values, vectors
    values, vectors = torch.linalg.eigh(cores.cpu())
    return values.to(cores.device), vectors.to(cores.device)


def eigvalsh(cores: Tensor) -> Tensor:
    """Eigenvalues ``(*batch, a)`` alone."""
    if not moves_to_processor(cores.shape, cores.device):
        values: Tensor = torch.linalg.eigvalsh(cores)
        return values
    values = torch.linalg.eigvalsh(cores.cpu())
    return values.to(cores.device)
