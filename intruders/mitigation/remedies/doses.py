"""Every update in a dose of its own, learned so that the task is kept and the base comes back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...audits.result.records import AuditedMatrix
from ...errors import SettingError
from ...linalg.low_rank import LowRank
from ...linalg.svd import significant
from ...settings import setting
from ...system.digests import json_digest
from .changes import Change
from .remedy import Case, Position, PublishedRemedy, Remedy, WantedTriplets


@dataclass(frozen=True)
class Doses(PublishedRemedy):
    """``W' = W0 + a_m D_m`` with a dose a_m for every matrix m, or one for every singular direction of its update.

    The doses minimize ``KL(base || model)`` on text and the loss on the task together; ``intruders heal`` learns them.
    Interpolation is the case of one dose for all (WiSE-FT, arXiv 2109.01903); learned coefficients of parts of an
    update are known from merging (aTLAS, arXiv 2407.02880). At the share s the dose is ``1 + s (a_m - 1)``.
    """

    name = "doses"
    reach = "model"
    strength = "share"
    nothing_at = 0
    strengths = (0.5, 0.75, 1.0)
    source = "after aTLAS, arXiv 2407.02880"
    in_words = "every update in the dose that was learned for it (share {share:g})"
    scales_whole_updates = True

    share: float = setting(1.0, "How far a dose goes from 1 to what was learned, 0 to 1.", least=0, most=1)
    # By matrix: its dose, or those of its directions in the descending order of D's singular values.
    doses: Mapping[str, Sequence[float]] | None = field(default=None, repr=False, compare=False)
    elsewhere: float = 1.0  # of other tuned tensors, such as norms and biases

    def needs(self, matrix: AuditedMatrix) -> tuple[WantedTriplets, ...]:
        if any(len(doses) > 1 for doses in (self.doses or {}).values()):
            return (WantedTriplets.leading("update", min(matrix.shape)),)
        return ()

    def change(self, case: Case) -> Change:
        if self.doses is None:
            raise SettingError(
                "remedy 'doses' has no doses; expected those of a healing; pass --doses with its heal.json"
            )
        if (name := case.matrix.name) not in self.doses:
            raise SettingError(
                f"remedy 'doses' has no dose of '{name}'; expected one for every changed matrix; run intruders heal on "
                "these two models"
            )
        doses = [1 + self.share * (dose - 1) for dose in self.doses[name]]
        if len(doses) == 1:
            return Change(share=doses[0])
        part = self.components(case)
        directions = significant(part.values)
        if directions != len(doses):
            raise SettingError(
                f"remedy 'doses' has {len(doses)} doses of '{name}', whose update has {directions} "
                "directions; expected one for each; run intruders heal on these two models"
            )
        kept = part.first(len(doses))
        dosed = kept.values * torch.tensor(doses, dtype=torch.float64, device=kept.values.device)
        return Change(share=0.0, added=LowRank(*kept.with_values(dosed).factors(1.0)))

    def share_elsewhere(self, name: str, position: Position | None) -> float:
        """Return the share of a tensor that no audit examines, by its own dose where it has one."""
        doses = (self.doses or {}).get(name, (self.elsewhere,))
        return 1 + self.share * (doses[0] - 1) if len(doses) == 1 else 1.0

    def recorded(self) -> dict[str, Any]:
        """Return its settings, and a digest of the doses."""
        record = super().recorded()
        if self.doses is not None:
            doses = {name: list(own) for name, own in self.doses.items()}
            record["doses"] = json_digest(doses | {"": self.elsewhere}, 16)
        return record


@dataclass(frozen=True)
class LearnedUpdates(Remedy):
    """``W' = W0 + D'`` with a learned update D' of every audited matrix; all else has its dose."""

    name = "learned updates"
    in_words = "every update as it was learned"
    reach = "model"

    updates: Mapping[str, LowRank | Tensor] = field(repr=False)  # by matrix: factors, or D' (m, n)
    doses: Doses

    @property
    def needs_base(self) -> bool:  # type: ignore[override]
        return any(isinstance(update, Tensor) for update in self.updates.values())

    def change(self, case: Case) -> Change:
        update = self.updates[case.matrix.name]
        if isinstance(update, LowRank):
            return Change(share=0.0, added=update)
        return Change(entries=lambda base, _: update.to(base))

    def share_elsewhere(self, name: str, position: Position | None) -> float:
        return self.doses.share_elsewhere(name, position)

    def recorded(self) -> dict[str, Any]:
        return self.doses.recorded()
