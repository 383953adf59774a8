"""What a remedy does to tensors that an audit does not examine: embeddings, norms and biases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..audits.audit_settings import AuditSettings
from ..audits.result.audit_result import Audit
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.names import tensor_of
from ..checkpoints.writing.merged import Elsewhere
from .remedies.position import positions_of
from .remedies.remedy import Remedy


def not_audited(base: Checkpoint, audit: Audit) -> list[str]:
    """The base's tensors that hold no audited matrix."""
    audited = {tensor_of(matrix.name) for matrix in audit.matrices}
    return [name for name in base.names() if name not in audited]


def shares_elsewhere(remedy: Remedy, base_names: Sequence[str], settings: AuditSettings) -> Elsewhere:
    """Return the share of its update that each keeps, by the base's name; ``settings`` are those of the audit."""
    positions = positions_of(base_names)
    wanted = replace(settings, include_embeddings=True)

    def share(name: str) -> float:
        is_left_out = name not in positions or wanted.reason_to_leave_out(name) is not None
        return remedy.share_elsewhere(name, None if is_left_out else positions[name])

    return share
