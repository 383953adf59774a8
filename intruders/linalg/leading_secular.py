"""The leading eigenvectors of a secular problem, with the proof that they are the leading ones.

Shifted solves at the Ritz values, and a Rayleigh-Ritz step on what they give: Rayleigh quotient iteration of several
vectors that stay orthogonal, which converges cubically. Then k orthonormal rows with residuals of 1e-11 or less stand
for k eigenvalues that close to their Ritz values (Kahan; Parlett 1998, section 11.5). One count of the eigenvalues
above a number below all of these that says k proves that they are the k largest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .batched import Batched
from .coordinates import SecularProblem
from .small_cores import eigh

# Base vectors that the search starts from beyond k, and vectors that are followed beyond k.
_FURTHER, _GUARDS = 8, 4
_MOST_ROUNDS = 6
# Residuals of converged vectors, as a share of the largest eigenvalue.
_CONVERGED = 1e-11
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


def leading_vectors(problem: SecularProblem, k: int, start: LeadingVectors | None = None) -> LeadingVectors:
    """Compute the ``k`` leading eigenvectors of every problem of a batch; ``is_proved`` marks the complete ones.

    ``start`` has those of a problem nearby.
    """
    rows = _start(problem, k + _FURTHER) if start is None else torch.cat([start.rows, start.further], -2)
    extra: Tensor | None = None
    for search in range(_MOST_SEARCHES):
        values, rows, residuals = _iterated(problem, rows, k, extra)
        floor, is_proved, missing = _proved(problem, values, residuals, k)
        if not bool(missing.any()) or search == _MOST_SEARCHES - 1:
            break
        # Directions that the start had nothing of: a block Krylov step, and what the poles nearby see of the update.
        extra = problem.across
        extra = (
            torch.cat([extra, problem.apply(extra)], -2) if search == 0 else _near_poles(problem, values, k)
        )
        extra = extra / extra.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(extra.dtype).tiny)
    return LeadingVectors(values[:, :k], rows[:, :k], rows[:, k:], residuals[:, :k], floor, is_proved)


def _near_poles(problem: SecularProblem, values: Tensor, k: int) -> Tensor:
    """Base vectors further down than those that the search began with."""
    size = problem.poles.shape[-1]
    count = min(size, 4 * (k + _FURTHER))
    return torch.eye(count, size, dtype=values.dtype, device=values.device).expand(len(values), -1, -1)


def _start(problem: SecularProblem, count: int) -> Tensor:
    """Orthonormal rows: the first ``count`` coordinates, and F beyond them.

    With the update's left directions alone, the vectors that it turned need a further round of solves.
    """
    batch, a = problem.poles.shape
    count = min(count, a)
    width = min(2 * problem.rank, a - count)
    first = torch.eye(count, a, dtype=problem.poles.dtype, device=problem.poles.device).expand(batch, -1, -1)
    if width == 0:
        return first
    others = torch.linalg.qr(problem.spread[:, count:]).Q.mT[:, :width]
    return torch.cat([first, torch.nn.functional.pad(others, (count, 0))], -2)


def _ritz(problem: SecularProblem, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors on the span of orthonormal rows, the ``count`` leading ones."""
    squares, vectors = eigh(problem.projected(rows))
    return squares.flip(-1)[:, :count], vectors.mT.flip(-2)[:, :count] @ rows


def _iterated(
    problem: SecularProblem, rows: Tensor, k: int, extra: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    a = problem.poles.shape[-1]
    count = min(k + _GUARDS, a)
    if extra is not None:
        rows = torch.linalg.qr(torch.cat([rows, extra], -2)[:, :a].mT).Q.mT
    squares, rows = _ritz(problem, rows, count)
    residuals: Tensor | None = None
    for _ in range(_MOST_ROUNDS if 2 * count <= a else 0):
        solved = problem.solve(squares[:, :k], rows[:, :k])
        both = torch.linalg.qr(torch.cat([rows, solved], -2).mT).Q.mT
        squares, rows = _ritz(problem, both, count)
        residuals = _residuals(problem, squares, rows)
        if bool((residuals[:, :k] <= _CONVERGED * squares[:, :1]).all()):
            break
    if residuals is None:
        residuals = _residuals(problem, squares, rows)
    values = squares.clamp_min(0.0).sqrt()
    return values, rows, residuals / values.clamp_min(torch.finfo(values.dtype).tiny)


def _residuals(problem: SecularProblem, squares: Tensor, rows: Tensor) -> Tensor:
    residuals: Tensor = (problem.apply(rows) - squares.unsqueeze(-1) * rows).norm(dim=-1)
    return residuals


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
