"""The stages of a run: training, and every measure of what came out of it, each finished on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...evaluation.measure_settings import LossSettings
from ..describe.runs import Run
from .study_folder import MODEL

Callbacks = Callable[[], Sequence[Any]]  # makes those of transformers' Trainer, new ones for every training


@dataclass(frozen=True)
class Stage:
    """One piece of work. What does it is in :mod:`.work`, which loads what training needs."""

    name: str
    settings: dict[str, Any]  # on which its result depends, besides the run's own
    results: tuple[str, ...]  # files and folders in the run's folder


def stages_of(run: Run) -> list[Stage]:
    """What is to be done for ``run``, in order."""
    measure = run.measure
    audited = measure.audit.recorded()
    if run.kind == "random-rank-one":
        return [Stage("mechanism", audited, ("mechanism.json",))]
    if run.kind == "sequence":
        return [Stage("sequence", audited, ("sequence.json", MODEL))]
    evaluated = measure.part(LossSettings).recorded() | {"max_examples": measure.max_examples}
    found = [
        Stage("train", {}, (MODEL,)),
        Stage("audit", audited, ("audit.json",)),
        Stage("evaluate", evaluated, ("evaluation",)),
    ]
    if measure.critical_scale:
        found.append(Stage("scale", audited, ("scale.json",)))
    if measure.intervene is not None:
        own = {f"intervene_{name}": value for name, value in measure.intervene.recorded().items()}
        found.append(Stage("intervene", audited | evaluated | own, ("intervention.json",)))
    return found
