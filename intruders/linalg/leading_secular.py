"""The leading eigenvectors of a secular problem, with the proof that they are the leading ones.

Shifted solves at the Ritz values, and a Rayleigh-Ritz step on what they give: Rayleigh quotient iteration of several
vectors that stay orthogonal, which converges cubically. Up to two rounds of Davidson's method (1975), which cost less,
come first. Then k orthonormal rows with small residuals stand for k eigenvalues that close to their Ritz values (Kahan;
Parlett 1998, section 11.5). One count of the eigenvalues above a number below all of these that says k proves that they
are the k largest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .batched import Batched
from .coordinates import SecularProblem
from .small_cores import eigh

# Base vectors that the search starts from beyond k, and vectors that are followed beyond k.
_FURTHER, GUARDS = 8, 4
_MOST_ROUNDS = 8
# Rounds of Davidson's method (residuals over the distances of the poles) before the solves, while a residual is above
# this share of the largest eigenvalue: they cost a third of a solve.
_MOST_CHEAP, _NEAR = 2, 1e-3
# What one of these rounds divides residuals by, mostly.
_CHEAPLY = 20
# Residuals of converged vectors, as a share of the largest eigenvalue, and as one of what the matrix is wrong by.
_CONVERGED, _SHARE_OF_OFF = 1e-11, 0.05
# Of a vector whose largest coordinate is that far from epsilon, the angle may be this share of the distance.
_CLEAR, _SHARE_OF_DISTANCE, _SHARE_OF_LEAST = 0.02, 0.2, 0.03
# Shares of the largest singular value below the k-th one at which eigenvalues are counted. The nearest is beyond what
# counts as one cluster.
_BELOW = (4e-6, 3e-5, 3e-4, 3e-3, 3e-2)
# Rounds of search for vectors that a count says are missing.
_MOST_SEARCHES = 3


@dataclass(frozen=True)
class LeadingVectors(Batched):
    """The leading eigenvectors of a batch of secular problems; eigenvalues are squares of the values here."""

    values: Tensor  # (batch, k), double, descending
    rows: Tensor  # (batch, k, a), orthonormal
    further: Tensor  # (batch, g, a): the rows that were followed beyond them
    residuals: Tensor  # (batch, k): of singular triplets, ||M v - s z|| with M^T z = s v
    floor: Tensor  # (batch): no further value is above this; only where proved
    is_proved: Tensor  # (batch), bool: these are the k leading ones


# Residuals ``(batch, k)`` that vectors ``(batch, count, a)`` with eigenvalues ``(batch, count)`` may keep.
Allowed = Callable[[Tensor, Tensor], Tensor]


def far_below(off: Tensor) -> Allowed:
    """Allow residuals far below what the singular values of the problems ``(batch)`` may be wrong by anyway."""

    def allowed(squares: Tensor, rows: Tensor) -> Tensor:
        k = rows.shape[-2] - GUARDS
        return _SHARE_OF_OFF * off.unsqueeze(-1) * squares[:, :k].clamp_min(0.0).sqrt()

    return allowed


def deciding(epsilon: float, inside: int) -> Allowed:
    """Allow angles far below the distance of a vector's largest coordinate, of the first ``inside``, from epsilon."""

    def allowed(squares: Tensor, rows: Tensor) -> Tensor:
        k = rows.shape[-2] - GUARDS
        distances = (rows[:, :k, :inside].abs().amax(-1) - epsilon).abs()
        steps = squares[:, :k] - squares[:, 1 : k + 1]
        gaps = torch.minimum(steps, torch.nn.functional.pad(steps[:, :-1], (1, 0), value=torch.inf))
        # What proves them needs the intervals of all values and their residuals to be apart.
        most = torch.minimum(
            _SHARE_OF_DISTANCE * distances * gaps, _SHARE_OF_LEAST * steps.amin(-1, keepdim=True)
        )
        return torch.where(distances > _CLEAR, most, 0.0)

    return allowed


def leading_vectors(
    problem: SecularProblem, k: int, start: Tensor | None = None, allowed: Allowed | None = None
) -> LeadingVectors:
    """Compute the ``k`` leading eigenvectors of every problem of a batch; ``is_proved`` marks the complete ones.

    ``start`` has orthonormal rows ``(batch, k + GUARDS or more, a)`` near to them. Residuals are 1e-11 of the largest
    eigenvalue or less, or what is ``allowed``.
    """
    count = min(k + GUARDS, problem.poles.shape[-1])
    if start is None:
        squares, rows = _start(problem, k + _FURTHER, count)
    else:
        squares, rows = _ritz(problem, start, count)
    extra: Tensor | None = None
    for search in range(_MOST_SEARCHES):
        if extra is not None:
            rows = torch.linalg.qr(torch.cat([rows, extra], -2)[:, : problem.poles.shape[-1]].mT).Q.mT
            squares, rows = _ritz(problem, rows, count)
        values, rows, residuals = _iterated(problem, squares, rows, k, allowed)
        floor, is_proved, missing = _proved(problem, values, residuals, k)
        if allowed is not None and not bool(is_proved.all()):
            # Looser vectors may not be enough for the count.
            values, rows, residuals = _iterated(problem, values.square(), rows, k, None)
            floor, is_proved, missing = _proved(problem, values, residuals, k)
        if not bool(missing.any()) or search == _MOST_SEARCHES - 1:
            break
        # Directions that the start had nothing of: a block Krylov step, and then four times as many base vectors as the
        # search began with.
        if search == 0:
            extra = torch.cat([problem.across, problem.apply(problem.across)], -2)
        else:
            extra = _leading_unit_vectors(problem, 4 * (k + _FURTHER))
        extra = extra / extra.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(extra.dtype).tiny)
    return LeadingVectors(values[:, :k], rows[:, :k], rows[:, k:], residuals[:, :k], floor, is_proved)


def _leading_unit_vectors(problem: SecularProblem, count: int) -> Tensor:
    """The first ``count`` unit vectors, of the base's leading singular vectors."""
    size = problem.poles.shape[-1]
    rows = torch.eye(min(size, count), size, dtype=problem.poles.dtype, device=problem.poles.device)
    return rows.expand(len(problem.poles), -1, -1)


def _start(problem: SecularProblem, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors, ``count`` of them, on the span of the ``first`` coordinates and of F beyond them.

    With the update's left directions alone, the vectors that it turned need a further round of solves.
    """
    poles = problem.poles
    first = min(first, poles.shape[-1])
    some, others = torch.linalg.qr(problem.spread[:, first:])  # (batch, a - first, c), (batch, c, 2r)
    some = some.mT
    matrix = torch.diag_embed(torch.nn.functional.pad(poles[:, :first], (0, some.shape[-2])))
    matrix[:, first:, first:] = (some * poles[:, None, first:]) @ some.mT
    inner = torch.cat([problem.spread[:, :first], others], -2)
    squares, vectors = eigh(matrix + problem.between(inner))
    vectors = vectors.mT.flip(-2)[:, :count]
    rows = torch.cat([vectors[..., :first], vectors[..., first:] @ some], -1)
    return squares.flip(-1)[:, :count], rows


def _ritz(problem: SecularProblem, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors on the span of orthonormal rows, the ``count`` leading ones."""
    squares, vectors = eigh(problem.projected(rows))
    return squares.flip(-1)[:, :count], vectors.mT.flip(-2)[:, :count] @ rows


def _iterated(
    problem: SecularProblem, squares: Tensor, rows: Tensor, k: int, allowed: Allowed | None
) -> tuple[Tensor, Tensor, Tensor]:
    a, count = problem.poles.shape[-1], rows.shape[-2]
    residuals, sizes = _residuals(problem, squares, rows)
    for step in range(_MOST_ROUNDS if 2 * count <= a else 0):
        first = squares[:, :1]
        most = (_CONVERGED * first).expand(-1, k)
        if allowed is not None:
            most = torch.maximum(most, allowed(squares, rows))
        is_open = ~(sizes[:, :k] <= most)
        is_far = is_open & (sizes[:, :k] > _NEAR * first)
        is_much = is_open & (sizes[:, :k] > _CHEAPLY * most)
        # All questions in one wait for the device.
        *opened, far, much = torch.cat([is_open.any(0), torch.stack([is_far.any(), is_much.any()])]).tolist()
        still_open = [index for index, is_open in enumerate(opened) if is_open]
        if not still_open:
            break
        if step < _MOST_CHEAP and (far or not much):
            further = problem.over_poles(squares[:, still_open], residuals[:, still_open])
        else:
            further = problem.solve(squares[:, still_open], rows[:, still_open])
        both = torch.linalg.qr(torch.cat([rows, further], -2).mT).Q.mT
        squares, rows = _ritz(problem, both, count)
        residuals, sizes = _residuals(problem, squares, rows)
    values = squares.clamp_min(0.0).sqrt()
    return values, rows, sizes / values.clamp_min(torch.finfo(values.dtype).tiny)


def _residuals(problem: SecularProblem, squares: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Residuals ``(batch, c, a)`` of rows, and their norms."""
    residuals = problem.apply(rows) - squares.unsqueeze(-1) * rows
    return residuals, residuals.norm(dim=-1)


def _proved(
    problem: SecularProblem, values: Tensor, residuals: Tensor, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A bound on the value after the k-th, whether the k are the leading ones, and whether a count says otherwise."""
    first, last = values[:, :1], values[:, k - 1 : k]
    shares = torch.tensor(_BELOW, dtype=values.dtype, device=values.device)
    shifts = last - shares * first  # (batch, c), descending
    # Each interval of a Ritz value and its residual has a singular value, and of a decided matrix no two of them meet.
    reach = residuals[:, :k].norm(dim=-1, keepdim=True)
    if values.shape[-1] > k:
        # Half way to the next Ritz value is mostly enough.
        half_way = 0.5 * (last + values[:, k : k + 1])
        usable, counts = _counted(problem, half_way, last - reach)
        if bool((usable & (counts == k)).all()):
            return half_way.squeeze(-1), usable.squeeze(-1), torch.zeros_like(usable.squeeze(-1))
        shifts = torch.cat([shifts, half_way], -1)
    usable, counts = _counted(problem, shifts, last - reach)
    proved = usable & (counts == k)
    floor = torch.where(proved, shifts, torch.inf).amin(-1)
    missing = (usable & (counts > k)).any(-1) & ~proved.any(-1)
    return floor, proved.any(-1), missing


def _counted(problem: SecularProblem, shifts: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a count at each shift ``(batch, c)`` is one of the values below ``(batch, 1)``, and the counts."""
    counts, sure = problem.counts(shifts.clamp_min(0.0).square())
    return sure & (shifts > 0) & (shifts < below), counts
