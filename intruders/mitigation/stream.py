"""The matrices with intruders, read one by one, with the parts of them that interventions scale."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from ..checkpoints.pairing import LoadedPair, MatrixPair
from ..detection.stack import Stack
from ..detection.table import Audit, Matrix
from ..errors import NonFiniteError, PairingError
from ..linalg.krylov import KrylovSpace, converge
from ..linalg.lowrank import lowrank_svd
from ..linalg.operators import Dense
from ..linalg.svd import dense_svd
from .components import ANGLE, Components, find_components
from .controls import INTRUDERS, intruder_places, scaled_places
from .interventions import Affected, Update

# Small matrices of one shape are worked on together, up to this many bytes.
_STACK_BYTES = 48 * 2**20
# Audit and weights belong together when the singular values agree to this share of the largest.
_SAME_VALUE = 1e-2
_KRYLOV_ROUNDS = 8


def affected_matrices(
    pairs: Sequence[MatrixPair], audit: Audit, controls: Collection[str], seed: int, device: torch.device
) -> Iterator[Affected]:
    """Every audited matrix with intruders, with the parts that ``controls`` need; grouped by shape, not in order.

    Raises:
      PairingError: the audit is of other weights than these.
      NonFiniteError: a matrix holds NaN or infinity.
    """
    by_name = {pair.name: pair for pair in pairs}
    waiting: dict[object, list[tuple[Matrix, LoadedPair]]] = {}
    for matrix in audit.matrices:
        if matrix.intruders == 0:
            continue
        pair = by_name.get(matrix.name)
        if pair is None or pair.shape != matrix.shape:
            raise _other_weights(audit, matrix.name, "is not there, or has another shape")
        loaded = pair.load()
        if loaded is None:
            raise _other_weights(audit, matrix.name, "is the same in base and tuned")
        wide = _widened(loaded, device, matrix.name)
        key = (matrix.shape, None if wide.left is None else wide.left.shape[1], wide.base.dtype)
        group = waiting.setdefault(key, [])
        group.append((matrix, wide))
        if (len(group) + 1) * wide.base.nbytes > _STACK_BYTES:
            yield from _affected(waiting.pop(key), audit, controls, seed)
    for group in waiting.values():
        yield from _affected(group, audit, controls, seed)


def _affected(
    members: list[tuple[Matrix, LoadedPair]], audit: Audit, controls: Collection[str], seed: int
) -> Iterator[Affected]:
    stack = _stacked([loaded for _, loaded in members])
    matrices = [matrix for matrix, _ in members]
    places = {INTRUDERS: [intruder_places(matrix) for matrix in matrices]}
    parts = {INTRUDERS: _components(stack, matrices, places[INTRUDERS], audit, from_update=True)}
    for control in sorted({"random", "neighbours"} & set(controls)):
        places[control] = [scaled_places(matrix, control, seed) for matrix in matrices]
        parts[control] = _components(stack, matrices, places[control], audit, from_update=False)
    updates = [_update(loaded) for _, loaded in members]
    if "update" in controls:
        places["update"] = [list(range(len(wanted))) for wanted in places[INTRUDERS]]
        parts["update"] = [
            leading_components(update, len(wanted))
            for update, wanted in zip(updates, places["update"], strict=True)
        ]
    for i, matrix in enumerate(matrices):
        yield Affected(
            matrix.name,
            matrix.shape,
            updates[i],
            {control: found[i] for control, found in parts.items()},
            {control: found[i] for control, found in places.items()},
        )


def _stacked(loaded: list[LoadedPair]) -> Stack:
    def side(name: str) -> Tensor | None:
        tensors = [getattr(pair, name) for pair in loaded]
        return None if tensors[0] is None else torch.stack(tensors)

    return Stack(torch.stack([pair.base for pair in loaded]), side("tuned"), side("left"), side("right"))


def _components(
    stack: Stack, matrices: list[Matrix], places: list[list[int]], audit: Audit, from_update: bool
) -> list[Components]:
    known = [[vector.singular_value for vector in matrix.vectors] for matrix in matrices]
    # A matrix whose every vector is an intruder has no other to take; the rest goes on without it.
    some = [i for i, wanted in enumerate(places) if wanted]
    nothing = stack.base.new_zeros(0, dtype=torch.float64)
    m, n = stack.base.shape[-2:]
    none = Components(nothing, nothing.reshape(0, m), nothing.reshape(0, n))
    found = [none] * len(places)
    if some:
        chosen = stack if len(some) == len(places) else stack.select(torch.tensor(some))
        parts = find_components(chosen, [places[i] for i in some], [known[i] for i in some], from_update)
        for i, part in zip(some, parts, strict=True):
            stated = torch.tensor(
                [known[i][j] for j in places[i]], dtype=torch.float64, device=part.values.device
            )
            if float((part.values - stated).abs().max()) > _SAME_VALUE * known[i][0]:
                raise _other_weights(audit, matrices[i].name, "has other singular values than the audit says")
            found[i] = part
    return found


def leading_components(update: Update, count: int) -> Components:
    """The leading ``count`` singular triplets of D; fewer where it has fewer."""
    factors = update.factors()
    if factors is not None:
        svd = lowrank_svd(*factors)
        return Components(svd.values[:count], svd.left[:count], svd.right[:count])
    dense = update.matrix()
    if min(dense.shape) > 8 * count + 64:
        space = KrylovSpace.from_random_block(Dense(dense.unsqueeze(0)), 4, 12)
        triplets = converge(space, count, count + 4, ANGLE, _KRYLOV_ROUNDS)
        if float(triplets.angles[0, :count].max()) <= ANGLE:
            return Components(
                *(part[0, :count].double() for part in (triplets.values, triplets.left, triplets.right))
            )
    svd = dense_svd(dense)
    return Components(svd.values[:count], svd.left[:count], svd.right[:count])


def _update(loaded: LoadedPair) -> Update:
    if loaded.left is not None and loaded.right is not None:
        return Update(loaded.left, loaded.right)
    assert loaded.tuned is not None
    return Update(dense=loaded.tuned - loaded.base)


def _widened(loaded: LoadedPair, device: torch.device, name: str) -> LoadedPair:
    """In single precision; in double where a side came so, or is of a size whose squares single cannot hold."""
    sides = (loaded.base, loaded.tuned, loaded.left, loaded.right)
    given = [side for side in sides if side is not None]
    # One pass for both ends; NaN survives it.
    ends = [end for side in given if side.numel() for end in torch.aminmax(side)]
    if not all(bool(end.isfinite()) for end in ends):
        raise NonFiniteError(f"'{name}' holds NaN or infinity; leave it out with --exclude '{name}'")
    largest = max(abs(float(end)) for end in ends)
    double = any(side.dtype == torch.float64 for side in given) or not 2.0**-20 <= largest <= 2.0**20
    dtype = torch.float64 if double else torch.float32

    def moved(side: Tensor | None) -> Tensor | None:
        return None if side is None else side.to(device, dtype)

    return LoadedPair(
        loaded.base.to(device, dtype), moved(loaded.tuned), moved(loaded.left), moved(loaded.right)
    )


def _other_weights(audit: Audit, name: str, what: str) -> PairingError:
    return PairingError(
        f"the audit of '{audit.base_source}' and '{audit.tuned_source}' is of other weights: '{name}' {what}; "
        "audit these two again"
    )
