"""What is measured of a finished run, as a study's file says under ``measure``."""

from __future__ import annotations

from dataclasses import dataclass

from ...audits.audit_settings import AuditSettings
from ...errors import SettingError
from ...evaluation.measure_settings import LossSettings, SweepSettings
from ...settings import setting


@dataclass(frozen=True)
class Measure(LossSettings):
    """The measures of every run of an experiment. The audit and the score on the run's own task are always made."""

    audit: AuditSettings = setting(AuditSettings(), "As in intruders audit.")
    max_examples: int | None = setting(200, "Number of examples per task, from the first.", least=1)
    critical_scale: bool = setting(False, "Measure the critical scale of the update too.")
    output_energy: bool = setting(False, "Measure the output energy of the update on base inputs too.")
    intervene: SweepSettings | None = setting(
        None, "Scale the intruders, and what controls put in their place."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_energy and not self.loss_on:
            raise SettingError(
                "output_energy is true, but no loss_on gives the text; give loss_on: [pydoc], say"
            )
