"""The leading eigenvectors of a secular problem, what is proved of their cosines, and the scale at which one passes.

:func:`leading_vectors`: shifted solves at the Ritz values, and a Rayleigh-Ritz step on what they give: Rayleigh
quotient iteration of several vectors that stay orthogonal, which converges cubically. Up to two rounds of Davidson's
method (1975), which cost less, come first. Then k orthonormal rows with small residuals stand for k eigenvalues that
close to their Ritz values (Kahan; Parlett 1998, section 11.5), and one count that says k, above a number below all of
these, proves that they are the k largest.

:func:`passages`: at the scale f, ``diag(poles) + F C F^T`` has the eigenvalue t with the vector ``z = (t - D)^-1 F
c`` where

    K c = 0,    K(t, f) = [[I, 0], [0, 0]] - J / f - F^T (D - t)^-1 F,    J = [[0, I], [I, 0]]

(:mod:`intruders.linalg.coordinates`). Together with ``c^T c = 1`` and ``z_i^2 = epsilon^2 z^T z`` for the largest
coordinate i these are 2r + 2 equations for c, t and f, whose derivatives take sums over the coordinates alone.
Newton's method solves them.

:func:`coordinate_cosines`: for a computed unit vector z at an angle of at most arcsin t to the true left vector y of
W, a true base vector x with the value s, and ``off``, a bound on what the base's decomposition is wrong by,

    |<x, y>| <= sqrt(sum of z_l^2 over |s_l - s| <= h + off) + sqrt(2) off / h + 2 sin(arcsin(t) / 2)

for any h > 0 (docs/concepts/certificate.md, step 8). And the projection of y on the true space of a cluster differs
from that of z on the computed one by at most ``sqrt(2) off / gap`` (Davis and Kahan 1970) and the same last term.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .coordinates import Coordinates, SecularProblem
from .overlap import Intervals
from .products import Batched
from .svd import CLUSTER_TOLERANCE, cluster_ids, cluster_projections, distances_beyond, eigh

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
            size = problem.poles.shape[-1]
            unit = torch.eye(min(size, 4 * (k + _FURTHER)), size).to(problem.poles)
            extra = unit.expand(len(problem.poles), -1, -1)
        extra = extra / extra.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(extra.dtype).tiny)
    return LeadingVectors(values[:, :k], rows[:, :k], rows[:, k:], residuals[:, :k], floor, is_proved)


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
    squares, vectors = eigh(problem.projected(rows))
    return squares.flip(-1)[:, :count], vectors.mT.flip(-2)[:, :count] @ rows


def _iterated(
    problem: SecularProblem, squares: Tensor, rows: Tensor, k: int, allowed: Allowed | None
) -> tuple[Tensor, Tensor, Tensor]:
    a, count = problem.poles.shape[-1], rows.shape[-2]
    residuals = problem.apply(rows) - squares.unsqueeze(-1) * rows
    for step in range(_MOST_ROUNDS if 2 * count <= a else 0):
        first, sizes = squares[:, :1], residuals.norm(dim=-1)
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
        residuals = problem.apply(rows) - squares.unsqueeze(-1) * rows
    values = squares.clamp_min(0.0).sqrt()
    return values, rows, residuals.norm(dim=-1) / values.clamp_min(torch.finfo(values.dtype).tiny)


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


_MOST_STEPS = 7
# Of a root: the last step, as a share of the scale.
_LAST_STEP = 1e-9


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
        if bool((step.abs() <= _LAST_STEP * scales).all()):
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
    is_found = (step.abs() <= _LAST_STEP * scales) & scales.isfinite()
    rows = torch.nn.functional.normalize(z, dim=-1)
    return Passages(torch.where(is_found, scales, torch.nan), rows, slope < 0)


# Half-width of the windows, as a share of the largest base value: wider than any cluster of values that count as one.
_WINDOW = 1e-5
# An error of a base vector beyond this makes it worth to look at windows.
_LARGE = 1e-5
# Tuned values closer than this many cluster tolerances are left to others: it may depend on rounding whether they count
# as one.
_APART = 1.5


@dataclass(frozen=True)
class CoordinateCosines(Intervals):
    """Max cosines of k vectors of each matrix of a batch, and bounds for every choice of base vectors in clusters."""

    cosines: Tensor  # (batch, k), double: with the nearest base vector, or the space of the nearest cluster


def coordinate_cosines(coordinates: Coordinates, leading: LeadingVectors, off: Tensor) -> CoordinateCosines:
    """Max cosines of the leading vectors with all base vectors; ``off`` ``(batch)`` is the base's own error.

    Where a base has more rows than columns, there are coordinates beyond those of its vectors: its left null space
    belongs to no base vector.
    """
    values, p = coordinates.values, coordinates.values.shape[-1]
    is_tall = coordinates.size > p
    inside = leading.rows[..., :p].mT  # (batch, p, k)
    ids = cluster_ids(values)
    projections = cluster_projections(inside, ids)
    # Square roots of the numbers of members.
    sizes = cluster_projections(torch.ones_like(inside[..., :1]), ids)
    turned = 2 * torch.sin(torch.asin(_angles(coordinates, leading)) / 2)  # (batch, k)
    # Distance from each value's cluster to the next other value, less what both may be off by. Within a dilation every
    # value has its mirror image: a value of zero is its own neighbor.
    steps = torch.where(ids[..., :-1] == ids[..., 1:], torch.inf, values[..., :-1] - values[..., 1:])
    gaps = distances_beyond(torch.nn.functional.pad(steps, (0, 1), value=torch.inf), steps, ids)
    gaps = torch.minimum(gaps, values) - 2 * off.unsqueeze(-1)
    lost = math.sqrt(2) * off.unsqueeze(-1) / gaps.clamp_min(torch.finfo(values.dtype).tiny)
    lost = lost.unsqueeze(-1)  # (batch, p, 1)
    lower = ((projections - lost) / sizes).amax(-2) - turned
    upper = projections + lost
    # Where values are no cluster and yet close, the windows are what bounds their vectors, if these come first.
    is_bad = lost > _LARGE
    best = torch.where(is_bad, 0.0, upper).amax(-2, keepdim=True)
    if bool((is_bad & (upper > best)).any()):
        window = _WINDOW * values[:, :1]
        outside = leading.rows[..., p:].square().sum(-1) if is_tall else torch.zeros_like(turned)
        held = _held_by_windows(values, inside.square(), outside, window + off.unsqueeze(-1))
        upper = torch.minimum(upper, held.sqrt() + (math.sqrt(2) * off.unsqueeze(-1) / window).unsqueeze(-1))
    upper = upper.amax(-2) + turned
    # Of a base that is zero, or tall without full rank, some base vectors are any in a null space.
    is_free = (values[:, :1] == 0) | (
        (values[:, -1:] <= _APART * CLUSTER_TOLERANCE * values[:, :1]) & is_tall
    )
    is_known = leading.is_proved.unsqueeze(-1) & ~is_free & lower.isfinite() & upper.isfinite()
    return CoordinateCosines(
        lower=torch.where(is_known, lower.clamp_min(0.0), 0.0),
        upper=torch.where(is_known, upper.clamp_max(1.0), 1.0),
        cosines=projections.amax(-2).clamp_max(1.0),
    )


def _angles(coordinates: Coordinates, leading: LeadingVectors) -> Tensor:
    """Sines ``(batch, k)`` of the angles to the true tuned vectors; 1 where another value is too near."""
    values, off = leading.values, coordinates.off.unsqueeze(-1)
    below = torch.cat([values[:, 1:], leading.floor.unsqueeze(-1)], -1)
    down = values - below
    up = torch.nn.functional.pad(down[:, :-1], (1, 0), value=torch.inf)
    # The mirrored values of [[0, W], [W^T, 0]], and its zeros, are at the distance of the value itself.
    # No two of the intervals of a value and its residual meet where values are further apart than both residuals.
    both = math.sqrt(2) * leading.residuals.norm(dim=-1, keepdim=True)
    gap = torch.minimum(torch.minimum(down, up), values) - off - both
    sine = (math.sqrt(2) * off + leading.residuals) / gap
    is_apart = gap > _APART * CLUSTER_TOLERANCE * values[:, :1]
    return torch.where(is_apart, sine, 1.0).clamp_max(1.0)


def _held_by_windows(values: Tensor, mass: Tensor, outside: Tensor, width: Tensor) -> Tensor:
    """The mass ``(batch, p, k)`` of the vectors in the window about each base value.

    ``mass`` is ``(batch, p, k)`` by descending values ``(batch, p)``; ``outside`` belongs to the value zero.
    """
    ascending = -values
    first = torch.searchsorted(ascending, ascending - width)
    last = torch.searchsorted(ascending, ascending + width, right=True)
    total = torch.nn.functional.pad(mass.cumsum(-2), (0, 0, 1, 0))
    shape = (*first.shape, mass.shape[-1])
    held = total.gather(-2, last.unsqueeze(-1).expand(shape)) - total.gather(
        -2, first.unsqueeze(-1).expand(shape)
    )
    held = held + torch.where((values <= width).unsqueeze(-1), outside.unsqueeze(-2), 0.0)
    return held.clamp_min(0.0)
