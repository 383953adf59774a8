"""The matrices that an audit examined, as remedies read and change them, and all else that was tuned."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..audits.audit import AuditedWhole
from ..audits.audit_settings import AuditSettings
from ..audits.batches import Batch, NotJudged, of_one_model, read_batches
from ..audits.result.audit_result import Audit
from ..audits.result.records import AuditedMatrix
from ..checkpoints.pairing.pairing import PairedMatrix
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.names import tensor_of
from ..checkpoints.writing.merged import Elsewhere
from ..engine.components import find_components, leading_components
from ..errors import PairingError, SettingError
from ..linalg.low_rank import LowRank
from ..linalg.operators import Dense, Update
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
    pairs: Sequence[PairedMatrix]
    audit: Audit
    settings: AuditSettings  # of the audit
    device: torch.device

    @classmethod
    def of(cls, base: Checkpoint, audited: AuditedWhole, device: torch.device) -> "TunedMatrices":
        return cls(base, audited.pairing.pairs, audited.audit, audited.settings, device)

    def cases(self, remedies: Sequence[Remedy]) -> list[Case]:
        """Return all of :meth:`read` at once, for models that are changed again and again."""
        return list(self.read(remedies))

    def fitted(self, remedy: Remedy) -> Remedy:
        """Return the remedy with what it must know of all audited matrices together."""
        audited = {matrix.name for matrix in self.audit.matrices}
        return remedy.fitted([pair for pair in self.pairs if pair.name in audited], self.base.config)

    def elsewhere(self, remedy: Remedy) -> Elsewhere:
        """Return the share of its update that a remedy leaves to every tensor that was not audited."""
        positions = positions_of([*self.base.names(), *self.base.tied])
        wanted = replace(self.settings, include_embeddings=True)

        def share(name: str) -> float:
            is_left_out = name not in positions or wanted.reason_to_leave_out(name) is not None
            return remedy.share_elsewhere(name, None if is_left_out else positions[name])

        return share

    @property
    def leave_some_out(self) -> bool:
        """Whether the selection excludes tensors by name."""
        return bool(self.audit.settings.get("include") or self.audit.settings.get("exclude"))

    def reached(self, remedies: Sequence[Remedy]) -> list[AuditedMatrix]:
        everywhere = any(remedy.reach != "intruders" for remedy in remedies)
        return [matrix for matrix in self.audit.matrices if everywhere or matrix.intruders > 0]

    def not_audited(self) -> list[str]:
        audited = {tensor_of(matrix.name) for matrix in self.audit.matrices}
        return [name for name in self.base.names() if name not in audited]

    def read(self, remedies: Sequence[Remedy]) -> Iterator[Case]:
        """Yield every audited matrix that ``remedies`` reach, with what they need; by shape, not in the audit's order.

        Raises:
          PairingError: the audit is of other weights than these.
          SettingError: a remedy cannot change an update of such a rank.
          NonFiniteError: a matrix holds NaN or infinity.
        """
        by_name = {pair.name: pair for pair in self.pairs}
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
            matrices = [audited[pair.name] for pair in batch.matrices]
            is_compared = any(matrix.name in compared for matrix in matrices)
            updates = [
                update if unit == 1.0 else update.double().scaled(unit)
                for index, unit in enumerate(batch.units)
                for update in [batch.pair.select(index).update]
            ]
            for matrix, update in zip(matrices, updates, strict=True):
                self._require_same_norm(matrix, update)
            needing = (ScaledIntruders(0), *remedies) if is_compared else remedies
            parts = self._parts(batch, matrices, updates, needing)
            for index, (matrix, update, known) in enumerate(zip(matrices, updates, parts, strict=True)):
                base, unit, threshold = batch.pair.base[index], batch.units[index], None
                if asks:
                    spectrum = spectrum_of(base, self.audit.k)
                    threshold = unit * spiked_threshold(spectrum, self.audit.k, self.audit.epsilon)
                whole = unit * base if shows_base else None
                yield Case(matrix, update, known, positions[matrix.name], threshold, whole)
        for skipped in left_out.skipped.get(0, ()):
            raise self._other_weights(skipped.name)

    def _parts(
        self,
        batch: Batch,
        matrices: list[AuditedMatrix],
        updates: Sequence[Update],
        remedies: Sequence[Remedy],
    ) -> list[dict[WantedTriplets, Components]]:
        """Return the triplets of each matrix that some of the remedies need."""
        parts: list[dict[WantedTriplets, Components]] = [{} for _ in matrices]
        for remedy in remedies:
            # A remedy needs the same kinds of triplets of every matrix, each matrix its own ones.
            for needs in zip(*(remedy.needs(matrix) for matrix in matrices), strict=True):
                if all(need in known for need, known in zip(needs, parts, strict=True)):
                    continue  # another remedy, or this one at another scale, needs the same
                components = self._needed_components(batch, matrices, updates, needs)
                for known, need, part in zip(parts, needs, components, strict=True):
                    known[need] = part
        return parts

    def _needed_components(
        self,
        batch: Batch,
        matrices: list[AuditedMatrix],
        updates: Sequence[Update],
        needs: Sequence[WantedTriplets],
    ) -> list[Components]:
        """Compute the needed triplets of each matrix, in the units of the checkpoint."""
        if needs[0].of == "update":
            both = zip(updates, needs, strict=True)
            return [leading_components(update, len(need.indices)) for update, need in both]
        most = max((max(need.indices, default=-1) for need in needs), default=-1)
        if needs[0].of == "tuned" and most < min(len(matrix.vectors) for matrix in matrices):
            return self._tuned_components(batch, matrices, [need.indices for need in needs])
        # What the audit knows nothing of: the base's, and more of W than was examined.
        components = []
        for index, need in enumerate(needs):
            pair, unit = batch.pair.select(index), batch.units[index]
            dense = (pair.base if need.of == "base" else pair.dense()).double()
            part = leading_components(Dense(dense), len(need.indices), _CLOSE)
            components.append(part.with_values(unit * part.values))
        return components

    def _tuned_components(
        self, batch: Batch, matrices: list[AuditedMatrix], indices: list[tuple[int, ...]]
    ) -> list[Components]:
        pair = batch.pair
        values = [
            [vector.singular_value / unit for vector in matrix.vectors]
            for matrix, unit in zip(matrices, batch.units, strict=True)
        ]
        # Intruders are mostly the update's doing, and are found from it; other vectors belong to the base.
        both = zip(indices, matrices, strict=True)
        from_update = all(set(wanted) <= set(intruder_indices(matrix)) for wanted, matrix in both)
        nothing = pair.base.new_zeros(0, dtype=torch.float64)
        m, n = pair.base.shape[-2:]
        components = [Components(nothing, nothing.reshape(0, m), nothing.reshape(0, n))] * len(indices)
        # A matrix whose every vector is an intruder has no other to scale; the rest goes on without it.
        some = [i for i, wanted in enumerate(indices) if wanted]
        if not some:
            return components
        chosen = pair if len(some) == len(indices) else pair.select(torch.tensor(some))
        parts = find_components(chosen, [indices[i] for i in some], [values[i] for i in some], from_update)
        for i, part in zip(some, parts, strict=True):
            stated = part.values.new_tensor([values[i][j] for j in indices[i]])
            if float((part.values - stated).abs().max()) > _SAME_VALUE * values[i][0]:
                raise self._other_weights(matrices[i].name)
            components[i] = Components(batch.units[i] * part.values, part.left, part.right)
        return components

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
