"""Devices whose single-precision products are as exact as the proofs take them to be.

docs/concepts/rounding.md has the argument for processors and for CUDA. Whether the libraries of a machine keep to it is
looked at once per process and device: an environment variable can make them compute in less (``NVIDIA_TF32_OVERRIDE``),
and nothing in torch tells.
"""

from __future__ import annotations

from functools import cache

import torch

from .full_precision import full_precision
from .products import rounding, times_transpose

# Kinds of devices for which the argument is made.
_KINDS = ("cpu", "cuda")
# Matrices that are tried: long sums along rows and down columns, and a batch of small matrices.
_SHAPES = ((24, 8192), (8192, 24), (3, 64, 64))
_ROWS = 8


def is_covered(device: torch.device) -> bool:
    """Return whether bounds from single-precision products hold on a device."""
    return _is_covered(device.type, device.index)


@cache
def _is_covered(kind: str, index: int | None) -> bool:
    device = torch.device(kind) if index is None else torch.device(kind, index)
    return kind in _KINDS and all(_rounds_little(shape, device) for shape in _SHAPES)


def _rounds_little(shape: tuple[int, ...], device: torch.device) -> bool:
    """Compare products with a matrix of random numbers and with its transpose with double precision."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator)
    wide = matrix.double()
    gram = wide @ wide.mT if shape[-2] <= shape[-1] else wide.mT @ wide
    norm = torch.linalg.eigvalsh(gram)[..., -1].sqrt()
    for side in (matrix, matrix.mT):
        rows = torch.randn(*shape[:-2], _ROWS, side.shape[-1], generator=generator)
        exact = rows.double() @ side.double().mT
        with full_precision():
            product = times_transpose(rows.to(device), side.to(device)).cpu()
        wrong = torch.linalg.vector_norm(product.double() - exact, dim=-1)
        size = norm.unsqueeze(-1) * rows.double().norm(dim=-1)
        allowed = rounding(*shape[-2:]) * torch.finfo(torch.float32).eps * size
        if not bool((wrong <= allowed).all()):
            return False
    return True
