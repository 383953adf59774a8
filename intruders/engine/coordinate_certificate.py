"""The certificate `coordinates`: low-rank updates of bases that are known whole, decided in the base's coordinates.

It needs no start at random, no probe and no product in single precision. What it leaves open, because singular values
are too close or a cosine is within the stated error of epsilon, is left to the other certificates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..linalg.coordinate_cosines import CoordinateCosines, coordinate_cosines
from ..linalg.coordinates import Coordinates
from ..linalg.leading_secular import LeadingVectors, far_below, leading_vectors
from ..linalg.low_rank import LowRank
from ..linalg.pair import Pair
from ..linalg.ritz import Triplets
from ..linalg.whole_base import WholeBase
from .decisions import Decisions
from .known_base import KnownBase
from .spectral_change import SpectralChange, change_in_coordinates
from .update_size import MeasuredUpdate

NAME = "coordinates"
# Bounds are compared with epsilon at this distance: what double precision may do to them.
_MARGIN = 1e-9
# The problem in coordinates has 2r unknowns a vector: beyond this share of the smaller side products with the matrix
# itself cost less.
_LARGEST_SHARE = 8
LARGEST_RANK = 64


def fits_coordinates(rank: int, k: int, shape: torch.Size) -> bool:
    """Return whether updates of that rank of matrices of that shape are decided in coordinates."""
    smaller = min(shape[-2:])
    return 0 < rank <= min(LARGEST_RANK, smaller // _LARGEST_SHARE) and 4 * (k + 4) <= smaller


def coordinates_of(batch: Pair, whole: WholeBase, k: int) -> Coordinates | None:
    """Return a batch in its bases' coordinates, or None where it is not decided there."""
    tuned = batch.tuned
    if not isinstance(tuned, LowRank) or not fits_coordinates(tuned.rank, k, batch.base.shape):
        return None
    return Coordinates.of(whole, tuned.svd())


def decide_in_coordinates(
    coordinates: Coordinates,
    whole: WholeBase,
    k: int,
    epsilon: float,
    base_count: int,
    update: MeasuredUpdate,
    known: KnownBase,
) -> tuple[Decisions, Tensor]:
    """Decide the k leading vectors of a batch, and return a mask ``(batch)`` of matrices left open.

    Both ends of a max cosine are the number itself; what rounding and the base's decomposition may have done to it
    counts in the decision.
    """
    leading = leading_vectors(coordinates.problem(), k, allowed=far_below(coordinates.off))
    cosines = coordinate_cosines(coordinates, leading, whole.off)
    intruder, resembles = decided(cosines, epsilon)
    decisions = Decisions(
        values=leading.values,
        lower=cosines.cosines,
        upper=cosines.cosines,
        intruder=intruder,
        certificate=[[NAME] * k for _ in range(len(intruder))],
        ambiguous=torch.zeros_like(intruder),
        base_values=whole.values[:, :base_count],
        similarity=leading.rows[:, :, :base_count].mT.abs(),
        change=_change(coordinates, leading, k),
        update=update,
        known=known,
    )
    return decisions, ~(intruder | resembles).all(-1)


def decided(cosines: CoordinateCosines, epsilon: float) -> tuple[Tensor, Tensor]:
    """Masks ``(batch, k)`` of intruders, and of vectors that resemble a base vector."""
    return cosines.upper < epsilon - _MARGIN, cosines.lower >= epsilon + _MARGIN


def _change(coordinates: Coordinates, leading: LeadingVectors, k: int) -> SpectralChange:
    """Measure how the leading triplets moved from their coordinates: inner products are the same there."""
    update = coordinates.update()
    p = coordinates.values.shape[-1]
    values = coordinates.values[:, : k + 1]
    none = torch.zeros_like(values)
    no_vectors = values.new_zeros(len(values), 0, 0)
    base = Triplets(values, no_vectors, no_vectors, none, none)
    products = update.apply_transpose(leading.rows)
    products[..., :p] += leading.rows[..., :p] * coordinates.values.unsqueeze(-2)
    right = products / leading.values.unsqueeze(-1).clamp_min(torch.finfo(values.dtype).tiny)
    after = torch.cat(
        [leading.values, leading.floor.clamp_max(torch.finfo(values.dtype).max).unsqueeze(-1)], -1
    )
    residuals = torch.nn.functional.pad(leading.residuals, (0, 1))
    tuned = Triplets(after, leading.rows, right, residuals, torch.zeros_like(after))
    return change_in_coordinates(base, tuned, update, k)
