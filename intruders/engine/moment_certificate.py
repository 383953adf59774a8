"""The moment certificate of a batch: which undecided vectors can resemble no base vector at all?"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..linalg.column_space import ColumnSpace, project_each
from ..linalg.moments import Bidiagonalization, largest_atom
from ..linalg.operators import Operator
from ..linalg.overlap import Intervals, MomentIntervals, remainders
from ..linalg.products import is_shared
from ..linalg.ritz import Triplets

# Total Lanczos steps after which the bounds are looked at. A look costs a tenth of a step of a matrix of 1024 rows, and
# more with every step; the dense decomposition costs hundreds of passes.
_STEPS = (8, 10, 12, 14, 16, 18, 21, 24, 28, 33, 39, 47, 56, 80)
# Steps of a tall matrix after which its column space is computed, for a floor under the singular values, and after
# which the vectors are projected onto it, and the steps begin again.
_FLOOR_AT = 14
_PROJECTED_AT = 18
# A projection is refined until its error is below this. Whatever it is counts in the bound.
_PROJECTION_ERROR = 1e-3


def bound_by_moments(
    operator: Operator, base: Triplets, tuned: Triplets, undecided: Tensor, below: float, floor: Tensor
) -> tuple[Intervals, Tensor]:
    """Bound the max cosines of the ``undecided`` ``(batch, k)`` vectors by the moment certificate.

    Takes as many Lanczos steps as it needs to bring the upper ends of all of them under ``below``, up to a limit.
    ``floor`` ``(batch)`` is what is known of the smallest eigenvalue of W^T W, 0 for nothing; for tall matrices it is
    looked for when the first steps are not enough, and returned with the intervals.
    """
    k = undecided.shape[-1]
    # Where a computed base vector is already as near, nothing that is known of the others can help.
    nothing = torch.zeros(undecided.shape, dtype=torch.float64, device=undecided.device)
    intervals = MomentIntervals.of(base, tuned, k)
    undecided = undecided & (intervals.given(nothing).upper < below)
    search = _BoundSearch(operator, base, tuned, intervals, undecided, below, floor)
    if not search.is_tall:
        search.take_steps(*search.remainders(), _STEPS)
    else:
        search.take_steps(*search.remainders(), [total for total in _STEPS if total <= _PROJECTED_AT])
        search.take_steps(*search.projections(), _STEPS)
    return intervals.given(search.atoms), search.floor


class _BoundSearch:
    """The undecided vectors of a batch with their least bounds so far, and what is known of its matrices."""

    def __init__(
        self,
        operator: Operator,
        base: Triplets,
        tuned: Triplets,
        intervals: MomentIntervals,
        undecided: Tensor,
        below: float,
        floor: Tensor,
    ) -> None:
        self.operator, self.base, self.tuned, self.intervals = operator, base, tuned, intervals
        self.undecided, self.below = undecided, below
        self.floor = floor.clone()
        # Of the mass along any one base vector. Every number of steps proves a bound of its own; the least counts.
        self.atoms = torch.ones(undecided.shape, dtype=torch.float64, device=undecided.device)
        size = int(undecided.sum(-1).max())
        undecided_first = undecided.int().argsort(dim=-1, descending=True, stable=True)
        self._chosen = undecided_first[:, :size]  # (batch, size)
        self._spaces: dict[int, ColumnSpace | None] = {}

    @property
    def is_tall(self) -> bool:
        return self.operator.shape[-2] > self.operator.shape[-1]

    def remainders(self) -> tuple[Tensor, Tensor, Tensor]:
        """Open matrices ``(b)``, what their base vectors leave of tuned ones ``(b, size, m)``, and errors of zero."""
        matrices = self._open()
        chosen = self._chosen[matrices]
        rest = remainders(self.base.select(matrices), self.tuned.select(matrices), self.undecided.shape[-1])
        rest = rest.gather(1, chosen.unsqueeze(-1).expand(*chosen.shape, rest.shape[-1]))
        return matrices, rest, torch.zeros(chosen.shape, dtype=torch.float64, device=rest.device)

    def projections(self) -> tuple[Tensor, Tensor, Tensor]:
        """Project the :meth:`remainders` onto the column spaces of those matrices that have full rank.

        Also bounds ``(b, size)`` on the errors of that.
        """
        matrices, rest, errors = self.remainders()
        self._find_spaces(matrices)
        spaces = [(i, self._spaces[matrix]) for i, matrix in enumerate(matrices.tolist())]
        proved = [(i, space) for i, space in spaces if space is not None]
        if proved:
            rows = [rest[i] for i, _ in proved]
            projections = project_each([space for _, space in proved], rows, _PROJECTION_ERROR)
            for (i, _), (projected, error) in zip(proved, projections, strict=True):
                rest[i], errors[i] = projected, error
        return matrices, rest, errors

    def take_steps(self, active: Tensor, starts: Tensor, errors: Tensor, steps: Sequence[int]) -> None:
        """Lanczos steps of the ``active`` matrices, until their vectors are bounded or at most as many as the last of
        ``steps``.

        The cosine of a vector with a base vector differs from that of its start, not normalized, by ``errors`` at most.
        """
        mass = starts.double().square().sum(-1)
        process = Bidiagonalization.start(torch.nn.functional.normalize(starts, dim=-1))
        taken = 0
        for total in steps:
            if len(active) == 0:
                break
            # On W itself: were the computed base vectors projected out at the steps, their errors would turn others.
            norm = self.base.values[active, 0]
            process = process.extended(self.operator.select(active), total - taken, norm)
            taken = total
            if self.is_tall and total == _FLOOR_AT:
                self._find_spaces(active[self.floor[active] == 0])
            atoms = mass * largest_atom(process, self.floor[active], norm)
            known, chosen = self.atoms[active], self._chosen[active]
            lower = torch.minimum((atoms.sqrt() + errors).square(), known.gather(1, chosen))
            self.atoms[active] = known.scatter(1, chosen, lower)
            still = torch.isin(active, self._open())
            process = process.select(still.nonzero().squeeze(-1))
            active, mass, errors = active[still], mass[still], errors[still]

    def _open(self) -> Tensor:
        """Return the matrices with vectors that no bound decides yet."""
        upper = self.intervals.given(self.atoms).upper
        return (self.undecided & (upper >= self.below)).any(-1).nonzero().squeeze(-1)

    def _find_spaces(self, matrices: Tensor) -> None:
        """Compute the missing column spaces of tall matrices, and floors from them."""
        missing = [matrix for matrix in matrices.tolist() if matrix not in self._spaces]
        if not missing:
            return
        dense, norms = self.operator.dense(), self.base.values[:, 0].tolist()
        is_one = is_shared(dense)  # the same matrix, several times
        spaces = list(self._spaces.values())[:1] if is_one else []
        if not spaces:
            some = missing[:1] if is_one else missing
            spaces = ColumnSpace.of_each([dense[i] for i in some], [norms[i] for i in some])
        spaces = spaces * len(missing) if is_one else spaces
        self._spaces |= dict(zip(missing, spaces, strict=True))
        floors = [0.0 if space is None else space.floor for space in spaces]
        index = torch.tensor(missing, device=self.floor.device)
        self.floor[index] = self.floor[index].maximum(
            torch.tensor(floors, dtype=torch.float64).to(self.floor)
        )
