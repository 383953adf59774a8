"""Scales at which projections are decomposed, and what vectors at one scale say about those nearby.

At a scale t near s, ``W W^T`` is ``V (diag(squares) + E) V^T`` in the vectors V at s, with ``E = V^T ((t - s) cross +
(t^2 - s^2) update) V``. To first order a vector j takes ``c_lj = E_lj / (e_j - e_l)`` of vector l, with ``e_l =
squares_l + E_ll``; what that leaves out is of the size of ``sum_l c_lj^2``. That costs a fraction of a decomposition,
and is mostly enough to see that no vector turns away from the base's within a few steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.small_cores import eigh
from .projection import Projection

# Vectors beyond the k leading ones that are followed.
_BEYOND = 4
# Largest squared length of what a vector takes of others, and the share of it that its cosine may be wrong by.
_MOST_TAKEN, _WRONG = 0.1, 3.0
# The same of a vector that is near to a base vector: its cosine is above 0.95.
_MOST_TAKEN_OF_BASE = 0.05


@dataclass(frozen=True)
class Point:
    """A scale of a projection, and what it is decomposed to there."""

    scale: float
    cosine: float  # the least of the k cosines
    squares: Tensor  # (a,), descending
    vectors: Tensor  # (a, a), as columns


@dataclass(frozen=True)
class Look:
    """Asks for the points at some scales, with cosines with all Ritz vectors where it is strict.

    One that has not converged stands for several base vectors, so that these cosines are rather too large, where those
    with the leading vectors alone are rather too small.
    """

    scales: Sequence[float]
    is_strict: bool


@dataclass(frozen=True)
class Between:
    """Asks whether no vector turns away from the base's at the scales that part the way between two points."""

    low: Point
    high: Point
    parts: int

    def scales(self) -> list[float]:
        """In ascending order, without the ends."""
        ratio = self.high.scale / self.low.scale
        return [self.low.scale * ratio ** (part / self.parts) for part in range(1, self.parts)]


@dataclass(frozen=True)
class FromBase:
    """Asks at which of some scales the k leading vectors are certainly near to those at the scale 0."""

    scales: Sequence[float]


def points_at(projections: Sequence[Projection], asked: Sequence[Look]) -> list[list[Point]]:
    """Decompose each projection of a group at each of its scales; all are strict, or none is."""
    parts = []
    for one, look in zip(projections, asked, strict=True):
        s = torch.tensor(look.scales, dtype=one.base.dtype, device=one.base.device)[:, None, None]
        parts.append(one.base + s * one.cross + s * s * one.update)
    first = projections[0]
    squares, vectors = eigh(torch.cat(parts))
    squares, vectors = squares.flip(-1), vectors.flip(-1)
    shown = vectors.shape[-1] if asked[0].is_strict else first.shown
    least = iter(vectors[:, :shown, : first.k].abs().amax(-2).amin(-1).tolist())
    each = zip(squares, vectors, strict=True)
    return [[Point(scale, next(least), *next(each)) for scale in look.scales] for look in asked]


def are_clear(projections: Sequence[Projection], asked: Sequence[Between]) -> list[bool]:
    """Tell of each projection of a group whether certainly no vector turns away from the base's at the scales between.

    All have the same number of parts. Each end speaks for the scales nearer to it, and both for one in the middle.
    """
    ends = [point for between in asked for point in (between.low, between.high)]
    half = asked[0].parts // 2
    there = [part for between in asked for part in (between.scales()[:half], between.scales()[-half:])]
    clear = _stay(
        [one for one in projections for _ in range(2)],
        torch.stack([point.squares for point in ends]),
        torch.stack([point.vectors for point in ends]),
        [point.scale for point in ends],
        there,
    )
    answers: list[bool] = clear.all(-1).view(-1, 2).all(-1).tolist()
    return answers


def are_as_base(projections: Sequence[Projection], asked: Sequence[FromBase]) -> list[list[bool]]:
    """Tell of each projection of a group at which of its scales the k leading vectors are certainly near to those at 0.

    With H the k leading rows and columns of ``W W^T``, R what is beside them and B the rest, B has no eigenvalue above
    H's diagonal where a Cholesky factorization says so, and a vector takes ``(t - B)^-1 R`` of the rest.
    """
    first = projections[0]
    base, cross, update = (
        torch.stack(parts).unsqueeze(1)
        for parts in zip(*((one.base, one.cross, one.update) for one in projections), strict=True)
    )
    t = torch.tensor([question.scales for question in asked], dtype=base.dtype, device=base.device)[
        ..., None, None
    ]
    matrices = base + t * cross + t * t * update  # (g, t, a, a)
    k = first.k
    leading, beside, rest = matrices[..., :k, :k], matrices[..., k:, :k], matrices[..., k:, k:]
    values = leading.diagonal(dim1=-2, dim2=-1)
    number = values.amin(-1)[..., None, None]
    identity = torch.eye(rest.shape[-1], dtype=base.dtype, device=base.device)
    factor, failed = torch.linalg.cholesky_ex(number * identity - rest)
    of_rest = torch.cholesky_solve(beside, factor)
    leading = leading + beside.mT @ of_rest
    values = leading.diagonal(dim1=-2, dim2=-1)
    gaps = values.unsqueeze(-2) - values.unsqueeze(-1)
    gaps.diagonal(dim1=-2, dim2=-1).fill_(torch.inf)
    taken = (leading / gaps).square().sum(-2) + of_rest.square().sum(-2)  # (g, t, k)
    answers: list[list[bool]] = ((failed == 0) & (taken.amax(-1) <= _MOST_TAKEN_OF_BASE)).tolist()
    return answers


def _stay(
    projections: Sequence[Projection],
    squares: Tensor,
    vectors: Tensor,
    begin: Sequence[float],
    there: Sequence[Sequence[float]],
) -> Tensor:
    """Whether all cosines are certainly above epsilon ``(g, t)``.

    ``squares`` ``(g, a)`` and ``vectors`` ``(g, a, a)`` are those of each projection at the scale where it begins.
    """
    k, shown, above = projections[0].k, projections[0].shown, projections[0].epsilon
    largest = squares[:, :1].clamp_min(torch.finfo(squares.dtype).tiny)
    s = torch.tensor(begin, dtype=squares.dtype, device=squares.device)[:, None]
    t = torch.tensor(there, dtype=squares.dtype, device=squares.device)  # (g, t)
    changes = [
        (t - s, torch.stack([one.cross for one in projections])),
        (t * t - s * s, torch.stack([one.update for one in projections])),
    ]
    a = squares.shape[-1]
    some = min(k + _BEYOND, a)
    squares, vectors = (squares / largest).float(), vectors.float()
    moved = squares.unsqueeze(1)  # (g, 1 or t, a)
    mixed = squares.new_zeros(*t.shape, a, some)
    for size, change in changes:
        product = (change / largest.unsqueeze(-1)).float() @ vectors
        size = size.float()
        moved = moved + size.unsqueeze(-1) * (vectors * product).sum(-2).unsqueeze(1)
        mixed += size[..., None, None] * (vectors.mT @ product[..., :some]).unsqueeze(1)
    mixed.diagonal(dim1=-2, dim2=-1).zero_()
    gaps = moved[..., None, :some] - moved.unsqueeze(-1)  # (g, t, a, some)
    gaps.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    taken = mixed / gaps
    squared = taken.square().sum(-2)  # (g, t, some)
    moved = torch.cat([moved[..., :some] + (taken * mixed).sum(-2), moved[..., some:]], -1)
    turned = vectors[:, None, :shown, :some] + vectors[:, None, :shown] @ taken
    cosines = turned.abs().amax(-2) / (1 + squared).sqrt()
    stays = (cosines - _WRONG * squared >= above) & (squared <= _MOST_TAKEN)
    beyond = torch.nn.functional.pad(moved[..., k:], (0, 1), value=-torch.inf)
    return stays[..., :k].all(-1) & (moved[..., :k].amin(-1) > beyond.amax(-1))
