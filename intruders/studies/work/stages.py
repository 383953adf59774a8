"""The stages of a run: training, and every measure of what came out of it, each finished on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...checkpoints.stored.selection import Selection
from ...measures.measure_settings import LossSettings
from ...models.loading_settings import Loading
from ..describe.runs import Run
from .study_folder import ATTRIBUTION, MODEL, REMEDIES

Callbacks = Callable[[], Sequence[Any]]  # makes those of transformers' Trainer, new ones for every training


# Results of a stage, in the run's folder.
AUDIT = "audit.json"
EVALUATION = "evaluation"  # a folder, whose file below has the numbers
EVALUATION_RECORD = f"{EVALUATION}/evaluation.json"
SCALE = "scale.json"
OUTPUTS = "outputs.json"
KL = "kl.json"
ATTRIBUTION_RESULT = f"{ATTRIBUTION}.json"
INTERVENTION = "intervention.json"
REMEDIES_RESULT = f"{REMEDIES}/remedies.json"
SEQUENCE = "sequence.json"
MECHANISM = "mechanism.json"
TRACE = f"{MODEL}/intruders.parquet"  # of the audits during training


@dataclass(frozen=True)
class StageFiles:
    """The files and folders of a stage in the run's folder."""

    results: tuple[str, ...]  # all of them exist when the stage is finished
    # Files that the tables are made from: of every result itself, or one in its folder.
    for_tables: tuple[str, ...]


# Another machine brings only the files for tables: weights stay where they are.
FILES: Mapping[str, StageFiles] = {
    "train": StageFiles((MODEL,), (f"{MODEL}/run.json", TRACE)),
    "audit": StageFiles((AUDIT,), (AUDIT,)),
    "evaluate": StageFiles((EVALUATION,), (EVALUATION_RECORD,)),
    "scale": StageFiles((SCALE,), (SCALE,)),
    "outputs": StageFiles((OUTPUTS,), (OUTPUTS,)),
    "kl": StageFiles((KL,), (KL,)),
    "attribute": StageFiles((ATTRIBUTION_RESULT,), (ATTRIBUTION_RESULT,)),
    "intervene": StageFiles((INTERVENTION,), (INTERVENTION,)),
    "remedies": StageFiles((REMEDIES_RESULT,), (REMEDIES_RESULT,)),
    "sequence": StageFiles((SEQUENCE, MODEL), (SEQUENCE, f"{MODEL}/sequence.json")),
    "mechanism": StageFiles((MECHANISM,), (MECHANISM,)),
}


@dataclass(frozen=True)
class Stage:
    """One piece of work. What does it is in :mod:`.do_stage`, which loads what training needs."""

    name: str
    settings: dict[str, Any]  # on which its result depends, besides the run's own

    @property
    def results(self) -> tuple[str, ...]:
        """Files and folders in the run's folder."""
        return FILES[self.name].results


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
        stages.append(Stage("outputs", evaluated | measure.audit.part(Selection).changed()))
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
