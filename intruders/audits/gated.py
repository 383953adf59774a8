"""What the gates of ``--fail-above`` and ``--fail-above-nats`` ask of an audited model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..checkpoints.pairing.pairing import SkipKind, Skipped
from .audit_settings import AuditSettings
from .result.audit_result import Audit
from .result.forgetting import Forgetting, why_not_predicted
from .result.summary import left_open_in_words, matrices_on_one_side, median_rank, not_compared


@dataclass(frozen=True)
class Gated:
    """What the gates ask of one audited model, alone or in a fleet."""

    matrices: int  # that differ
    intruders: int
    not_finite: int  # matrices that are skipped for NaN or infinity
    largest_update: float  # relative to its matrix; 0 where there is none
    largest_in: str  # the name of that matrix
    rank: float  # median effective rank of their updates
    nothing: Skipped | None  # a matrix that could not be compared, where none could
    on_one_side: Sequence[Skipped]
    forgetting: Forgetting | None

    @classmethod
    def of(cls, audit: Audit) -> "Gated":
        names = [matrix.name for matrix in audit.matrices]
        sizes = [
            (own.relative_update, own.name) for own in audit.matrices if not math.isnan(own.relative_update)
        ]
        largest_update, largest_in = max(sizes, default=(0.0, ""))
        return cls(
            matrices=len(names),
            intruders=audit.intruders,
            not_finite=sum(skipped.kind == SkipKind.NOT_FINITE for skipped in audit.skipped),
            largest_update=largest_update,
            largest_in=largest_in,
            rank=median_rank(audit.matrices),
            nothing=not_compared(names, audit.skipped),
            on_one_side=matrices_on_one_side(names, audit.skipped, AuditSettings.of(audit)),
            forgetting=audit.forgetting,
        )

    def why_open(self, limit: int) -> str | None:
        """Return why the number of intruders does not tell whether the model keeps to a limit; None where it does."""
        if self.nothing is not None:
            return f"no matrix could be compared; {self.nothing.name}: {self.nothing.reason}"
        return None if self.intruders > limit else left_open_in_words(self.on_one_side)

    def why_nats_open(self, limit: float) -> str | None:
        """As :meth:`why_open`, of a limit in nats."""
        if self.forgetting is not None and self.forgetting.is_above(limit):
            return None
        why = self.why_open(self.intruders)
        if why is not None or not self.matrices:
            return why
        if self.forgetting is None:
            return why_not_predicted(self.rank)
        return f"{self.forgetting.not_counted} are not counted" if self.forgetting.left_out else None
