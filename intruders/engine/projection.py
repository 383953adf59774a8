"""Tuned matrices on the few directions that decide about intruders, as functions of the update's scale."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.full_precision import full_precision
from ..linalg.krylov import BLOCK
from ..linalg.low_rank import LowRank
from ..linalg.operators import Dense, Update
from ..linalg.orthonormal import orthonormalize
from ..linalg.pair import Pair
from ..linalg.ritz import Triplets
from ..linalg.spiked_threshold import Spectrum, sampled_spectra, spiked_threshold
from ..linalg.svd import eigh, leading_count
from .decisions import measure_update
from .known_base import KnownBase

# Leading directions of the update that are followed, and rows that they and their powers may take.
_FOLLOWED = 8
_FURTHER_ROWS = 10
_LEAST_BLOCKS = 2
# Numbers that copies of the cosines with the base vectors not shown may have at once.
_AT_ONCE = 2**22
# Share of an update's squared norm in directions that are not followed, up to which they change nothing.
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class Projection:
    """``W W^T`` of ``W = W0 + s D`` on a subspace: ``base + s cross + s^2 update``.

    The basis is that of the Ritz vectors of W0, so that ``base`` is diagonal and coordinates are cosines with them.
    """

    base: Tensor  # (a, a), double
    cross: Tensor  # (a, a)
    update: Tensor  # (a, a)
    shown: int  # this many leading Ritz vectors count as base vectors x_i
    others: Tensor | None  # (a - shown, p - shown): cosines of the other Ritz vectors with the other x_i
    k: int
    epsilon: float
    predicted: float  # critical scale by the spiked threshold; infinite where it names none
    is_complete: bool  # the directions that are followed are all of the update, or nearly
    centre: float  # where to search: the prediction, or where the update is as large as the base

    @classmethod
    def of(
        cls,
        base: Tensor,
        along: Tensor,
        update: Tensor,
        spectrum: Spectrum,
        largest: tuple[float, float],
        left_out: Tensor,
        shown: int,
        k: int,
        epsilon: float,
        others: Tensor | None = None,
    ) -> "Projection":
        """Build one from the spectrum of W0 and ``along`` ``(a, a)``, W0 D^T, and predict where the search begins.

        ``largest`` are the largest singular values of W0 and D, and ``left_out`` is the share of D's squared norm in
        directions that are not followed.
        """
        of_base, of_update = largest
        predicted = spiked_threshold(spectrum, k, epsilon) / of_update if of_update > 0 else math.inf
        centre = of_base / of_update if min(of_base, of_update) > 0 else 1.0
        if 0 < predicted < math.inf:
            centre = predicted
        is_complete = bool(left_out <= _NEGLIGIBLE)
        return cls(base, along + along.mT, update, shown, others, k, epsilon, predicted, is_complete, centre)


class ProjectionGroup:
    """Projections of one size, whose cosines are computed together: decompositions of many small matrices cost far less
    in one call than one by one.
    """

    def __init__(self, projections: Sequence[Projection]) -> None:
        self.shown, self.k = projections[0].shown, projections[0].k
        self.base = torch.stack([each.base for each in projections])
        self.cross = torch.stack([each.cross for each in projections])
        self.update = torch.stack([each.update for each in projections])
        others = [each.others.mT for each in projections if each.others is not None]
        self.others = torch.stack(others) if others else None  # (batch, p - shown, a - shown)

    def cosines(self, index: Tensor, scales: Tensor, is_strict: bool = False) -> Tensor:
        """Largest cosines ``(g, k)`` of the k leading vectors of projections ``index`` ``(g)``, at a scale each.

        Without ``others``, ``is_strict`` takes them with all Ritz vectors. One that has not converged stands for
        several base vectors, so that these cosines are rather too large, where those with the vectors shown alone are
        rather too small.
        """
        _, vectors = eigh(at_scales(self.base[index], self.cross[index], self.update[index], scales))
        leading = vectors[..., -self.k :]
        counted = leading if is_strict and self.others is None else leading[:, : self.shown]
        largest = counted.abs().amax(-2)
        if self.others is None:
            return largest
        beyond = leading[:, self.shown :].to(self.others)
        step = max(1, _AT_ONCE // max(1, self.others[0].numel()))
        parts = zip(torch.split(index, step), torch.split(beyond, step), strict=True)
        of_others = torch.cat([(self.others[own] @ some).abs().amax(-2) for own, some in parts])
        return torch.maximum(largest, of_others.to(largest))


def at_scales(base: Tensor, cross: Tensor, update: Tensor, scales: Tensor) -> Tensor:
    """``base + s cross + s^2 update`` of ``(a, a)`` or ``(g, a, a)`` parts, for every scale ``(g)``."""
    s = scales.to(base)[:, None, None]
    return base + s * cross + s * s * update


@full_precision()
def project(batch: Pair, base_known: KnownBase, k: int, epsilon: float) -> list[Projection]:
    """Project a batch of matrices, from what an audit computed of their bases.

    The subspace holds the leading vectors of W0, the leading directions u of D, W0 v, and some powers of W0 W0^T on
    both: a vector that D brings into the lead is ``(z^2 - W0 W0^T)^-1 (z a u + b W0 v)``, summed over its directions.
    """
    _, m, n = batch.base.shape
    k = min(k, m, n)
    operator = Dense(batch.base)
    update = measure_update(batch, k)
    difference = batch.update
    turned, rows = _times_update(difference, update.left[:, :_FOLLOWED])
    along = turned @ (rows @ update.right[:, :_FOLLOWED].mT.double())
    d, left_out = followed_count(along.diagonal(dim1=-2, dim2=-1), update.frobenius.double(), _FOLLOWED)
    shown = leading_count(k, m, n)
    known_rows = base_known.left(batch.base.shape)[:, : shown + BLOCK]
    left = _subspace(operator, known_rows, update.left[:, :d], update.right[:, :d])
    products = operator.apply_transpose(left).double()  # (batch, a, n): left W0
    change, right = _times_update(difference, left)  # left D = change @ right
    squares, vectors = eigh(products @ products.mT)
    turn = vectors.mT.flip(-2)  # (batch, a, a): rows are the Ritz vectors
    products, change = turn @ products, turn @ change
    mixed = (products @ right.mT) @ change.mT
    own = change @ (right @ right.mT) @ change.mT
    values = squares.flip(-1)[:, :shown].clamp_min(0).sqrt()
    # What is left of a value below the rounding of the products has no direction.
    known = values > torch.finfo(operator.dtype).eps * values[:, :1]
    of_right = torch.where(known, 1 / values, 0.0).unsqueeze(-1) * products[:, :shown]
    unknown = torch.zeros_like(values)
    parts = (values, turn[:, :shown] @ left.double(), of_right, unknown, unknown)
    spectra = sampled_spectra(operator, Triplets(*(part.to(operator.dtype) for part in parts)))
    base = products @ products.mT
    largest = zip(values[:, 0].tolist(), update.spectral.tolist(), strict=True)
    return [
        Projection.of(base[i], mixed[i], own[i], spectra[i], both, left_out[i], shown, k, epsilon)
        for i, both in enumerate(largest)
    ]


def _subspace(operator: Dense, leading: Tensor, update_left: Tensor, update_right: Tensor) -> Tensor:
    """Orthonormal rows ``(batch, a, m)``: leading left vectors of W0, and Krylov blocks from the update's."""
    rows = leading
    block = torch.cat([update_left, operator.apply(update_right)], -2)
    for _ in range(max(_LEAST_BLOCKS, _FURTHER_ROWS // block.shape[-2])):
        block = block[:, : rows.shape[-1] - rows.shape[-2]]
        if block.shape[-2] == 0:
            break
        block = orthonormalize(block, rows)
        rows = torch.cat([rows, block], -2)
        block = operator.apply(operator.apply_transpose(block))
    return rows


def followed_count(values: Tensor, frobenius: Tensor, most: int) -> tuple[int, Tensor]:
    """Choose how many directions of updates to follow, up to ``most``; also return the shares of squared norm left out.

    ``values`` ``(batch, d)`` are what the updates are along their leading directions, ``frobenius`` ``(batch)`` their
    norms.
    """
    total = frobenius.square().clamp_min(torch.finfo(torch.float64).tiny)
    left_out = 1 - values[:, :most].square().cumsum(-1) / total.unsqueeze(-1)  # (batch, d)
    enough = (left_out <= _NEGLIGIBLE).all(0).nonzero()
    count = int(enough[0]) + 1 if len(enough) > 0 else left_out.shape[-1]
    return count, left_out[:, count - 1]


def _times_update(difference: Update, rows: Tensor) -> tuple[Tensor, Tensor]:
    """``rows @ D`` as two factors, in double precision."""
    if isinstance(difference, LowRank):
        return (rows @ difference.left).double(), difference.right.double()
    whole = (rows @ difference.matrix).double()
    return torch.eye(rows.shape[-2], dtype=whole.dtype, device=whole.device).expand(len(rows), -1, -1), whole
