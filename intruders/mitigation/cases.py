"""The matrices with intruders, read one by one, with the parts of them that interventions scale."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from ..audits.audit_result import Audit
from ..audits.batches import Batch, read_batches
from ..audits.records import AuditedMatrix
from ..checkpoints.pairing.pairing import PairedMatrix, Skipped
from ..engine.components import ANGLE, Components, find_components
from ..errors import PairingError
from ..linalg.krylov import KrylovSpace, converge
from ..linalg.low_rank import LowRank
from ..linalg.operators import Dense, Update
from ..linalg.svd import dense_svd
from .changes import Added, Change, Shrunk
from .remedies.controls import INTRUDERS, intruder_places, scaled_places

# Audit and weights belong together when the singular values agree to this share of the largest.
_SAME_VALUE = 1e-2

_KRYLOV_ROUNDS = 8


def affected_matrices(
    pairs: Sequence[PairedMatrix], audit: Audit, controls: Collection[str], seed: int, device: torch.device
) -> Iterator[Affected]:
    """Every audited matrix with intruders, with the parts that ``controls`` need; grouped by shape, not in order.

    Raises:
      PairingError: the audit is of other weights than these.
      NonFiniteError: a matrix holds NaN or infinity.
    """
    by_name = {pair.name: pair for pair in pairs}
    judged = {matrix.name: matrix for matrix in audit.matrices if matrix.intruders > 0}
    chosen = []
    for name, matrix in judged.items():
        pair = by_name.get(name)
        if pair is None or pair.shape != matrix.shape:
            raise _other_weights(audit, name, "is not there, or has another shape")
        chosen.append(pair)
    left_out: list[Skipped] = []
    for group in read_batches(chosen, device, False, left_out):
        matrices = [judged[pair.name] for pair in group.pairs]
        yield from _affected(group, matrices, audit, controls, seed)
    if left_out:
        raise _other_weights(audit, left_out[0].name, "is the same in base and tuned")


def _affected(
    group: Batch, matrices: list[AuditedMatrix], audit: Audit, controls: Collection[str], seed: int
) -> Iterator[Affected]:
    places = {INTRUDERS: [intruder_places(matrix) for matrix in matrices]}
    parts = {INTRUDERS: _components(group, matrices, places[INTRUDERS], audit, from_update=True)}
    for control in sorted({"random", "neighbours"} & set(controls)):
        places[control] = [scaled_places(matrix, control, seed) for matrix in matrices]
        parts[control] = _components(group, matrices, places[control], audit, from_update=False)
    updates = [_update(group, i) for i in range(len(group.pairs))]
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


def _components(
    group: Batch, matrices: list[AuditedMatrix], places: list[list[int]], audit: Audit, from_update: bool
) -> list[Components]:
    """Of each matrix the triplets at its places, in the units of the checkpoint."""
    stack = group.stack
    known = [
        [vector.singular_value / scale for vector in matrix.vectors]
        for matrix, scale in zip(matrices, group.scales, strict=True)
    ]
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
            found[i] = Components(group.scales[i] * part.values, part.left, part.right)
    return found


def leading_components(update: Update, count: int) -> Components:
    """The leading ``count`` singular triplets of D; fewer where it has fewer."""
    if isinstance(update, LowRank):
        svd = update.svd()
        return Components(svd.values[:count], svd.left[:count], svd.right[:count])
    if min(update.shape) > 8 * count + 64:
        space = KrylovSpace.from_random_block(Dense(update.matrix.unsqueeze(0)), 4, 12)
        triplets = converge(space, count, count + 4, ANGLE, _KRYLOV_ROUNDS)
        if float(triplets.angles[0, :count].max()) <= ANGLE:
            return Components(
                *(part[0, :count].double() for part in (triplets.values, triplets.left, triplets.right))
            )
    svd = dense_svd(update.matrix)
    return Components(svd.values[:count], svd.left[:count], svd.right[:count])


def _update(group: Batch, index: int) -> Update:
    """D of one matrix, in the units of the checkpoint."""
    update, scale = group.stack.select(index).update, group.scales[index]
    return update if scale == 1.0 else update.double().scaled(scale)


def _other_weights(audit: Audit, name: str, what: str) -> PairingError:
    return PairingError(
        f"the audit of '{audit.base_source}' and '{audit.tuned_source}' is of other weights: '{name}' {what}; "
        "audit these two again"
    )


@dataclass(frozen=True)
class Affected:
    """A matrix with intruders, and the parts that interventions on it are made of."""

    name: str
    shape: tuple[int, int]
    update: Update = field(repr=False)
    parts: dict[str, Components] = field(repr=False)  # by control; those of "intruders" are always there
    places: dict[str, list[int]] = field(
        repr=False
    )  # of the same, in W's descending order (of "update": in D's)

    def change(self, scale: float, control: str) -> Change:
        """The matrix under ``control`` (or "intruders") at ``scale``."""
        if control == "shrink":
            return Shrunk(self.norm_after(scale, control) / self.update.norm())
        return Added(self._scaled(scale, control))

    def norm_after(self, scale: float, control: str) -> float:
        """``||W' - W0||_F`` under ``control`` at ``scale``, from inner products."""
        # To shrink is to give the whole update the norm that it has after the mitigation.
        change = self._scaled(scale, "intruders" if control == "shrink" else control)
        squared = self.update.norm() ** 2 + 2 * self.update.inner(change) + change.inner(change)
        return math.sqrt(max(0.0, squared))

    def _scaled(self, scale: float, control: str) -> LowRank:
        """What scaling the parts of a control adds to W."""
        return LowRank(*self.parts[control].factors(scale - 1.0))
