"""Intruder dimensions of a stack of equal-shaped matrices: the certificates, cheapest first.

The question is about the k leading left singular vectors of every tuned matrix. They are computed by a Krylov
method that starts from what is known of the base, and each is decided by the first of these that can:

1. overlap: a computed base vector resembles it. Not an intruder.
2. mass: the computed base vectors hold so much of it that no other can resemble it, and none of them does. Intruder.
3. moment: no base vector, computed or not, can resemble it, by its spectral moments. Intruder.
4. exact: the dense decomposition of its matrix.

Nothing is decided by an estimate: whatever an interval leaves open goes on to the next certificate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..linalg.exact import Decomposition, exact_cosines
from ..linalg.krylov import BLOCK, KrylovSpace, converge, refine
from ..linalg.operators import Dense
from ..linalg.overlap import Intervals, overlap_intervals
from ..linalg.ritz import Triplets
from ..linalg.svd import DenseSVD, cluster_ids, dense_svd, gram_svd
from .known import KnownBase
from .moments import bound_by_moments
from .stack import Stack
from .update import Update, measure_update

# Below this smaller side the dense decomposition is the faster one: a Krylov space would be half the matrix.
DENSE_BELOW = 128
# Angle (as a sine) to which vectors are computed at most before the moment certificate is tried.
_TIGHT_ANGLE = 0.02
# The same for cosines near epsilon, which an error decides: far less than what the dense decomposition costs.
_TIGHTEST_ANGLE = 0.001
# Neighbours of a vector that is wanted are computed to this.
_LOOSE_ANGLE = 0.2
# Base vectors whose cosine with a possible intruder is below this share of epsilon cannot make a difference to it.
_PART = 0.3
# Residual rows that a space grows by, and steps that it goes on from them.
_WIDTH = 8
_STEPS = 3
# Steps of the base's chain before the first look at its Ritz vectors, between two looks, and at most.
_CHAIN_STEPS = 24
_FURTHER_STEPS = 4
_MOST_FURTHER = 4
_MAX_ROUNDS = 8
# Rows that a space has room for at first, beyond those that it starts with.
_ROOM = 64
# Steps of the random chain that looks for directions of an update beyond its leading ones.
_SEARCH_STEPS = 4
# Bounds are compared with epsilon at this distance: they come from single-precision products.
_MARGIN = 1e-4
_OPEN = ""


@dataclass(frozen=True)
class Detection:
    """What was found about the k leading vectors of each matrix of a stack."""

    values: Tensor  # (batch, k): singular values of the tuned matrices
    lower: Tensor  # (batch, k): proved interval of the max cosine
    upper: Tensor  # (batch, k)
    intruder: Tensor  # (batch, k), bool
    certificate: list[list[str]]  # [batch][k]
    ambiguous: Tensor  # (batch, k), bool
    base_values: Tensor  # (batch, d): leading singular values of the base matrices
    similarity: Tensor  # (batch, d, k): |<x_i, y_j>| of leading vectors
    update: Update
    known: KnownBase | None = None  # what was learnt of the bases alone; None from ``exact``


def detect(
    stack: Stack, k: int, epsilon: float, exact: bool = False, known: KnownBase | None = None
) -> Detection:
    """Judges the ``min(k, m, n)`` leading left singular vectors of every tuned matrix of a stack.

    y_j is an intruder when ``max_i |<x_i, y_j>| < epsilon`` over all left singular vectors x_i of its base matrix.
    ``exact`` takes the dense decompositions throughout. ``known`` is what an earlier call has learnt of the same
    bases (its result's ``known``), to start from. The stack must be finite.
    """
    _, m, n = stack.base.shape
    k = min(k, m, n)
    update = measure_update(stack, k, exact)
    shown = min(2 * k + 4, m, n)
    if exact:
        return _detect_dense(stack, k, epsilon, shown, update, dense_svd, None)
    if float(update.spectral.max()) > torch.finfo(stack.base.dtype).max ** 0.5:
        found = _detect_dense(stack, k, epsilon, shown, update, dense_svd, None)  # squares of it overflow
        return replace(found, known=None)  # all vectors of a large base, where an audit expects some
    if min(m, n) < max(DENSE_BELOW, BLOCK * (_chain_steps(k) + _FURTHER_STEPS)):
        return _detect_dense(stack, k, epsilon, shown, update, gram_svd, known)
    return _detect_by_certificates(stack, k, epsilon, shown, update, known)


def _chain_steps(k: int) -> int:
    """Block steps before the first look at the Ritz vectors: room for twice the k vectors wanted, and some."""
    return max(_CHAIN_STEPS, k)


def _detect_dense(
    stack: Stack,
    k: int,
    epsilon: float,
    shown: int,
    update: Update,
    decompose: Decomposition,
    known: KnownBase | None,
) -> Detection:
    parts = []
    for i, base in enumerate(stack.base):
        base_svd = None
        if known is not None and known.is_complete:
            left = known.basis[i].double()
            base_svd = DenseSVD(known.values[i], left, left.new_zeros(0, base.shape[-1]))
        parts.append(exact_cosines(base, stack.tuned_dense(i), k, epsilon, decompose, base_svd))
    cosines = torch.stack([part.max_cosines for part in parts])
    base_left = torch.stack([part.base_left for part in parts])
    base_values = torch.stack([part.base_values for part in parts])
    tuned_left = torch.stack([part.left for part in parts])
    return Detection(
        values=torch.stack([part.values for part in parts]),
        lower=cosines,
        upper=cosines,
        intruder=cosines < epsilon,
        certificate=[["exact"] * k for _ in parts],
        ambiguous=torch.stack([part.ambiguous for part in parts]),
        base_values=base_values[:, :shown],
        similarity=(base_left[:, :shown] @ tuned_left.mT).abs(),
        update=update,
        known=KnownBase.from_decomposition(base_left.to(stack.base.dtype), base_values, stack.base.shape[-1]),
    )


def _detect_by_certificates(
    stack: Stack, k: int, epsilon: float, shown: int, update: Update, known: KnownBase | None
) -> Detection:
    operator = Dense(stack.base)
    floor = torch.zeros(len(stack.base), dtype=torch.float64, device=operator.device)
    if known is None:
        space = _base_space(operator, k, shown)
    else:
        space, floor = known.space(operator), known.floor
    converge(space, k, shown, _LOOSE_ANGLE, _MAX_ROUNDS, _WIDTH, _STEPS)
    tuned_space = _tuned_space(stack, space, shown, update)
    converge(tuned_space, k, k + BLOCK, _LOOSE_ANGLE, _MAX_ROUNDS, _WIDTH, _STEPS)
    for _ in range(_MAX_ROUNDS):
        base, tuned = space.ritz(shown)[0], tuned_space.ritz(k + BLOCK)[0]
        found = _judged_by_overlap(base, tuned, k, epsilon, update)
        doubtful = _block_may_hide_copies(base) | _block_may_hide_copies(tuned) | _is_rank_deficient(tuned, k)
        undecided = _undecided(found) & ~doubtful.unsqueeze(-1)
        of_base, of_tuned = _held_back(base, tuned, undecided, epsilon)
        grown = refine(tuned_space, k + BLOCK, of_tuned, _WIDTH, _STEPS)
        if not (refine(space, shown, of_base, _WIDTH, _STEPS) or grown):
            break
    matrices = undecided.any(-1).nonzero().squeeze(-1)
    if len(matrices) > 0:
        bounded, floor[matrices] = bound_by_moments(
            operator.select(matrices),
            base.select(matrices),
            tuned.select(matrices),
            undecided[matrices],
            epsilon - _MARGIN,
            floor[matrices],
        )
        found = _with_moments(found, matrices, bounded, undecided[matrices], epsilon)
    left_open = (_undecided(found).any(-1) | doubtful).nonzero().squeeze(-1)
    if len(left_open) > 0:
        dense = _detect_dense(stack.select(left_open), k, epsilon, shown, update, gram_svd, None)
        found = _with_dense(found, left_open, dense)
    return replace(found, known=KnownBase.from_space(space, shown + BLOCK, floor))


def _held_back(base: Triplets, tuned: Triplets, undecided: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Which base ``(batch, d)`` and tuned vectors ``(batch, k)`` are not known well enough to decide the undecided.

    A vector needs its nearest base vector and itself as well as their cosine is clear of epsilon. One that resembles
    none may be an intruder, and is wanted closely in any case, with the base vectors that hold a part of it that
    counts: the moment certificate bounds what these leave.
    """
    k = undecided.shape[-1]
    cosines = (base.left @ tuned.left[:, :k].mT).abs().double().clamp_max(1.0)  # (batch, d, k)
    largest, nearest = cosines.max(-2)
    resembles = largest >= epsilon
    spare = torch.sin((math.acos(epsilon) - torch.acos(largest)).abs() / 2).clamp_min(_TIGHTEST_ANGLE)
    allowed = torch.where(resembles, spare, spare.clamp_max(_TIGHT_ANGLE))
    of_tuned = undecided & (tuned.angles[:, :k] > allowed)
    is_nearest = torch.zeros_like(cosines, dtype=torch.bool).scatter(-2, nearest.unsqueeze(-2), True)
    matters = is_nearest | (~resembles.unsqueeze(-2) & (cosines > _PART * epsilon))
    too_far = base.angles.unsqueeze(-1) > torch.where(is_nearest, allowed.unsqueeze(-2), _TIGHT_ANGLE)
    of_base = (undecided.unsqueeze(-2) & matters & too_far).any(-1)
    return _with_neighbours(of_base, base.angles), _with_neighbours(of_tuned, tuned.angles[:, :k])


def _with_neighbours(wanted: Tensor, angles: Tensor) -> Tensor:
    """Also the vectors before the last wanted one that are known badly: they limit what can be said of it."""
    before = wanted.flip(-1).cummax(-1).values.flip(-1)
    return wanted | (before & (angles > _LOOSE_ANGLE))


def _judged_by_overlap(base: Triplets, tuned: Triplets, k: int, epsilon: float, update: Update) -> Detection:
    intervals = overlap_intervals(base, tuned, k)
    return Detection(
        values=tuned.values[:, :k].double(),
        lower=intervals.lower,
        upper=intervals.upper,
        intruder=intervals.upper < epsilon - _MARGIN,
        certificate=_certificates(intervals, epsilon),
        ambiguous=torch.zeros_like(intervals.lower, dtype=torch.bool),
        base_values=base.values.double(),
        similarity=(base.left @ tuned.left[:, :k].mT).abs().double(),
        update=update,
    )


def _base_space(operator: Dense, k: int, shown: int) -> KrylovSpace:
    """A chain from random rows, continued as long as leading vectors have not converged and that can help."""
    room = BLOCK * _FURTHER_STEPS * _MOST_FURTHER
    space = KrylovSpace.from_random_block(operator, BLOCK, _chain_steps(k), room=room)
    for _ in range(_MOST_FURTHER):
        if not bool((space.ritz(shown)[0].angles[:, :k] > _LOOSE_ANGLE).any()):
            break
        if len(space) + BLOCK * _FURTHER_STEPS > min(operator.shape[-2:]):
            break
        space.grow_chain(BLOCK, _FURTHER_STEPS)
    return space.compressed(shown + BLOCK, _ROOM)


def _tuned_space(stack: Stack, base: KrylovSpace, shown: int, update: Update) -> KrylovSpace:
    """A start for the tuned matrix: the base's leading vectors and the leading directions of the update.

    Off these directions the tuned matrix is the base off its own leading vectors, plus what the update has
    beyond them. Where that is not known to be nothing, a random chain looks for it: the start space might be
    invariant, with no residual to say that a large direction is missing.
    """
    leading = base.compressed(shown + BLOCK)
    if stack.left is not None and stack.right is not None:
        tuned = leading.plus_lowrank(stack.left, stack.right, _ROOM)
        complete = stack.left.shape[-1] <= update.left.shape[-2]
    else:
        assert stack.tuned is not None
        tuned = KrylovSpace.empty(Dense(stack.tuned), _ROOM)
        tuned.grow(leading.basis)
        complete = False
    tuned.grow(update.left if tuned.is_left else update.right)
    if not complete:
        tuned.grow_randomly(BLOCK, _SEARCH_STEPS)
    return tuned


def _with_moments(
    found: Detection, matrices: Tensor, bounded: Intervals, undecided: Tensor, epsilon: float
) -> Detection:
    upper = torch.where(undecided, torch.minimum(found.upper[matrices], bounded.upper), found.upper[matrices])
    decided = undecided & (upper < epsilon - _MARGIN)
    certificate = [list(row) for row in found.certificate]
    for row, index in enumerate(matrices.tolist()):
        for j in decided[row].nonzero().squeeze(-1).tolist():
            certificate[index][j] = "moment"
    return _replaced(found, matrices, certificate, upper=upper, intruder=found.intruder[matrices] | decided)


def _with_dense(found: Detection, matrices: Tensor, dense: Detection) -> Detection:
    certificate = [list(row) for row in found.certificate]
    for row, index in enumerate(matrices.tolist()):
        certificate[index] = list(dense.certificate[row])
    names = ("values", "lower", "upper", "intruder", "ambiguous", "base_values", "similarity")
    return _replaced(found, matrices, certificate, **{name: getattr(dense, name) for name in names})


def _replaced(found: Detection, matrices: Tensor, certificate: list[list[str]], **rows: Tensor) -> Detection:
    fields = {name: getattr(found, name) for name in found.__dataclass_fields__}
    for name, values in rows.items():
        fields[name] = fields[name].index_copy(0, matrices, values.to(fields[name].dtype))
    return Detection(**{**fields, "certificate": certificate})


def _certificates(intervals: Intervals, epsilon: float) -> list[list[str]]:
    over = (intervals.lower >= epsilon + _MARGIN).tolist()
    under = (intervals.upper < epsilon - _MARGIN).tolist()
    return [
        ["overlap" if a else "mass" if b else _OPEN for a, b in zip(*rows, strict=True)]
        for rows in zip(over, under, strict=True)
    ]


def _undecided(found: Detection) -> Tensor:
    return torch.tensor(
        [[name == _OPEN for name in row] for row in found.certificate], device=found.lower.device
    )


def _block_may_hide_copies(triplets: Triplets) -> Tensor:
    """Which matrices show as many equal singular values as the block has rows; it cannot see more copies."""
    ids = cluster_ids(triplets.values)
    largest = torch.nn.functional.one_hot(ids).sum(-2).amax(-1)
    return largest >= BLOCK


def _is_rank_deficient(triplets: Triplets, k: int) -> Tensor:
    """Which matrices have fewer than k singular values that single precision tells from zero."""
    return triplets.values[:, k - 1] <= 1e-5 * triplets.values[:, 0]
