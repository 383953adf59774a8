"""The critical scale as a root, where the base is known whole: an update's scale only multiplies its coordinates.

The search starts from a projection, which takes no product with anything as large as the matrices here.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..linalg.coordinates import Coordinates, SecularProblem
from ..linalg.full_precision import full_precision
from ..linalg.products import Batched
from ..linalg.secular import (
    GUARDS,
    CoordinateCosines,
    coordinate_cosines,
    deciding,
    leading_vectors,
    passages,
)
from ..linalg.spiked_threshold import Spectrum
from ..linalg.svd import eigh, leading_count
from ..linalg.whole_base import WholeBase
from .certificates import decided
from .projection import Projection, at_scales, followed_count

# The least distance of two squared values that is divided by, as a share of the largest.
_APART = 1e-12
# Directions of the update that are followed at most.
_FOLLOWED = 24
# Nodes that stand for the singular values beyond the leading ones in a prediction.
_NODES = 64


@dataclass(frozen=True)
class RitzVectors(Batched):
    """The vectors of a batch's projections, in coordinates of the whole bases."""

    base: Tensor  # (batch, b, b): as in Projection
    cross: Tensor
    update: Tensor
    further: Tensor  # (batch, c, a): the basis beyond its first coordinates, which are the bases'

    def at(self, scales: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The ``count`` leading ones at a scale each: eigenvalues ``(batch, count)``, vectors ``(batch, count, a)``."""
        squares, vectors = eigh(at_scales(self.base, self.cross, self.update, scales))
        vectors = vectors.mT.flip(-2)[:, :count]
        shown = self.base.shape[-1] - self.further.shape[-2]
        rows = vectors[..., shown:] @ self.further
        rows[..., :shown] += vectors[..., :shown]
        return squares.flip(-1)[:, :count], rows


def project_in_coordinates(
    coordinates: Coordinates, whole: WholeBase, k: int, epsilon: float
) -> tuple[list[Projection], RitzVectors]:
    """Project a batch of tuned matrices on the leading base vectors, and on what the updates bring in."""
    _, m, n = whole.shape
    shown = leading_count(k, m, n)
    spectral = coordinates.left.square().sum(-2).sqrt()  # (batch, r): the update's singular values
    count, left_out = followed_count(spectral, spectral.norm(dim=-1), _FOLLOWED)
    left, through = (part[..., :count] for part in (coordinates.left, coordinates.through()))
    poles = coordinates.poles()
    # A vector of W with the value z is (z^2 - W0 W0^T)^-1 of what these span. It comes in at the k-th value.
    apart = ((poles[:, k - 1 : k] - poles) / poles[:, :1]).nan_to_num(0.0).clamp_min(_APART)
    nearby = torch.cat([left, through], -1) / apart.unsqueeze(-1)
    # Ritz vectors (batch, c, a) of the base, and their values, in what these have beyond the rows that are shown.
    rest = torch.linalg.qr(nearby[:, shown:]).Q.mT
    squares, vectors = eigh((rest * poles[:, None, shown:]) @ rest.mT)
    further = torch.nn.functional.pad(vectors.mT.flip(-2) @ rest, (shown, 0))
    own = squares.flip(-1)
    base = torch.diag_embed(torch.cat([poles[:, :shown], own], -1))
    along = torch.cat([left[:, :shown], further @ left], -2)  # (batch, b, d): D's directions on the basis
    mixed = torch.cat([through[:, :shown], further @ through], -2) @ along.mT
    own = along @ along.mT
    spectra = [Spectrum.of_values(values, (m, n), shown).grouped(_NODES) for values in coordinates.values]
    largest = zip(coordinates.values[:, 0].tolist(), spectral[:, 0].tolist(), strict=True)
    # They are kept for all matrices of a model, and a step of the search needs no more than single precision of them.
    others = further[..., shown : coordinates.values.shape[-1]].float()
    projections = [
        Projection.of(base[i], mixed[i], own[i], spectra[i], both, left_out[i], shown, k, epsilon, others[i])
        for i, both in enumerate(largest)
    ]
    return projections, RitzVectors(base, mixed + mixed.mT, own, further)


# Relative error of a scale.
TOLERANCE = 1e-6
# How far from where a search begins the first two scales lie, as a share, and how often that is doubled.
_FIRST_STEP, _DOUBLINGS = 1e-3, 7
_MOST_ROUNDS = 60
# How near to epsilon a max cosine is at its root.
_AT_ROOT = 1e-9


@dataclass(frozen=True)
class Followed(Batched):
    """Matrices of one shape in their bases' coordinates, whose updates are followed over their scales."""

    coordinates: Coordinates
    off: Tensor  # (batch): the bases' own errors
    near: RitzVectors

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def kind(self) -> tuple[torch.Size, ...]:
        """What groups that can be joined have in common."""
        return tuple(part.shape[1:] for part in self.parts)


@dataclass
class _LeastCosine:
    """The least of k max cosines of each matrix, less epsilon, at a scale of its own; NaN where it is open.

    No product with anything as large as the matrices. The vectors of one scale are where those of the next begin.
    """

    followed: Followed
    problem: SecularProblem
    k: int
    epsilon: float
    rows: Tensor  # (batch, k + GUARDS or more, a): orthonormal, vectors at the last scales, or near them

    def at(self, index: Tensor, scales: Tensor) -> Tensor:
        cosines, self.rows[index] = self._cosines(index, scales, 0.0)
        is_known = cosines.upper - cosines.lower < 1.0
        return torch.where(is_known, cosines.cosines, torch.nan).amin(-1) - self.epsilon

    def is_alone(self, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Of matrices with a vector whose max cosine is epsilon at their scales: whether all others' are above it, from
        ``TOLERANCE`` below to as much above; and whether one of them is below it.
        """
        everything = torch.arange(len(scales), device=scales.device)
        cosines, self.rows = self._cosines(everything, scales, TOLERANCE)
        distances = (cosines.cosines - self.epsilon).abs()
        nearest = torch.zeros_like(distances, dtype=torch.bool).scatter(
            -1, distances.argmin(-1, keepdim=True), True
        )
        is_above = ((cosines.lower >= self.epsilon) | nearest).all(-1)
        is_it = (distances.amin(-1) <= _AT_ROOT) & (cosines.upper - cosines.lower < 1.0).all(-1)
        return is_it & is_above, ((cosines.upper < self.epsilon) & ~nearest).any(-1)

    def _cosines(self, index: Tensor, scales: Tensor, share: float) -> tuple[CoordinateCosines, Tensor]:
        """Bounds on the cosines at scales, and up to a share of them beside these; and the vectors there."""
        rows = self.rows[index]
        allowed = deciding(self.epsilon, self.followed.coordinates.values.shape[-1])
        leading = leading_vectors(self.problem.select(index).at(scales), self.k, rows, allowed)
        off = self.followed.off[index]
        coordinates = at_scale(self.followed.coordinates.select(index), off, scales, share)
        cosines = coordinate_cosines(coordinates, leading, off)
        return cosines, torch.cat([leading.rows, leading.further], -2)


@full_precision()
def count_at(followed: Followed, k: int, epsilon: float, scale: float) -> tuple[Tensor, Tensor]:
    """Count the intruders of each matrix with its update at a scale; also return which are left open."""
    coordinates, off = followed.coordinates, followed.off
    scales = torch.full_like(off, scale)
    allowed = deciding(epsilon, coordinates.values.shape[-1])
    leading = leading_vectors(coordinates.problem().at(scales), k, allowed=allowed)
    cosines = coordinate_cosines(at_scale(coordinates, off, scales), leading, off)
    intruder, resembles = decided(cosines, epsilon)
    return intruder.sum(-1), ~(intruder | resembles).all(-1)


def at_scale(coordinates: Coordinates, off: Tensor, scales: Tensor, share: float = 0.0) -> Coordinates:
    """Coordinates whose ``off`` holds at scales ``(batch)``, and up to a share of them beside these.

    What rounding of the base leaves of the update grows with its scale.
    """
    of_update = coordinates.off - off + share * coordinates.left.flatten(1).norm(dim=-1)
    return replace(coordinates, off=off + scales * of_update)


@full_precision()
def settled_scales(
    followed: Followed, k: int, epsilon: float, scales: list[float]
) -> tuple[list[float], list[bool]]:
    """Find first scales with an intruder to ``TOLERANCE``, from ``scales`` that are right to a few percent.

    One whose neighborhood has no such root, or that cannot be known in coordinates, is given back as it is, and marked
    as not settled.
    """
    start = torch.tensor(scales, dtype=torch.float64, device=followed.off.device)
    is_settled = torch.zeros_like(start, dtype=torch.bool)
    index = (start.isfinite() & (start > 0)).nonzero().squeeze(-1)
    if len(index) > 0:
        roots, is_root = _roots(followed.select(index), k, epsilon, start[index])
        is_settled[index] = is_root
        start[index] = torch.where(is_root, roots, start[index])
    return start.tolist(), is_settled.tolist()


def _roots(followed: Followed, k: int, epsilon: float, start: Tensor) -> tuple[Tensor, Tensor]:
    """Scales near ``start`` at which the least cosine passes epsilon, and where there is one.

    By Newton's method, or else by brackets.
    """
    problem, count = followed.coordinates.problem(), k + GUARDS
    # Newton's method follows the vector that has the least of the k cosines on the projection.
    squares, rows = followed.near.at(start, count)
    inside = followed.coordinates.values.shape[-1]
    index = rows[:, :k, :inside].abs().amax(-1).argmin(-1, keepdim=True)
    row = rows.gather(-2, index.unsqueeze(-1).expand(-1, 1, rows.shape[-1])).squeeze(-2)
    passage = passages(problem, start, squares.gather(-1, index).squeeze(-1), row, inside, epsilon)
    is_near = (passage.scales / start - 1).abs() <= _FIRST_STEP * 2**_DOUBLINGS
    roots = torch.where(is_near, passage.scales, start)
    rows = followed.near.at(roots, count)[1]
    nearest = torch.where(is_near[:, None, None], passage.rows.unsqueeze(-2), rows[:, :1])
    rows = torch.linalg.qr(torch.cat([nearest, rows], -2).mT).Q.mT
    least = _LeastCosine(followed, problem, k, epsilon, rows)
    is_first, has_others = least.is_alone(roots)
    is_root = is_near & passage.falls & is_first
    roots = roots * (1 + 0.5 * TOLERANCE)
    # From a start without an intruder another window may lie on the way to a root beyond it.
    index = (~is_root | (roots > start)).nonzero().squeeze(-1)
    if len(index) > 0:
        # Before a root at which the coordinate rises there is an intruder, and so there is at one of others.
        is_window = is_near & ~is_root & (has_others | ~passage.falls) & (roots < start)
        begin = torch.where(is_window, roots * (1 - TOLERANCE), start)[index]
        some, of_some = followed.select(index), problem.select(index)
        rest = _LeastCosine(some, of_some, k, epsilon, least.rows[index])
        brackets = _Brackets.about(rest, begin)
        others = brackets.narrowed(rest)
        others = torch.where(brackets.is_settled, others, torch.inf)
        roots[index] = torch.minimum(torch.where(is_root[index], roots[index], torch.inf), others)
        is_root[index] = roots[index].isfinite()
    return roots, is_root


@dataclass
class _Brackets:
    """Scales ``(batch)`` about each root, without and with an intruder, and the least cosine minus epsilon there."""

    low: Tensor
    high: Tensor
    at_low: Tensor
    at_high: Tensor
    is_settled: Tensor  # bool: a root lies between the two

    @classmethod
    def about(cls, least: _LeastCosine, start: Tensor) -> "_Brackets":
        """Go from ``start`` down where it has an intruder, and up where it has none, in steps that double."""
        value = least.at(torch.arange(len(start), device=start.device), start)
        now = cls(start.clone(), start.clone(), value.clone(), value.clone(), torch.zeros_like(value).bool())
        goes_down = value < 0
        remaining = value.isfinite().nonzero().squeeze(-1)
        for doubling in range(_DOUBLINGS):
            if len(remaining) == 0:
                break
            down = goes_down[remaining]
            share = 1 + _FIRST_STEP * 2**doubling
            scale = torch.where(down, start[remaining] / share, start[remaining] * share)
            value = least.at(remaining, scale)
            is_other = torch.where(down, value >= 0, value < 0)
            # The end that stays on its side comes along, so that the first change of sign is what is kept.
            to_low = down == is_other
            for end, at_end, taken in (
                (now.low, now.at_low, to_low),
                (now.high, now.at_high, ~to_low),
            ):
                end[remaining] = torch.where(taken, scale, end[remaining])
                at_end[remaining] = torch.where(taken, value, at_end[remaining])
            now.is_settled[remaining] = is_other
            remaining = remaining[~is_other & value.isfinite()]
        return now

    def narrowed(self, least: _LeastCosine) -> Tensor:
        """Narrow each to ``TOLERANCE``, and return the ends with an intruder."""
        is_stuck = torch.zeros_like(self.is_settled)
        for _ in range(_MOST_ROUNDS):
            index = (self.is_settled & (self.high - self.low > TOLERANCE * self.low)).nonzero().squeeze(-1)
            if len(index) == 0:
                break
            low, high, at_low, at_high = (
                end[index] for end in (self.low, self.high, self.at_low, self.at_high)
            )
            share = at_low / (at_low - at_high)
            # A little beyond where the secant puts the root, toward the farther end, so that this end comes near. The
            # middle where that did not halve the bracket: the least cosine jumps where another vector comes in.
            aside = torch.where(share < 0.5, 0.4, -0.4) * TOLERANCE * low
            scale = torch.where(is_stuck[index], 0.5 * (low + high), low + share * (high - low) + aside)
            margin = 0.1 * TOLERANCE * low
            scale = torch.minimum(torch.maximum(scale, low + margin), high - margin)
            value = least.at(index, scale)
            self.is_settled[index] &= value.isfinite()
            is_there = value < 0
            self.low[index] = torch.where(is_there, low, scale)
            self.at_low[index] = torch.where(is_there, at_low, value)
            self.high[index] = torch.where(is_there, scale, high)
            self.at_high[index] = torch.where(is_there, value, at_high)
            is_stuck[index] = self.high[index] - self.low[index] > 0.5 * (high - low)
        return self.high
