"""The scale of an update at which a vector's largest coordinate passes a number, by Newton's method.

At the scale f, ``diag(poles) + F C F^T`` has the eigenvalue t with the vector ``z = (t - D)^-1 F c`` where

    K c = 0,    K(t, f) = [[I, 0], [0, 0]] - J / f - F^T (D - t)^-1 F,    J = [[0, I], [I, 0]]

(:mod:`intruders.linalg.coordinates`; ``K = -C^-1 - F^T (D - t)^-1 F``). Together with ``c^T c = 1`` and
``z_i^2 = epsilon^2 z^T z`` for the largest coordinate i these are 2r + 2 equations for c, t and f, whose derivatives
take sums over the coordinates alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .coordinates import SecularProblem

_MOST_STEPS = 7
# Of a root: the last step, as a share of the scale.
_CONVERGED = 1e-9


@dataclass(frozen=True)
class Passages:
    """Where the largest coordinate of a vector of each problem of a batch passes epsilon; NaN where none was found."""

    scales: Tensor  # (batch)
    rows: Tensor  # (batch, a): the vectors, of norm one
    falls: Tensor  # (batch), bool: the coordinate falls as the scale grows


def passages(
    problem: SecularProblem, scales: Tensor, squares: Tensor, rows: Tensor, inside: int, epsilon: float
) -> Passages:
    """Find where the largest coordinates of vectors pass ``epsilon``, from scales nearby.

    Args:
      problem: a batch of problems, at any scale.
      scales: (batch), where to begin.
      squares: (batch), eigenvalues there, to a few per cent of the distance to their neighbors.
      rows: (batch, a), their vectors.
      inside: number of coordinates that count; those beyond belong to no base vector.
      epsilon: the largest coordinate of a vector of norm one.
    """
    r, across = problem.rank, problem.across
    width = 2 * r
    both = torch.eye(width, dtype=rows.dtype, device=rows.device)
    swap, upper = both.roll(r, 0), both * (torch.arange(width, device=rows.device) < r)
    inner = (rows.unsqueeze(-2) @ problem.spread).squeeze(-2)
    first, second = inner[:, :r], inner[:, r:]
    c = torch.cat([second, first + scales.unsqueeze(-1) * second], -1)  # C F^T z over the scale
    c = c / c.norm(dim=-1, keepdim=True)
    z, step, slope = rows, torch.full_like(scales, torch.inf), torch.zeros_like(scales)
    # Right sides of the equations: what is left of them, and a unit of the last one.
    sides = across.new_zeros(len(scales), width + 2, 2)
    sides[:, -1, 1] = 1.0
    for _ in range(_MOST_STEPS):
        weights = 1 / (problem.poles - squares.unsqueeze(-1))
        weighted = across * weights.unsqueeze(-2)  # (batch, 2r, a)
        core = upper - swap / scales[:, None, None] - weighted @ problem.spread
        z = -(c.unsqueeze(-2) @ weighted).squeeze(-2)
        if bool((step.abs() <= _CONVERGED * scales).all()):
            break
        index = z[:, :inside].abs().argmax(-1, keepdim=True)
        largest, weight = z.gather(-1, index).squeeze(-1), weights.gather(-1, index).squeeze(-1)
        of_largest = weighted.gather(-1, index.unsqueeze(-2).expand(-1, width, 1)).squeeze(-1)
        moved = (weighted @ z.unsqueeze(-1)).squeeze(-1)
        # Rows: K c, c^T c / 2 and (z_i^2 - epsilon^2 z^T z) / 2; columns: c, t and f.
        matrix = core.new_zeros(len(core), width + 2, width + 2)
        matrix[:, :width, :width] = core
        matrix[:, :width, width] = moved
        matrix[:, :width, width + 1] = c.roll(r, -1) / scales.square().unsqueeze(-1)
        matrix[:, width, :width] = c
        matrix[:, width + 1, :width] = epsilon**2 * moved - largest.unsqueeze(-1) * of_largest
        matrix[:, width + 1, width] = largest.square() * weight - epsilon**2 * (z.square() * weights).sum(-1)
        sides[:, :width, 0] = (core @ c.unsqueeze(-1)).squeeze(-1)
        sides[:, width, 0] = 0.5 * (c.square().sum(-1) - 1)
        sides[:, width + 1, 0] = 0.5 * (largest.square() - epsilon**2 * z.square().sum(-1))
        change = torch.linalg.solve_ex(matrix, sides).result
        c, squares = c - change[:, :width, 0], squares - change[:, width, 0]
        step, slope = change[:, width + 1].unbind(-1)
        scales = scales - step
    is_found = (step.abs() <= _CONVERGED * scales) & scales.isfinite()
    rows = torch.nn.functional.normalize(z, dim=-1)
    return Passages(torch.where(is_found, scales, torch.nan), rows, slope < 0)
