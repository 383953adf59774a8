"""Products of a few rows with a large matrix, which are nearly all of the engine's time; and the batches they are of.

On CPUs, torch multiplies single-precision matrices by MKL, whose thin products are two to three times slower than
oneDNN's on processors that MKL does not favour (and no faster on others: both read the matrix once). torch has oneDNN
built in, but uses it for this precision only in the operator behind ``nn.Linear`` in compiled models. That operator is
called here where it is there and right, and the ordinary product where it is not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from math import prod
from typing import Any, Self

import torch
from torch import Tensor

# Below this many numbers a matrix, a batched product costs less than a call for each matrix.
_SMALL = 150_000
# Numbers of a column that are added in one product; see _summed_in_parts.
_LONGEST_SUM = 1024


def times_transpose(rows: Tensor, matrix: Tensor, chosen: Sequence[int] | None = None) -> Tensor:
    """``rows @ matrix.mT`` for ``(*batch, k, n)`` and ``(*batch, m, n)``, in the precision of the two.

    ``chosen`` are the places of the rows' matrices in a batch with one batch dimension; None for all.
    """
    if is_shared(matrix) and rows.ndim == 3 and (chosen is not None or len(rows) == len(matrix)):
        # One product for the rows of all: the matrix is read once.
        together = times_transpose(rows.flatten(0, 1), matrix[0])
        return together.view(*rows.shape[:2], matrix.shape[1])
    if matrix.shape[-2:].numel() < _SMALL:
        return _summed_in_parts(_plain, rows, matrix if chosen is None else matrix[list(chosen)])
    single = rows.dtype == matrix.dtype == torch.float32 and matrix.device.type == "cpu"
    # Rows with gaps between them make oneDNN take a way that is a thousand times slower.
    dense = matrix.is_contiguous() or matrix.mT.is_contiguous()
    product = _linear if single and dense and _has_linear() else _plain
    if matrix.ndim == 2:
        return _summed_in_parts(product, rows, matrix)
    if chosen is None and (product is _plain or matrix.ndim != 3 or rows.shape[:1] != matrix.shape[:1]):
        return _summed_in_parts(_plain, rows, matrix)
    places = range(len(matrix)) if chosen is None else chosen
    if len(places) == 1:
        return _summed_in_parts(product, rows[0], matrix[places[0]]).unsqueeze(0)
    return torch.stack(
        [_summed_in_parts(product, each, matrix[at]) for each, at in zip(rows, places, strict=True)]
    )


def _summed_in_parts(product: Callable[[Tensor, Tensor], Tensor], rows: Tensor, matrix: Tensor) -> Tensor:
    """``product`` of the two, with no sum down the columns of a matrix that is stored by rows longer than a limit.

    Along a row, a sum is kept in as many accumulators as a register holds. Down a column some builds of torch add one
    number after the other, which for 53248 of them was off by ten times what :func:`rounding` allows. On other devices
    than processors that may be so along rows too.
    """
    length = rows.shape[-1]
    is_short = length <= _LONGEST_SUM or (matrix.is_contiguous() and matrix.is_cpu)
    if is_short or rows.dtype == torch.float64:
        return product(rows, matrix)
    parts = (slice(first, first + _LONGEST_SUM) for first in range(0, length, _LONGEST_SUM))
    first = next(parts)
    total = product(rows[..., first], matrix[..., first])
    for part in parts:
        total += product(rows[..., part], matrix[..., part])
    return total


def is_shared(matrix: Tensor) -> bool:
    """Return whether a batch is one matrix several times, ``matrix.expand(count, -1, -1)``, without copies."""
    return matrix.ndim == 3 and len(matrix) > 1 and matrix.stride(0) == 0


def selected(batch: Tensor, index: Tensor | int) -> Tensor:
    """Return what is at ``index`` of a batch, without copies of one value that is there several times."""
    if isinstance(index, Tensor) and len(batch) > 1 and batch.stride(0) == 0:
        return batch[:1].expand(len(index), *batch.shape[1:])
    return batch[index]


def _plain(rows: Tensor, matrix: Tensor) -> Tensor:
    return rows @ matrix.mT


def _linear(rows: Tensor, matrix: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows.contiguous(), matrix, None, "none", [], "")
    return product


def rounding(m: int, n: int) -> float:
    """Length of the error of a product of a unit row with an m x n matrix, in roundings of the matrix's norm.

    It holds but for a small probability, and is no worst case. docs/concepts/engine.md derives it, and
    ``tests/linalg/rounding.py`` compares it with double precision.
    """
    return 4 + 0.05 * math.sqrt(max(m, n))


@cache
def _has_linear() -> bool:
    """Return whether torch has oneDNN's product here, with the rounding of single precision.

    The environment may tell oneDNN to compute in less (``ONEDNN_DEFAULT_FPMATH_MODE``); no bound holds for that.
    """
    generator = torch.Generator().manual_seed(0)
    rows, matrix = (torch.randn(side, 512, generator=generator) for side in (4, 256))
    try:
        product = _linear(rows, matrix.mT.contiguous().mT)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return False
    wanted = rows.double() @ matrix.double().mT
    return bool((product - wanted).abs().max() <= 1e-5 * wanted.abs().max())


# Numbers that are made at once.
_AT_ONCE = 2**20


def made_by_rows(
    rows: Callable[[slice], Tensor], shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return a tensor whose rows are made some at a time and rounded to ``dtype``, once.

    ``rows`` gives those at a slice, of any floating-point type.

    >>> made_by_rows(lambda at: torch.arange(4.0)[at], (4,), torch.bfloat16, torch.device("cpu"))
    tensor([0., 1., 2., 3.], dtype=torch.bfloat16)
    """
    made = torch.empty(*shape, dtype=dtype, device=device)
    step = max(1, _AT_ONCE // max(1, prod(shape[1:])))
    for first in range(0, shape[0], step):
        some = slice(first, first + step)
        made[some] = rows(some)
    return made


class Batched:
    """A dataclass whose fields are tensors, or values of this kind, with the matrices as their first dimension."""

    def tensors(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All tensors that it is made of, in the order of the fields."""
        parts: list[Tensor] = []
        for value in self.tensors().values():
            parts += [value] if isinstance(value, Tensor) else value.parts
        return tuple(parts)

    def select(self, index: Tensor | int) -> Self:
        """Return the matrices at ``index``; of a number the one matrix, without a batch dimension."""
        return self._changed(lambda tensor: selected(tensor, index), lambda inner: inner.select(index))

    def to(self, *where: torch.device | torch.dtype) -> Self:
        return self._changed(lambda tensor: tensor.to(*where), lambda inner: inner.to(*where))

    def double(self) -> Self:
        return self.to(torch.float64)

    def repeated(self, count: int) -> Self:
        """Repeat a batch of one matrix ``count`` times, without copies."""
        return self._changed(
            lambda tensor: tensor.expand(count, *tensor.shape[1:]), lambda inner: inner.repeated(count)
        )

    @classmethod
    def together(cls, groups: Sequence[Self]) -> Self:
        """Join the matrices of groups, whose values have equal shapes but for their numbers; of one make no copy."""
        first, *others = groups
        if not others:
            return first
        return first._changed(
            lambda *parts: torch.cat(parts), lambda *parts: parts[0].together(parts), *others
        )

    def with_rows(self, index: Tensor, other: Self) -> Self:
        return self._changed(
            lambda tensor, rows: tensor.index_copy(0, index, rows),
            lambda inner, rows: inner.with_rows(index, rows),
            other,
        )

    def _changed(self, tensors: Callable[..., Any], inner: Callable[..., Any], *others: Self) -> Self:
        """Make each value of those of this one and the others: tensors by one way, values of this kind by the other."""
        rest = [other.tensors() for other in others]
        made = {}
        for name, value in self.tensors().items():
            make = tensors if isinstance(value, Tensor) else inner
            made[name] = make(value, *(each[name] for each in rest))
        return type(self)(**made)
