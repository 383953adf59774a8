"""The stages of a run that are experiments with its model: where the rise of a loss sits, and what gives it back."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..experiments.experiment_settings import ALPHAS, INTERPOLATE, ComparisonSettings, SweepSettings
from ..experiments.experiment_settings import REMEDIES as EVERY_REMEDY
from ..experiments.point import INTERVALS
from ..measures.intervals import Interval
from ..mitigation.remedies.remedy_table import INTRUDERS
from ..models.loading_settings import Loading
from ..system.words import plural
from .runs import Run
from .stage import Rows, RunAtWork, Stage, audited, evaluated, prefixed, read_result

# Folders of the parts that are finished: a run that was killed resumes within a stage.
INTERVENTIONS = "interventions"
ATTRIBUTIONS = "attribution"
COMPARISON = "remedies"


def _attribute(at: RunAtWork) -> None:
    from ..data.columns import Columns
    from ..experiments.attribute import attribute

    [file], wanted, shared = ATTRIBUTE.results, at.run.measure.attribute, at.shared()
    assert wanted is not None
    if not shared["audit"].matrices:
        at.write(file, {"skipped": "the run changed no matrix", "modules": []})
        return
    parts = attribute(
        at.run.base,
        at.model,
        loss_on=at.run.measure.loss_on[:1],
        settings=wanted,
        columns=at.config.part(Columns),
        keep=at.folder / ATTRIBUTIONS,
        **shared,
    )
    at.write(file, parts.to_document() | {"skipped": None})


def _attribute_row(file: Path, tables: Rows) -> dict[str, Any]:
    document = read_result(file)
    sizes = {matrix["name"]: matrix["frobenius"] for matrix in tables.get("matrices", [])}
    tables["attributions"] = [
        {
            "name": module["name"],
            "corpus": corpus,
            **Interval.from_dict(part).json_cells("part"),
            "part_of_intruders": module["part_of_intruders"].get(corpus),
            "intruders": module["intruders"],
            "frobenius": sizes.get(module["name"]),
            "rise": document["rise"],
        }
        for module in document["modules"]
        for corpus, part in [*module["parts"].items()][:1]
    ]
    return {}


ATTRIBUTE = Stage(
    "attribute",
    results=(f"{ATTRIBUTIONS}.json",),
    do=_attribute,
    row=_attribute_row,
    wanted=lambda measure: measure.attribute is not None,
    settings=lambda run: (
        audited(run)
        | run.measure.part(Loading).recorded()
        | {"loss_on": list(run.measure.loss_on[:1])}
        | prefixed("attribute", run.measure.attribute)
    ),
    tables={
        "attributions": {
            "name": str,
            "corpus": str,
            "part": float,  # of the rise of the loss, nats per token, with its 95 % interval over documents
            "part_low": float,
            "part_high": float,
            "part_of_intruders": float,  # of the update inside the span of the matrix's intruders; missing without one
            "intruders": int,
            "frobenius": float,  # of the matrix's update
            "rise": float,  # of the whole model
        }
    },
    amount="attributions",
)


def _intervene(at: RunAtWork) -> None:
    from ..experiments.intervene import intervene
    from ..experiments.sweep import intervention_rows

    [file], config, measure, shared = INTERVENE.results, at.config, at.run.measure, at.shared()
    assert measure.intervene is not None
    has_answers = at.task().score != "none"
    skipped = None
    if shared["audit"].intruders == 0:
        skipped = "the run has no intruders to scale"
    elif not (measure.loss_on or has_answers):
        skipped = "neither a corpus nor a task with right answers to measure"
    if skipped is not None:
        at.write(file, {"skipped": skipped, "rows": []})
        return
    sweep = intervene(
        at.run.base,
        at.model,
        sweep=measure.intervene,
        losses=at.losses,
        scores=at.scores(measure.max_examples, (config.task,) if has_answers else ()),
        keep=at.folder / INTERVENTIONS,
        drop_too_long=config.drop_too_long,
        **shared,
    )
    at.write(file, {"skipped": None, "rows": intervention_rows(sweep), "verdicts": sweep.verdicts()})


def _intervene_row(file: Path, tables: Rows) -> dict[str, Any]:
    tables["interventions"] = read_result(file)["rows"]
    return {}


def models_of_sweep(sweep: SweepSettings) -> int:
    """Count the measured models; interpolation is one curve, not a point at every scale."""
    controls = set(sweep.controls) - {INTERPOLATE, INTRUDERS}  # intruders are scaled anyway
    curve = len(ALPHAS) if INTERPOLATE in sweep.controls else 0
    return 1 + curve + len(set(sweep.scales) - {1.0}) * (1 + len(controls))


def _intervene_amount(runs: Sequence[Run]) -> str:
    points = sum(models_of_sweep(run.measure.intervene) for run in runs if run.measure.intervene is not None)
    return f"interventions: up to {points:,} measured models in {len(runs):,} runs; none in a run without intruders"


INTERVENE = Stage(
    "intervene",
    results=("intervention.json",),
    do=_intervene,
    row=_intervene_row,
    wanted=lambda measure: measure.intervene is not None,
    settings=lambda run: audited(run) | evaluated(run) | prefixed("intervene", run.measure.intervene),
    tables={
        # One row a measure of a run under one intervention. At scale 1, control "intruders", is the tuned model itself.
        "interventions": {
            "which": str,  # all intruders of a matrix were scaled, or top
            "control": str,  # intruders, shrink, random, neighbours or update
            "scale": float,
            "measure": str,  # loss, accuracy, or gain: over interpolation at equal task loss, if among the controls
            "on": str,  # corpus or task
            "value": float,
            "change": float,  # against the tuned model, paired, with its 95 % interval
            "change_low": float,
            "change_high": float,
            "against_intruders": float,  # against scaling the intruders at the same scale, paired; missing for those
            "against_intruders_low": float,
            "against_intruders_high": float,
            "base_value": float,  # of the base; missing where it was not measured
        }
    },
    amount=_intervene_amount,
)


def _remedies(at: RunAtWork) -> None:
    from ..experiments.compare_remedies import compare_remedies

    config, measure, shared, out = at.config, at.run.measure, at.shared(), at.folder / COMPARISON
    wanted = measure.remedies
    assert wanted is not None
    if not shared["audit"].matrices:
        out.mkdir(exist_ok=True)
        [file] = REMEDIES.results
        at.write(file, {"skipped": "the run changed no matrix", "curve": [], "remedies": []})
        return
    comparison = compare_remedies(
        at.run.base,
        at.model,
        comparison=wanted.part(ComparisonSettings),
        losses=replace(at.losses, max_documents=wanted.max_documents or measure.max_documents),
        scores=at.scores(wanted.max_examples or measure.max_examples, (config.task,)),
        out=out,
        drop_too_long=config.drop_too_long,
        **shared,
    )
    comparison.save(out)


def _remedies_row(file: Path, tables: Rows) -> dict[str, Any]:
    from ..experiments.point import rows_of_document

    document = read_result(file)
    tables["remedies"] = rows = [] if document.get("skipped") else list(rows_of_document(document))
    for remedy in document["remedies"]:
        if remedy["reason"] is not None:
            rows.append({"remedy": remedy["name"], "reason": remedy["reason"], "chosen": False})
    return {}


def _remedies_amount(runs: Sequence[Run]) -> str:
    compared = [run.measure.remedies for run in runs if run.measure.remedies is not None]
    remedies = max(len(comparison.only or EVERY_REMEDY) for comparison in compared)
    strengths = plural(remedies * max(comparison.strengths for comparison in compared), "strength")
    return f"comparisons of remedies: at most {strengths} in each of {plural(len(compared), 'run')}"


REMEDIES = Stage(
    "remedies",
    results=(f"{COMPARISON}/remedies.json",),
    do=_remedies,
    row=_remedies_row,
    wanted=lambda measure: measure.remedies is not None,
    settings=lambda run: audited(run) | evaluated(run) | prefixed("remedies", run.measure.remedies),
    tables={
        # One row a point of a comparison of remedies; the points of the curve are of interpolate. A remedy that was
        # not measured has one row with its reason.
        "remedies": {
            "remedy": str,
            "reason": str,
            "strength": float,
            "control": str,  # missing for the remedy itself
            "share": str,  # of the documents: choice, by which strengths were chosen, or report
            "chosen": bool,  # whether it is the remedy at the strength that was chosen, on the documents reported
            "over_allowance": bool,  # of what is chosen: whether no strength kept the task loss within `allow`
            "norm": float,  # of all updates together, 1 being the tuned model's
            "output": float,  # mean squared norm of what updates add to outputs, likewise
            "accuracy": float,
            "corpus_loss": float,  # on the first corpus
            **{f"{name}{end}": float for name in INTERVALS for end in ("", "_low", "_high")},
        }
    },
    amount=_remedies_amount,
)
