"""The measures of a finished run, as a study's file lists them under ``measure``."""

from __future__ import annotations

from dataclasses import dataclass

from ..audits.audit_settings import AuditSettings
from ..errors import SettingError
from ..experiments.experiment_settings import (
    INTERPOLATE,
    AttributionSettings,
    ComparisonSettings,
    SweepSettings,
)
from ..measures.measure_settings import LossSettings
from ..mitigation.remedies.remedy_table import SHRINK_OUTPUT
from ..models.loading_settings import Loading
from ..settings import Settings, setting


@dataclass(frozen=True)
class ComparisonMeasure(ComparisonSettings):
    """The comparison of remedies on every run: which ones, and on how many documents and examples."""

    max_documents: int | None = setting(
        None, "Number of documents per corpus; the evaluation's, if None.", least=2
    )
    max_examples: int | None = setting(
        None, "Number of examples per task and split; the evaluation's, if None.", least=1
    )


@dataclass(frozen=True)
class KLMeasure(Settings):
    """The KL divergence of the tuned model from its base on the run's own task."""

    max_examples: int | None = setting(
        64, "Number of examples of the split that is scored, from the first.", least=2
    )


@dataclass(frozen=True)
class Measure(LossSettings, Loading):
    """The measures of every run of an experiment. The audit and the score on the run's own task are always made."""

    audit: AuditSettings = setting(AuditSettings(), "As in intruders audit.")
    max_examples: int | None = setting(200, "Number of examples per task, from the first.", least=1)
    critical_scale: bool = setting(False, "Measure the critical scale of the update too.")
    output_energy: bool = setting(
        False, "Measure the output energy of the update too, on the first `window` tokens of each document."
    )
    kl_to_base: KLMeasure | None = setting(
        None, "Measure KL(base || tuned) on the prompts and the answers of the run's own task too."
    )
    attribute: AttributionSettings | None = setting(
        None,
        "Split the rise of the loss on the first corpus into parts of the matrices, as in intruders attribute.",
    )
    intervene: SweepSettings | None = setting(
        None, "Scale the intruders, and what controls put in their place."
    )
    remedies: ComparisonMeasure | None = setting(
        None, "Compare remedies on every run, as in intruders remedies."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.critical_scale and self.audit.base_dtype is not None:
            raise SettingError(
                f"critical_scale is true, but audit rounds the base to {self.audit.base_dtype!r}, and W0 + s D has the "
                "base that is stored; leave one of the two out"
            )
        if self.intervene is not None and not self.loss_on:
            on_text = [name for name in self.intervene.controls if name in (INTERPOLATE, SHRINK_OUTPUT)]
            if on_text:
                raise SettingError(
                    f"control {on_text[0]!r} of intervene is measured on text, but no loss_on gives the text; "
                    "give loss_on: [pydoc], say"
                )
        for name, given in (
            ("output_energy", self.output_energy),
            ("attribute", self.attribute is not None),
            ("remedies", self.remedies is not None),
        ):
            if given and not self.loss_on:
                raise SettingError(
                    f"{name} is {'true' if name == 'output_energy' else 'given'}, but no loss_on gives the text; "
                    "give loss_on: [pydoc], say"
                )
