"""The certificates that need no dense decomposition of the tuned matrices, cheapest first.

`coordinates` needs no start at random, no probe and no product in single precision. What it leaves open, because
singular values are too close or a cosine is within the stated error of epsilon, is left to the others. For these the
vectors of a batch are computed more closely in rounds, until every one is decided or more accuracy is out of reach.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..linalg.coordinates import Coordinates
from ..linalg.krylov import BLOCK, KrylovSpace, may_hide_copies, refine
from ..linalg.low_rank import LowRank
from ..linalg.operators import Dense
from ..linalg.overlap import Intervals, overlap_intervals
from ..linalg.pair import Pair
from ..linalg.products import Batched
from ..linalg.ritz import Triplets
from ..linalg.secular import LeadingVectors, coordinate_cosines, far_below, leading_vectors
from ..linalg.svd import gram_svd
from ..linalg.whole_base import WholeBase
from .decisions import Decisions, MeasuredUpdate, decide_dense
from .known_base import LOOSE_ANGLE, BaseVectors, KnownBase
from .moment_certificate import bound_by_moments
from .spectral_change import SpectralChange, spectral_change

# Angle (as a sine) to which vectors are computed at most before the moment certificate is tried.
_TIGHT_ANGLE = 0.02
# The same for cosines near epsilon, which an error decides: far less than what the dense decomposition costs.
_TIGHTEST_ANGLE = 0.001
# Base vectors whose cosine with a possible intruder is below this share of epsilon cannot make a difference to it.
_NEGLIGIBLE_SHARE = 0.3
# Residual rows that a space grows by, and steps that it goes on from them.
_WIDTH = 8
_STEPS = 3
_MOST_ROUNDS = 16
# Steps of the random chain that looks for directions of an update beyond its leading ones.
_SEARCH_STEPS = 4
# Bounds are compared with epsilon at this distance: they come from single-precision products, or from sums in the
# base's coordinates in double precision.
_MARGIN, _COORDINATE_MARGIN = 1e-4, 1e-9
_NAMES = ("overlap", "mass", "moment", "")


@dataclass(frozen=True)
class _Spaces:
    """The spaces computed for a batch of matrices, with the question; the spaces grow in place."""

    base: BaseVectors
    tuned: KrylovSpace
    k: int
    epsilon: float
    base_count: int

    def select(self, index: Tensor) -> "_Spaces":
        return replace(self, base=self.base.select(index), tuned=self.tuned.select(index))

    def refine(self, of_base: Tensor, of_tuned: Tensor) -> bool:
        """Compute the wanted vectors of both sides better; return False if that is not possible."""
        grown = bool(of_tuned.any()) and refine(self.tuned, self.k + BLOCK, of_tuned, _WIDTH, _STEPS)
        return (
            bool(of_base.any()) and refine(self.base.space, self.base_count, of_base, _WIDTH, _STEPS)
        ) or grown


@dataclass(frozen=True)
class _Snapshot(Batched):
    base: Triplets
    tuned: Triplets
    intervals: Intervals
    undecided: Tensor  # (batch, k), bool
    is_doubtful: Tensor  # (batch), bool: the spaces may not tell the whole truth of these matrices
    of_base: Tensor  # (batch, d), bool: what should be known better
    of_tuned: Tensor  # (batch, k), bool


def decide_by_certificates(
    batch: Pair, k: int, epsilon: float, base_count: int, update: MeasuredUpdate, known: KnownBase | None
) -> Decisions:
    base = BaseVectors.of(Dense(batch.base), k, base_count, known)
    spaces = every = _Spaces(base, _tuned_space(batch, base.space, update), k, epsilon, base_count)
    snapshot = whole = _snapshot(spaces)
    computed = base.known(base_count)
    # All vectors as closely as the decisions need; matrices of which nothing is wanted any more are left out.
    places = torch.arange(len(snapshot.undecided), device=snapshot.undecided.device)
    for _ in range(_MOST_ROUNDS):
        wants = (snapshot.of_base.any(-1) | snapshot.of_tuned.any(-1)).nonzero().squeeze(-1)
        if 0 < len(wants) < len(places):
            spaces, snapshot, places = spaces.select(wants), snapshot.select(wants), places[wants]
        if bool(snapshot.of_base.any()):
            spaces = replace(spaces, base=spaces.base.each_alone())
        if not spaces.refine(snapshot.of_base, snapshot.of_tuned):
            break
        if bool(snapshot.of_base.any()):
            computed = computed.with_rows(places, spaces.base.known(base_count))
        snapshot = _snapshot(spaces)
        whole = whole.with_rows(places, snapshot)
    return _decide_rest(batch, every, whole, update, computed)


def _tuned_space(batch: Pair, base: KrylovSpace, update: MeasuredUpdate) -> KrylovSpace:
    """Start the tuned matrix's space with the base's leading vectors and the leading directions of the update.

    Off these directions the tuned matrix is the base off its own leading vectors, plus what the update has
    beyond them. Where that is not known to be nothing, a random chain looks for it: the start space might be
    invariant, with no residual to say that a large direction is missing.
    """
    if isinstance(batch.tuned, LowRank):
        tuned = base.plus_lowrank(batch.tuned)
        complete = batch.tuned.rank <= update.left.shape[-2]
    else:
        tuned = KrylovSpace.empty(batch.operator)
        tuned.grow(base.basis.expand(len(batch.base), -1, -1))
        complete = False
    tuned.grow(update.left if tuned.is_left else update.right)
    if not complete:
        tuned.grow_randomly(BLOCK, _SEARCH_STEPS)
    return tuned


def _snapshot(spaces: _Spaces) -> _Snapshot:
    k, epsilon = spaces.k, spaces.epsilon
    base, tuned = spaces.base.triplets(spaces.base_count), spaces.tuned.ritz(k + BLOCK)[0]
    intervals = overlap_intervals(base, tuned, k, spaces.base.is_complete)
    # Fewer than k singular values that single precision tells from zero.
    is_deficient = tuned.values[:, k - 1] <= 1e-5 * tuned.values[:, 0]
    doubtful = spaces.base.is_unclear(spaces.base_count) | may_hide_copies(tuned) | is_deficient
    intruder, resembles = decided(intervals, epsilon, _MARGIN)
    undecided = ~(intruder | resembles) & ~doubtful.unsqueeze(-1)
    of_base, of_tuned = needed_more_closely(base, tuned, undecided, epsilon, spaces.base.is_complete)
    # What a vector resembles can be told once it is known loosely.
    is_loose = tuned.angles[:, :k] > LOOSE_ANGLE
    waits = is_loose.any(-1, keepdim=True)
    of_base, of_tuned = of_base & ~waits, torch.where(waits, is_loose, of_tuned)
    return _Snapshot(base, tuned, intervals, undecided, doubtful, of_base, of_tuned)


def needed_more_closely(
    base: Triplets, tuned: Triplets, undecided: Tensor, epsilon: float, is_complete: bool
) -> tuple[Tensor, Tensor]:
    """Return masks of the base ``(batch, d)`` and tuned vectors ``(batch, k)`` that are not accurate enough to decide.

    The farther a cosine is from epsilon, the less accurate both vectors need to be. A vector without a base vector
    near it may be an intruder, and is computed closely in any case. So are the base vectors with a component along
    it that counts: the moment certificate bounds what these leave. A base that ``is_complete`` needs neither.
    """
    k = undecided.shape[-1]
    cosines = (base.left @ tuned.left[:, :k].mT).abs().double().clamp_max(1.0)  # (batch, d, k)
    largest, nearest = cosines.max(-2)
    resembles = (largest >= epsilon) | is_complete
    spare = torch.sin((math.acos(epsilon) - torch.acos(largest)).abs() / 2).clamp_min(_TIGHTEST_ANGLE)
    allowed = torch.where(resembles, spare, spare.clamp_max(_TIGHT_ANGLE))
    of_tuned = undecided & (tuned.angles[:, :k] > allowed)
    is_nearest = torch.zeros_like(cosines, dtype=torch.bool).scatter(-2, nearest.unsqueeze(-2), True)
    matters = is_nearest | (~resembles.unsqueeze(-2) & (cosines > _NEGLIGIBLE_SHARE * epsilon))
    too_far = base.angles.unsqueeze(-1) > torch.where(is_nearest, allowed.unsqueeze(-2), _TIGHT_ANGLE)
    of_base = (undecided.unsqueeze(-2) & matters & too_far).any(-1)
    return with_neighbours(of_base, base.angles), with_neighbours(of_tuned, tuned.angles[:, :k])


def with_neighbours(wanted: Tensor, angles: Tensor) -> Tensor:
    """Add the inaccurate vectors before the last wanted one: they limit what can be proved about it."""
    before = wanted.flip(-1).cummax(-1).values.flip(-1)
    return wanted | (before & (angles > LOOSE_ANGLE))


def _decide_rest(
    batch: Pair, spaces: _Spaces, snapshot: _Snapshot, update: MeasuredUpdate, known: KnownBase
) -> Decisions:
    k, epsilon, floor = spaces.k, spaces.epsilon, spaces.base.floor
    by_mass, by_overlap = decided(snapshot.intervals, epsilon, _MARGIN)
    upper = snapshot.intervals.upper
    matrices = snapshot.undecided.any(-1).nonzero().squeeze(-1)
    if len(matrices) > 0 and not spaces.base.is_complete:
        undecided = snapshot.undecided[matrices]
        bounded, floor[matrices] = bound_by_moments(
            Dense(batch.base).select(matrices),
            snapshot.base.select(matrices),
            snapshot.tuned.select(matrices),
            undecided,
            epsilon - _MARGIN,
            floor[matrices],
        )
        lower_of_both = torch.minimum(upper[matrices], bounded.upper)
        upper = upper.index_copy(0, matrices, torch.where(undecided, lower_of_both, upper[matrices]))
    intruder = upper < epsilon - _MARGIN
    names = torch.where(by_overlap, 0, torch.where(by_mass, 1, torch.where(intruder, 2, 3)))
    left = snapshot.base.left[:, : spaces.base_count]
    decisions = Decisions(
        values=snapshot.tuned.values[:, :k].double(),
        lower=snapshot.intervals.lower,
        upper=upper,
        intruder=intruder,
        certificate=[[_NAMES[name] for name in row] for row in names.tolist()],
        ambiguous=torch.zeros_like(intruder),
        base_values=snapshot.base.values[:, : spaces.base_count].double(),
        similarity=(left @ snapshot.tuned.left[:, :k].mT).abs().double(),
        change=spectral_change(_with_right(snapshot.base, batch, spaces), snapshot.tuned, batch.update, k),
        update=update,
        known=replace(known, floor=floor),
    )
    left_open = (~(by_overlap | intruder).all(-1) | snapshot.is_doubtful).nonzero().squeeze(-1)
    if len(left_open) > 0:
        all_vectors = spaces.base.all_vectors
        all_known = None if all_vectors is None else all_vectors.select(left_open)
        some, of_some = batch.select(left_open), update.select(left_open)
        others = decide_dense(some, k, epsilon, spaces.base_count, of_some, gram_svd, all_known)
        decisions = decisions.with_rows(left_open, others)
    return decisions


def _with_right(base: Triplets, batch: Pair, spaces: _Spaces) -> Triplets:
    """Return the base's triplets with the k leading right vectors, which are computed where only left ones are kept."""
    if not spaces.base.is_complete:
        return base
    k = spaces.k
    values = base.values[:, :k, None].clamp_min(torch.finfo(base.values.dtype).tiny)
    different = 1 if spaces.base.is_shared else len(base.left)
    products = Dense(batch.base[:different]).apply_transpose(base.left[:different, :k])
    return replace(base, right=products / values.to(products.dtype))


NAME = "coordinates"
# The problem in coordinates has 2r unknowns a vector: beyond this share of the smaller side products with the matrix
# itself cost less.
_LARGEST_SHARE = 8
LARGEST_RANK = 64


def fits_coordinates(rank: int, k: int, shape: torch.Size) -> bool:
    smaller = min(shape[-2:])
    return 0 < rank <= min(LARGEST_RANK, smaller // _LARGEST_SHARE) and 4 * (k + 4) <= smaller


def coordinates_of(batch: Pair, whole: WholeBase, k: int) -> Coordinates | None:
    """Return a batch in its bases' coordinates, or None where it is not decided there."""
    tuned = batch.tuned
    if not isinstance(tuned, LowRank) or not fits_coordinates(tuned.rank, k, batch.base.shape):
        return None
    return Coordinates.of(whole, tuned.svd)


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


def decided(bounds: Intervals, epsilon: float, margin: float = _COORDINATE_MARGIN) -> tuple[Tensor, Tensor]:
    """Masks ``(batch, k)`` of intruders, and of vectors that resemble a base vector."""
    return bounds.upper < epsilon - margin, bounds.lower >= epsilon + margin


def _change(coordinates: Coordinates, leading: LeadingVectors, k: int) -> SpectralChange:
    """Measure how the leading triplets moved from their coordinates: inner products are the same there."""
    update, known = coordinates.update(), coordinates.values
    p, values = known.shape[-1], known[:, : k + 1]
    none = torch.zeros_like(values)
    left, right = (torch.eye(k, side).to(values).expand(len(values), -1, -1) for side in update.shape[-2:])
    base = Triplets(values, left, right, none, none)
    products = update.apply_transpose(leading.rows)
    products[..., :p] += leading.rows[..., :p] * known.unsqueeze(-2)
    right = products / leading.values.unsqueeze(-1).clamp_min(torch.finfo(values.dtype).tiny)
    after = torch.cat(
        [leading.values, leading.floor.clamp_max(torch.finfo(values.dtype).max).unsqueeze(-1)], -1
    )
    residuals = torch.nn.functional.pad(leading.residuals, (0, 1))
    tuned = Triplets(after, leading.rows, right, residuals, torch.zeros_like(after))
    return spectral_change(base, tuned, update, k, is_orthonormal=True)
