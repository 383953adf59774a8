"""The matrices in a tensor: cut out of it, and put back into it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from .checkpoint import Checkpoint, StoredTensor
from .layout import fused_rows
from .names import is_embedding_or_head

# Where torch keeps direction and length of a convolution whose weight is normalized, now and before its version 2.0.
_DIRECTION = re.compile(r"\.parametrizations\.\w+\.original\d$|weight_[gv]$")


@dataclass(frozen=True)
class MatrixView:
    """One matrix, and how it is cut out of the tensor that holds it."""

    name: str  # the tensor's, with "[3]" for an expert and "[q]" for a part
    tensor: str
    shape: tuple[int, int]  # (m, n), output side first
    expert: int | None = None
    input_first: bool = False  # stored (in, out)
    rows: Tensor | None = field(default=None, repr=False)  # of a fused weight, or those that both sides have

    def read(self, stored: StoredTensor) -> Tensor:
        """The matrix (m, n), out of its own tensor or of the tuned side's."""
        tensor = stored.read() if self.expert is None else stored.read_slice(self.expert)
        matrix = tensor.flatten(1) if tensor.dim() > 2 else tensor
        return self.cut(matrix.mT if self.input_first else matrix)

    def cut(self, matrix: Tensor) -> Tensor:
        """The rows that belong to it, of anything that has a row for every output of the whole weight."""
        return matrix if self.rows is None else matrix[self.rows.to(matrix.device)]


def not_a_matrix(stored: StoredTensor) -> str | None:
    """Return why a tensor is not a matrix to audit; None if it is one or contains some."""
    if len(stored.shape) < 2 or is_class_token(stored.shape):
        return "one-dimensional"
    if not stored.dtype.is_floating_point:
        return f"numbers of type {str(stored.dtype).removeprefix('torch.')}"
    return "empty" if prod(stored.shape) == 0 else None


def is_class_token(shape: tuple[int, ...]) -> bool:
    """Return whether a tensor is a vector kept as (1, 1, n), as a token that stands for a class is."""
    return len(shape) == 3 and shape[:2] == (1, 1)


def every_matrix(checkpoint: Checkpoint) -> dict[str, MatrixView]:
    """Every matrix of the checkpoint by its name."""
    return {
        matrix.name: matrix
        for name, stored in checkpoint.tensors.items()
        if len(stored.shape) >= 2
        for matrix in matrices_of(checkpoint, name)
    }


def matrices_of(checkpoint: Checkpoint, name: str, split_fused: bool = False) -> list[MatrixView]:
    """The matrices that one tensor of the checkpoint holds."""
    stored = checkpoint.tensors[name]
    input_first = name in checkpoint.input_first
    if holds_experts(name, stored.shape):
        experts, first, second = stored.shape
        shape = (second, first) if input_first else (first, second)
        views = [MatrixView(f"{name}[{index}]", name, shape, index, input_first) for index in range(experts)]
    else:
        views = [MatrixView(name, name, matrix_shape(stored.shape, input_first), None, input_first)]
    if not split_fused:
        return views
    return [part for matrix in views for part in _parts(matrix, checkpoint.config)]


def matrix_shape(shape: tuple[int, ...], input_first: bool) -> tuple[int, int]:
    """(out, in), a convolution's kernel counted to its input."""
    rows, columns = shape[0], prod(shape[1:])
    return (columns, rows) if input_first else (rows, columns)


def holds_experts(name: str, shape: tuple[int, ...]) -> bool:
    """Return whether a three-dimensional tensor is a stack of matrices, and not a convolution over one dimension."""
    if len(shape) != 3 or _DIRECTION.search(name):
        return False
    return "expert" in name or "moe" in name or not name.endswith(".weight")


def _parts(matrix: MatrixView, config: Mapping[str, Any] | None) -> list[MatrixView]:
    parts = fused_rows(matrix.name, matrix.shape[0], config)
    if parts is None:
        return [matrix]
    return [
        replace(matrix, name=f"{matrix.name}[{part}]", shape=(len(rows), matrix.shape[1]), rows=rows)
        for part, rows in parts.items()
    ]


def common_matrices(
    matrices: list[MatrixView], ours: tuple[int, ...], theirs: tuple[int, ...]
) -> list[MatrixView]:
    """The matrices of a tensor that a tuned tensor has too, by the shapes of both.

    Of an embedding or head (tokens, width) with another vocabulary these are the first rows; another shape has none.
    """
    if ours == theirs or not matrices:
        return matrices
    if (
        not is_embedding_or_head(matrices[0].tensor)
        or not len(ours) == len(theirs) == 2
        or ours[1] != theirs[1]
    ):
        return []
    tokens = min(ours[0], theirs[0])
    return [replace(matrices[0], shape=(tokens, ours[1]), rows=torch.arange(tokens))]


def put_back(matrix: MatrixView, tensor: Tensor, values: Tensor) -> None:
    """Write a matrix (m, n) into the tensor that it was read from."""
    target = tensor if matrix.expert is None else tensor[matrix.expert]
    values = values.to(target.device)
    if matrix.rows is not None:
        target.view(target.shape[0], -1)[matrix.rows] = values
    else:
        target.copy_((values.mT if matrix.input_first else values).reshape(target.shape))
