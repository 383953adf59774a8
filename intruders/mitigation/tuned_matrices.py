"""The matrices that an audit examined, as remedies read and change them, and all else that was tuned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..audits.audit import AuditedWhole
from ..audits.batches import NotJudged, of_one_model, read_batches
from ..audits.result.audit_result import Audit
from ..audits.result.records import AuditedMatrix
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.writing.merged import Elsewhere
from ..engine.components import find_components, leading_components
from ..errors import PairingError, SettingError
from ..linalg.low_rank import LowRank
from ..linalg.operators import Dense, Update
from ..linalg.pair import Pair
from ..linalg.spiked_threshold import spectrum_of, spiked_threshold
from ..linalg.svd import Components
from .remedies.remedy import Case, Remedy, ScaledIntruders, WantedTriplets, intruder_indices, positions_of

# Audit and weights belong together when the norms of updates agree to this share, and singular values of intruders to
# this share of the largest. An update's norm is cheap. Triplets take minutes where a 7B model has many intruders, so
# where no remedy needs them they are compared in a few matrices, which is enough to tell another base.
_SAME_VALUE = 1e-2
_COMPARED = 8
_ROUNDING = 1e-7

# Angle of vectors of which an update is freed: what is left along them is this share of it.
_CLOSE = 1e-9


@dataclass(frozen=True)
class TunedMatrices:
    """Base and update of every audited matrix of a tuned model."""

    base: Checkpoint
    audited: AuditedWhole
    device: torch.device

    @property
    def audit(self) -> Audit:
        return self.audited.audit

    def fitted(self, remedy: Remedy) -> Remedy:
        """Return the remedy with what it must know of all audited matrices together."""
        audited = {matrix.name for matrix in self.audit.matrices}
        return remedy.fitted(
            [pair for pair in self.audited.pairing.pairs if pair.name in audited], self.base.config
        )

    def elsewhere(self, remedy: Remedy) -> Elsewhere:
        """Return the share of its update that a remedy leaves to every tensor that was not audited."""
        positions = positions_of([*self.base.names(), *self.base.tied])
        wanted = replace(self.audited.settings, include_embeddings=True)

        def share(name: str) -> float:
            is_left_out = name not in positions or wanted.reason_to_leave_out(name) is not None
            return remedy.share_elsewhere(name, None if is_left_out else positions[name])

        return share

    def reached(self, remedies: Sequence[Remedy]) -> list[AuditedMatrix]:
        everywhere = any(remedy.reach != "intruders" for remedy in remedies)
        return [matrix for matrix in self.audit.matrices if everywhere or matrix.intruders > 0]

    def read(self, remedies: Sequence[Remedy]) -> Iterator[Case]:
        """Yield every audited matrix that ``remedies`` reach, with what they need; by shape, not in the audit's order.

        PairingError if the audit is of other weights, SettingError if a remedy cannot change an update of such a rank,
        NonFiniteError for NaN or infinity.
        """
        by_name = {pair.name: pair for pair in self.audited.pairing.pairs}
        audited = {matrix.name: matrix for matrix in self.reached(remedies)}
        for name, matrix in audited.items():
            if name not in by_name or by_name[name].shape != matrix.shape:
                raise self._other_weights(name)
            for remedy in remedies:
                if (reason := remedy.refusal(name, matrix.shape, by_name[name].rank)) is not None:
                    raise SettingError(reason)
        positions = positions_of(dict.fromkeys([*self.base.names(), *by_name]))
        asks = any(remedy.needs_threshold for remedy in remedies)
        shows_base = any(remedy.needs_base for remedy in remedies)
        names = [name for name, matrix in audited.items() if matrix.intruders > 0]
        count = min(_COMPARED, len(names))
        compared = {names[index * len(names) // count] for index in range(count)}  # evenly over them
        left_out = NotJudged()
        chosen = of_one_model([by_name[name] for name in audited])
        for batch in read_batches(chosen, self.device, left_out):
            for index, (paired, unit) in enumerate(zip(batch.matrices, batch.units, strict=True)):
                matrix, pair = audited[paired.name], batch.pair.select(index)
                update = pair.update if unit == 1.0 else pair.update.double().scaled(unit)
                self._require_same_norm(matrix, update)
                needing = (ScaledIntruders(0), *remedies) if matrix.name in compared else remedies
                # Two remedies, or one at two scales, can need the same.
                needs = dict.fromkeys(need for remedy in needing for need in remedy.needs(matrix))
                parts = {need: self._components(matrix, pair, unit, update, need) for need in needs}
                threshold = None
                if asks:
                    spectrum = spectrum_of(pair.base, self.audit.k)
                    threshold = unit * spiked_threshold(spectrum, self.audit.k, self.audit.epsilon)
                whole = unit * pair.base if shows_base else None
                yield Case(matrix, update, parts, positions[matrix.name], threshold, whole)
        for skipped in left_out.skipped.get(0, ()):
            raise self._other_weights(skipped.name)

    def _components(
        self, matrix: AuditedMatrix, pair: Pair, unit: float, update: Update, need: WantedTriplets
    ) -> Components:
        """Compute triplets of a matrix, in the units of the checkpoint."""
        count = len(need.indices)
        if need.of == "update":
            return leading_components(update, count)
        if need.of == "tuned" and max(need.indices, default=-1) < len(matrix.vectors):
            part = self._examined(matrix, pair, unit, need.indices)
        else:
            # What the audit knows nothing of: the base's, and more of W than was examined.
            dense = (pair.base if need.of == "base" else pair.dense()).double()
            part = leading_components(Dense(dense), count, _CLOSE)
        return part.with_values(unit * part.values)

    def _examined(
        self, matrix: AuditedMatrix, pair: Pair, unit: float, indices: tuple[int, ...]
    ) -> Components:
        if not indices:  # a matrix whose every vector is an intruder has no other to scale
            m, n = matrix.shape
            nothing = pair.base.new_zeros(0, dtype=torch.float64)
            return Components(nothing, nothing.reshape(0, m), nothing.reshape(0, n))
        values = [vector.singular_value / unit for vector in matrix.vectors]
        # Intruders are mostly the update's doing, and are found from it; other vectors belong to the base.
        from_update = set(indices) <= set(intruder_indices(matrix))
        part = find_components(pair, indices, values, from_update)
        stated = part.values.new_tensor([values[index] for index in indices])
        if float((part.values - stated).abs().max()) > _SAME_VALUE * values[0]:
            raise self._other_weights(matrix.name)
        return part

    def _require_same_norm(self, matrix: AuditedMatrix, update: Update) -> None:
        if self.audit.settings.get("base_dtype") is not None:
            return  # its updates are those of a rounded base
        stated = matrix.update.frobenius
        # Parts of a sum may cancel, and then the norm is as wrong as rounding of the parts.
        parts = float(update.left.norm() * update.right.norm()) if isinstance(update, LowRank) else 0.0
        if abs(update.norm() - stated) > _SAME_VALUE * stated + _ROUNDING * parts:
            raise self._other_weights(matrix.name)

    def _other_weights(self, name: str) -> PairingError:
        return PairingError(
            f"the audit of '{self.audit.base_source}' and '{self.audit.tuned_source}' is of other weights: '{name}' "
            "differs; audit these two again"
        )
