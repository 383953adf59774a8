"""The moment certificate of a stack: which undecided vectors can resemble no base vector at all?"""

from __future__ import annotations

import torch
from torch import Tensor

from ..linalg.floor import smallest_eigenvalue_floor
from ..linalg.moments import Bidiagonalization, largest_atom, smallest_node
from ..linalg.operators import Operator
from ..linalg.overlap import Intervals, moment_intervals, remainders
from ..linalg.products import is_shared
from ..linalg.ritz import Triplets

# Total Lanczos steps after which the bounds are looked at. A look costs a tenth of a step of a matrix of 1024 rows, and
# more with every step; the dense decomposition costs hundreds of passes.
_STEPS = (8, 10, 12, 14, 16, 18, 21, 24, 28, 33, 39, 47, 56, 80)
# Steps after which the floor under a tall matrix's singular values is looked for.
_FLOOR_AT = 14


def bound_by_moments(
    operator: Operator, base: Triplets, tuned: Triplets, undecided: Tensor, below: float, floor: Tensor
) -> tuple[Intervals, Tensor]:
    """Intervals of the max cosines of the ``undecided`` ``(batch, k)`` vectors from the moment certificate.

    Takes as many Lanczos steps as it needs to bring the upper ends of all of them under ``below``, up to a limit.
    ``floor`` ``(batch)`` is what is known of the smallest eigenvalue of W^T W, 0 for nothing; for tall matrices it is
    looked for when the first steps are not enough, and returned with the intervals.
    """
    k = undecided.shape[-1]
    _, m, n = operator.shape
    # Where a computed base vector is already as near, nothing that is known of the others can help.
    nothing = torch.zeros(undecided.shape, dtype=torch.float64, device=undecided.device)
    undecided = undecided & (moment_intervals(base, tuned, k, nothing).upper < below)
    if not bool(undecided.any()):
        return moment_intervals(base, tuned, k, torch.ones_like(nothing)), floor
    rest = remainders(base, tuned, k)
    size = int(undecided.sum(-1).max())
    chosen = undecided.int().argsort(dim=-1, descending=True, stable=True)[:, :size]  # (batch, size)
    starts = rest.gather(1, chosen.unsqueeze(-1).expand(*chosen.shape, m))
    mass = starts.double().square().sum(-1)  # (batch, size)
    process = Bidiagonalization.start(torch.nn.functional.normalize(starts, dim=-1))
    atoms = torch.ones_like(undecided, dtype=torch.float64)
    floor = floor.clone()
    active = torch.arange(len(starts), device=starts.device)
    taken = 0
    for total in _STEPS:
        # On W itself: were the computed base vectors projected out at the steps, their errors would turn the others.
        process = process.extended(operator.select(active), total - taken, base.values[active, 0])
        taken = total
        if m > n and total == _FLOOR_AT:
            unknown = active[floor[active] == 0]
            guesses = smallest_node(process)[floor[active] == 0]
            floor[unknown] = _floors(operator.select(unknown), guesses)
        bound = mass[active] * largest_atom(process, floor[active], base.values[active, 0])
        # Every number of steps proves a bound of its own; the least counts.
        bound = torch.minimum(bound, atoms[active].gather(1, chosen[active]))
        atoms[active] = atoms[active].scatter(1, chosen[active], bound)
        intervals = moment_intervals(base, tuned, k, atoms)
        still = (undecided & (intervals.upper >= below)).any(-1)[active]
        process, active = process.select(still.nonzero().squeeze(-1)), active[still]
        if len(active) == 0:
            break
    return moment_intervals(base, tuned, k, atoms), floor


def _floors(operator: Operator, guesses: Tensor) -> Tensor:
    """Proved lower bounds ``(batch)`` on the eigenvalues of W^T W, which rule out tiny singular values."""
    matrices = operator.dense()
    if is_shared(matrices):  # a fact about the one matrix, proved once
        floor = smallest_eigenvalue_floor(matrices[0], float(guesses.min()))
        return torch.full_like(guesses, floor, dtype=torch.float64)
    floors = [
        smallest_eigenvalue_floor(matrix, float(guess))
        for matrix, guess in zip(matrices, guesses, strict=True)
    ]
    return torch.tensor(floors, dtype=torch.float64, device=guesses.device)
