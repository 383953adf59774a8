"""The stages of a run: training, and every measure of what came out of it, each finished on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...measures.measure_settings import LossSettings
from ...models.loading_settings import Loading
from ..describe.runs import Run
from .study_folder import ATTRIBUTION, MODEL, REMEDIES

Callbacks = Callable[[], Sequence[Any]]  # makes those of transformers' Trainer, new ones for every training


# What each leaves in the run's folder: files and folders.
RESULTS: dict[str, tuple[str, ...]] = {
    "train": (MODEL,),
    "audit": ("audit.json",),
    "evaluate": ("evaluation",),
    "scale": ("scale.json",),
    "outputs": ("outputs.json",),
    "kl": ("kl.json",),
    "attribute": (f"{ATTRIBUTION}.json",),
    "intervene": ("intervention.json",),
    "remedies": (f"{REMEDIES}/remedies.json",),
    "sequence": ("sequence.json", MODEL),
    "mechanism": ("mechanism.json",),
}


@dataclass(frozen=True)
class Stage:
    """One piece of work. What does it is in :mod:`.do_stage`, which loads what training needs."""

    name: str
    settings: dict[str, Any]  # on which its result depends, besides the run's own

    @property
    def results(self) -> tuple[str, ...]:
        """Files and folders in the run's folder."""
        return RESULTS[self.name]


def stages_of(run: Run) -> list[Stage]:
    """Return the stages of ``run``, in order."""
    measure = run.measure
    audited = measure.audit.recorded()
    if run.kind == "random-rank-one":
        return [Stage("mechanism", audited)]
    if run.kind == "sequence":
        return [Stage("sequence", audited)]
    evaluated = measure.part(LossSettings).recorded() | {"max_examples": measure.max_examples}
    evaluated |= measure.part(Loading).recorded()
    stages = [
        Stage("train", {}),
        Stage("audit", audited),
        Stage("evaluate", evaluated),
    ]
    if measure.output_energy:
        stages.append(Stage("outputs", evaluated))
    if measure.kl_to_base is not None:
        own = {"kl_max_examples": measure.kl_to_base.max_examples}
        stages.append(Stage("kl", measure.part(Loading).recorded() | own))
    if measure.attribute is not None:
        own = {f"attribute_{name}": value for name, value in measure.attribute.recorded().items()}
        on = {"loss_on": list(measure.loss_on[:1])}
        stages.append(Stage("attribute", audited | measure.part(Loading).recorded() | on | own))
    if measure.critical_scale:
        stages.append(Stage("scale", audited))
    if measure.intervene is not None:
        own = {f"intervene_{name}": value for name, value in measure.intervene.recorded().items()}
        stages.append(Stage("intervene", audited | evaluated | own))
    if measure.remedies is not None:
        own = {f"remedies_{name}": value for name, value in measure.remedies.recorded().items()}
        stages.append(Stage("remedies", audited | evaluated | own))
    return stages
