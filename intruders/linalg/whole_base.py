"""A base matrix with all of its singular triplets, and what is measured of their errors.

The triplets are computed in double precision and kept in the matrix's own. With U, V the orthonormal rows nearest to
the computed ones, ``W' = U^T S V`` is a matrix whose decomposition is exact, and everything that is read in its
coordinates is exact for it. Two numbers say how far that is from the matrix given:

    off        a bound on ||W0 - W'||: the residual of the computed triplets, and what they lack in orthonormality
    rounded    a bound on the norm of what U and V lost when they were rounded to the precision they are kept in

The first moves the base. The second moves the products of U and V with the factors of an update, and so the update,
by at most ``rounded`` times its norm. Norms of whole matrices are bounded from above by Frobenius norms, for the first,
and by ``||R R^T||_F^(1/2)`` for the second (of small matrices by the former too): nothing here is an estimate.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .full_precision import full_precision
from .products import Batched, is_shared
from .svd import dense_svd, gram_svd

# Singular values below this share of the largest are noise in the eigenvalues of the Gram matrix, or their vectors on
# the longer side are not orthogonal: such matrices are decomposed themselves.
_LEAST_OF_GRAM = 1e-5
# Numbers of a matrix that are widened at once: they stay in a processor's cache until they are multiplied. Of long rows
# at least so many, since a product with fewer takes up to twice the time; and never more numbers than that.
_WIDENED, _LEAST_ROWS, _MOST_WIDENED = 2**18, 96, 2**21
# Up to this many columns a product is faster with them as the rows of the first factor.
_FEW = 32
# Below this smaller side the norm of what rounding lost is bounded by its Frobenius norm, which is up to four times it.
_SMALL = 256
# What a bound that is itself computed with rounding is raised by.
_CAREFUL = 1.01


@dataclass(frozen=True)
class WholeBase(Batched):
    """A batch of matrices ``(batch, m, n)`` as all of their singular triplets, p = min(m, n) of them, descending."""

    values: Tensor  # (batch, p), double
    left: Tensor  # (batch, p, m), unit rows
    right: Tensor  # (batch, p, n)
    off: Tensor  # (batch), double: of the matrix, absolute
    rounded: Tensor  # (batch), double: of both sides together

    @classmethod
    @full_precision()
    def of(cls, matrix: Tensor) -> "WholeBase":
        """Decompose ``(batch, m, n)`` matrices, and measure the errors.

        Costs one eigenvalue decomposition of the smaller side in double precision, and four products of that side's
        square with the matrix; two more in single precision.
        """
        if is_shared(matrix):
            return cls.of(matrix[:1]).repeated(len(matrix))
        wide = matrix.double()
        svd = gram_svd(wide)
        again = (svd.values[:, -1] <= _LEAST_OF_GRAM * svd.values[:, 0]).nonzero().squeeze(-1)
        if len(again) > 0:
            svd = svd.with_rows(again, dense_svd(wide[again]))
        first = svd.values[:, 0]
        skew = _skew(svd.left) + _skew(svd.right)
        if len(again) == 0:
            # The smaller side's vectors R are square, and the other side's were computed as R W: what R^T R W is off by
            # is skew, and more than rounding does to that product.
            size = torch.linalg.vector_norm(wide, dim=(-2, -1))
            off = 2 * first * skew + size * max(wide.shape[-2:]) * torch.finfo(wide.dtype).eps
        else:
            residual = wide - (svd.left * svd.values.unsqueeze(-1)).mT @ svd.right
            off = torch.linalg.matrix_norm(residual) + first * skew
        left, right = svd.left.to(matrix.dtype), svd.right.to(matrix.dtype)
        rounded = _rounding_norm(svd.left, left) + _rounding_norm(svd.right, right) + skew
        return cls(svd.values, left, right, _CAREFUL * off, _CAREFUL * rounded)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.values), self.left.shape[-1], self.right.shape[-1]))


def _skew(rows: Tensor) -> Tensor:
    """``||R R^T - I||_F`` of ``(batch, p, n)`` rows: the nearest orthonormal rows are no farther than that."""
    gram = rows @ rows.mT
    gram.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    norms: Tensor = torch.linalg.matrix_norm(gram)
    return norms


def _rounding_norm(wide: Tensor, kept: Tensor) -> Tensor:
    """A bound on ``||wide - kept||``, by the fourth powers of its singular values."""
    if kept.dtype == torch.float64:
        return torch.zeros(len(wide), dtype=torch.float64, device=wide.device)
    if wide.shape[-2] < _SMALL:
        frobenius: Tensor = torch.linalg.matrix_norm(wide - kept.double())
        return frobenius
    lost = (wide - kept.double()).float()
    lost = lost * 2.0**24  # far from the end of the range
    square = lost @ lost.mT if lost.shape[-2] <= lost.shape[-1] else lost.mT @ lost
    norms: Tensor = torch.linalg.matrix_norm(square).double().sqrt() / 2.0**24
    return norms


def times_columns(rows: Tensor, columns: Tensor) -> Tensor:
    """``rows @ columns`` of ``(batch, p, m)`` kept rows and ``(batch, m, r)`` columns, in double precision.

    Of one matrix that is there several times it is one product with the columns of all.
    """
    if is_shared(rows):
        batch, m, r = columns.shape
        together = times_columns(rows[:1], columns.permute(1, 0, 2).reshape(1, m, batch * r))[0]
        return together.view(-1, batch, r).permute(1, 0, 2)
    if rows.dtype == torch.float64 or rows[0].numel() <= _WIDENED or not rows.is_cpu:
        return rows.double() @ columns
    parts = torch.split(rows, _rows_at_once(rows), -2)
    if columns.shape[-1] > _FEW:
        return torch.cat([part.double() @ columns for part in parts], -2)
    turned = columns.mT.contiguous()
    return torch.cat([turned @ part.double().mT for part in parts], -1).mT


def columns_times(rows: Tensor, coordinates: Tensor) -> Tensor:
    """``rows.mT @ coordinates`` of ``(batch, p, m)`` kept rows and ``(batch, p, r)``, in double precision."""
    if is_shared(rows):
        batch, p, r = coordinates.shape
        together = columns_times(rows[:1], coordinates.permute(1, 0, 2).reshape(1, p, batch * r))[0]
        return together.view(-1, batch, r).permute(1, 0, 2)
    if rows.dtype == torch.float64 or rows[0].numel() <= _WIDENED or not rows.is_cpu:
        return rows.double().mT @ coordinates
    step = _rows_at_once(rows)
    turned = coordinates.mT.contiguous()
    total = coordinates.new_zeros(len(rows), coordinates.shape[-1], rows.shape[-1])
    for part, of_part in zip(torch.split(rows, step, -2), torch.split(turned, step, -1), strict=True):
        total.baddbmm_(of_part, part.double())
    return total.mT


def _rows_at_once(rows: Tensor) -> int:
    across = len(rows) * rows.shape[-1]  # numbers of one row of each matrix
    return max(1, min(max(_LEAST_ROWS, _WIDENED // across), _MOST_WIDENED // across))
