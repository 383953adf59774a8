"""How an update moves the leading singular triplets, and where in the base's frame it lies.

For W = W0 + D with k leading left and right singular vectors X, Z of W0 and Y, V of W (as columns):

    rotation, left      the angles whose cosines are the singular values of X^T Y
    rotation, right     the same of Z^T V
    drift               ||s(W) - s(W0)|| / ||s(W0)|| over the k leading singular values
    rho                 ||X^T D||^2 / ||D||^2 (OPLoRA, arXiv 2510.13003)
    off-principal       ||(I - X X^T) D (I - Z Z^T)||^2 / ||D||^2

All from triplets that an audit computed for its decisions, which needed few of them closely. Each number has a bound on
its error by :func:`space_error`; one whose bound is above the tolerance named below is NaN.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.low_rank import LowRank
from ..linalg.operators import Update
from ..linalg.products import Batched, rounding
from ..linalg.ritz import Triplets
from ..linalg.svd import CLUSTER_TOLERANCE, eigvalsh

# Largest errors: of an angle, as a sine; of a mean squared sine or a share, absolute.
ANGLE_ERROR, SHARE_ERROR = 0.05, 0.01
# Share of a drift that its error may be, and the drift below which it need not be told from zero.
_DRIFT_SHARE, _NO_DRIFT = 0.1, 1e-4


@dataclass(frozen=True)
class SpectralChange(Batched):
    """The change of each matrix of a batch; every field is ``(batch,)``, double precision, NaN where unknown."""

    rotation_left_angle: Tensor  # largest principal angle between the leading left spaces, in degrees
    rotation_left_sine2: Tensor  # mean squared sine of the principal angles
    rotation_right_angle: Tensor
    rotation_right_sine2: Tensor
    spectral_drift: Tensor
    rho_k: Tensor
    off_principal: Tensor


def spectral_change(
    base: Triplets, tuned: Triplets, update: Update, k: int, is_orthonormal: bool = False
) -> SpectralChange:
    """Measure the change from leading triplets ``(batch, k or more, ...)``; ``update`` is ``(batch, m, n)``.

    Where a side holds more triplets than k, the next one tells how far its space is apart from the rest.
    ``is_orthonormal`` says that the rows on the right of a low-rank update are.
    """
    if isinstance(update, LowRank) and not is_orthonormal:
        update = LowRank(*update.svd.factors())
    of_base, of_tuned = space_error(base, k, update.shape), space_error(tuned, k, update.shape)
    error = of_base + of_tuned
    left_angle, left_sine2 = _rotation(base.left, tuned.left, k, error)
    right_angle, right_sine2 = _rotation(base.right, tuned.right, k, error)
    drift = _drift(base, tuned, k, of_base, of_tuned)
    rho, off_principal = _shares(base, update, k, of_base)
    return SpectralChange(left_angle, left_sine2, right_angle, right_sine2, drift, rho, off_principal)


def space_error(triplets: Triplets, k: int, shape: torch.Size) -> Tensor:
    """Bound ``(batch,)`` on the sines of the angles between the k leading vectors' space and the true one.

    Their root sum of squares, on either side, is at most that of ``r_j / (s_j - s_{k+1})``, r_j being the residual of
    triplet j: what a Ritz vector has along the true vectors beyond the k-th solves a Sylvester equation with r_j on
    its other side (Davis and Kahan 1970; Wedin 1972). 1 where the matrix leaves the space open: s_k and s_{k+1} are
    one to rounding.
    """
    values, residuals = triplets.values.double(), triplets.residuals.double()
    first = values[..., 0]
    noise = rounding(*shape[-2:]) * torch.finfo(triplets.values.dtype).eps * first
    below = torch.zeros_like(first)
    if values.shape[-1] > k:
        # Ritz values lie below the true ones until they have converged.
        below = values[..., k] + residuals[..., k]
    gaps = values[..., :k] - below.unsqueeze(-1)
    error = ((residuals[..., :k] + noise.unsqueeze(-1)) / gaps).norm(dim=-1)
    return torch.where(gaps[..., -1] > CLUSTER_TOLERANCE * first, error, 1.0).clamp_max(1.0)


def _drift(base: Triplets, tuned: Triplets, k: int, of_base: Tensor, of_tuned: Tensor) -> Tensor:
    before, after = base.values[..., :k].double(), tuned.values[..., :k].double()
    size = before.norm(dim=-1)
    drift = (after - before).norm(dim=-1) / size
    # Values are wrong by the residuals times the angle at most, both of all k together.
    errors = [
        triplets.residuals[..., :k].double().norm(dim=-1) * angle
        for triplets, angle in ((base, of_base), (tuned, of_tuned))
    ]
    is_known = (errors[0] + errors[1]) / size <= _DRIFT_SHARE * drift + _NO_DRIFT
    return _where(is_known & (size > 0), drift)


def _rotation(before: Tensor, after: Tensor, k: int, error: Tensor) -> tuple[Tensor, Tensor]:
    first, second = before[..., :k, :].double(), after[..., :k, :].double()
    # The sines are the singular values of what the projection on one space leaves of the other: unlike those of the
    # cosines, they are right for small angles.
    left_over = second - (second @ first.mT) @ first
    # Vectors of values that are zero to rounding may be anything, and are left out.
    left_over = torch.where((error >= 1)[..., None, None], 0.0, left_over)
    sines = eigvalsh(left_over @ left_over.mT).clamp(0.0, 1.0)  # squared
    angle = torch.rad2deg(torch.asin(sines[..., -1].sqrt()))
    # With Y = Y' C + Y'' S for the computed Y' and its complement Y'', ||S|| <= e: ||X^T Y||^2 differs from
    # ||X^T Y'||^2 by 2 <Y'^T X X^T Y'', S> and squares of e; the first factor's norm is that of cos sin of the angles.
    mixed = (sines * (1 - sines)).sum(-1).sqrt()
    of_mean = 2 * (mixed * error + error.square()) / k
    return _where(error <= ANGLE_ERROR, angle), _where(of_mean <= SHARE_ERROR, sines.mean(-1))


def _shares(base: Triplets, update: Update, k: int, error: Tensor) -> tuple[Tensor, Tensor]:
    left, right = base.left[..., :k, :].double(), base.right[..., :k, :].double()
    if isinstance(update, LowRank):
        # D = P Q: norms of X^T D are those of X^T P, where the rows of Q are orthonormal.
        rows, other = left @ update.left, update.right @ right.mT
        columns, both = update.left @ other, rows @ other
        total = update.left.square().sum((-2, -1))
    else:
        dtype = update.dtype
        products = update.apply_transpose(left.to(dtype))  # X^T D
        rows, columns = products.double(), update.apply(right.to(dtype)).double()
        both = rows @ right.mT
        total = torch.linalg.vector_norm(update.matrix, dim=-1).double().square().sum(-1)
    # From ``||X^T D||^2``, ``||D Z||^2`` and ``||X^T D Z||^2`` over ``||D||^2``.
    rho, right_share, inner = (part.square().sum((-2, -1)) / total for part in (rows, columns, both))
    off = (1 - rho - right_share + inner).clamp(0.0, 1.0)
    # As above, with D D^T / ||D||^2 in the place of X X^T: its mixed block is at most the root of the shares' product.
    of_rho = 2 * (rho * (1 - rho)).clamp_min(0).sqrt() * error + error.square()
    beside = (rho - inner).clamp_min(0).sqrt() + (right_share - inner).clamp_min(0).sqrt()
    of_off = 2 * off.sqrt() * beside * error + 4 * error.square()
    is_there = total > 0
    return _where(is_there & (of_rho <= SHARE_ERROR), rho), _where(is_there & (of_off <= SHARE_ERROR), off)


def _where(is_known: Tensor, value: Tensor) -> Tensor:
    return torch.where(is_known, value.double(), torch.nan)
