"""The stages of a run: training, and every measure of what came out of it, each finished on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
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
    audited = _plain(asdict(measure.audit))
    if run.kind == "random-rank-one":
        return [Stage("mechanism", audited, ("mechanism.json",))]
    if run.kind == "sequence":
        return [Stage("sequence", audited, ("sequence.json", MODEL))]
    evaluated = losses_wanted(run).as_dict() | {"max_examples": measure.max_examples}
    found = [
        Stage("train", {}, (MODEL,)),
        Stage("audit", audited, ("audit.json",)),
        Stage("evaluate", evaluated, ("evaluation",)),
    ]
    if measure.critical_scale:
        found.append(Stage("scale", audited, ("scale.json",)))
    if measure.intervene is not None:
        own = {f"intervene_{name}": value for name, value in _plain(asdict(measure.intervene)).items()}
        found.append(Stage("intervene", audited | evaluated | own, ("intervention.json",)))
    return found


def losses_wanted(run: Run) -> LossSettings:
    """The losses on text that the evaluation of a run takes."""
    measure = run.measure
    return LossSettings(measure.loss_on, measure.max_documents, measure.window, measure.estimate)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
