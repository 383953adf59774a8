"""The matrices that an audit examined, as remedies read and change them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..audits.audit import AuditedWhole
from ..audits.audit_settings import AuditSettings
from ..audits.result.audit_result import Audit
from ..checkpoints.pairing.pairing import PairedMatrix
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.writing.merged import Elsewhere
from .cases import read_cases
from .elsewhere import shares_elsewhere
from .remedies.remedy import Case, Remedy


@dataclass(frozen=True)
class TunedMatrices:
    """Base and update of every audited matrix of a tuned model."""

    base: Checkpoint
    pairs: Sequence[PairedMatrix]
    audit: Audit
    settings: AuditSettings  # of the audit
    device: torch.device

    @classmethod
    def of(cls, base: Checkpoint, audited: AuditedWhole, device: torch.device) -> TunedMatrices:
        """Return the matrices of an audited model."""
        return cls(base, audited.pairing.pairs, audited.audit, audited.settings, device)

    def read(self, remedies: Sequence[Remedy]) -> Iterator[Case]:
        """Read the matrices that some of the remedies change, as :func:`intruders.mitigation.cases.read_cases`."""
        return read_cases(self.pairs, self.audit, remedies, self.base.names(), self.device)

    def cases(self, remedies: Sequence[Remedy]) -> list[Case]:
        """Return all of them at once, for models that are changed again and again."""
        return list(self.read(remedies))

    def fitted(self, remedy: Remedy) -> Remedy:
        """Return the remedy with what it must know of all audited matrices together."""
        audited = {matrix.name for matrix in self.audit.matrices}
        return remedy.fitted([pair for pair in self.pairs if pair.name in audited], self.base.config)

    def elsewhere(self, remedy: Remedy) -> Elsewhere:
        """Return the share of its update that a remedy leaves to every tensor that was not audited."""
        return shares_elsewhere(remedy, [*self.base.names(), *self.base.tied], self.settings)

    @property
    def leave_some_out(self) -> bool:
        """Whether the selection excludes tensors by name."""
        return bool(self.audit.settings.get("include") or self.audit.settings.get("exclude"))
