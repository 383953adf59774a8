"""The stages of a run: training, and every measure of what came out of it, in the order in which they are done."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..checkpoints.stored.names import may_be_same, module_paths
from ..checkpoints.stored.selection import Selection
from ..experiments.experiment_settings import INTERPOLATE, ComparisonSettings, SweepSettings
from ..experiments.experiment_settings import REMEDIES as EVERY_REMEDY
from ..experiments.point import INTERVALS
from ..experiments.yardstick import ALPHAS
from ..measures.intervals import Interval
from ..measures.measure_settings import LossSettings
from ..mitigation.remedies.remedy_table import INTRUDERS
from ..models.loading_settings import Loading
from ..system.documents import json_number
from ..system.words import plural
from ..training.run_folder import RunFolder
from .runs import Run
from .stage import Rows, RunAtWork, Stage, read_result, told_what_to_remove
from .study_folder import AUDIT as AUDIT_RESULT
from .study_folder import MODEL

if TYPE_CHECKING:
    from ..audits.result.audit_result import Audit

TRACE = f"{MODEL}/intruders.parquet"  # of the audits during training
# The folder of an evaluation, whose file has the numbers, and those of parts that are finished: a run that was killed
# resumes within a stage.
EVALUATION = "evaluation"
INTERVENTIONS = "interventions"
ATTRIBUTIONS = "attribution"
COMPARISON = "remedies"

# One row a corpus, in ``losses``; the columns of ``runs`` are of the first corpus.
LOSS = {
    "corpus": str,  # in ``runs`` the first of those measured; the rest is in the run's evaluation.json
    "loss_measure": str,
    "base_loss": float,
    "loss": float,
    "loss_change": float,  # loss - base_loss, with its paired 95 % interval over documents
    "loss_change_low": float,
    "loss_change_high": float,
}


def _audited(run: Run) -> dict[str, Any]:
    return run.measure.audit.recorded()


def _evaluated(run: Run) -> dict[str, Any]:
    measure = run.measure
    losses = measure.part(LossSettings).recorded()
    return losses | {"max_examples": measure.max_examples} | measure.part(Loading).recorded()


def _prefixed(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}_{key}": value for key, value in settings.items()}


def _train(at: RunAtWork) -> None:
    from ..training.finetune import finetune
    from .base_losses import corpora_of

    corpora_of(at.losses)  # what cannot be read is told now, and not after the training
    config, folder = at.config, Path(at.model)
    if folder.is_dir() and not (folder / "run.json").is_file():
        shutil.rmtree(folder)  # killed before its record was written: nothing to go on from
    finetune(config, list(at.callbacks()))


def _train_row(folder: Path, tables: Rows) -> dict[str, Any]:
    record = RunFolder(folder / MODEL).record
    return {
        "seconds": record["seconds"]["training"],
        "trained_steps": record["steps"],
        "stopped_by": record["stopped_by"],
        "a_movement": record.get("a_movement"),
        "data_source": record["task"].get("source"),
        "validation_accuracy": record["validation"]["accuracy"],
    }


TRAIN = Stage(
    "train",
    results=(MODEL,),
    do=_train,
    row=_train_row,
    columns={
        "trained_steps": int,
        "stopped_by": str,  # match, steps, epochs, ...
        "validation_accuracy": float,  # at the end of training
        "a_movement": float,  # ||A - A_0||_F / ||A_0||_F over all modules with a LoRA
    },
    for_tables=(f"{MODEL}/run.json", TRACE),
)


def _audit(at: RunAtWork) -> None:
    from ..audits.audit import audit

    audited = audit(at.run.base, at.folder / MODEL, **vars(at.run.measure.audit))
    audited.save(at.folder / AUDIT_RESULT)


def _audit_row(folder: Path, tables: Rows) -> dict[str, Any]:
    from ..audits.result.audit_result import Audit
    from ..audits.result.summary import median_relative, update_norm
    from ..audits.result.vector_table import vector_table

    audit = Audit.load(folder / AUDIT_RESULT)
    matrices = tables["matrices"] = list(_matrices(audit))
    tables["vectors"] = vector_table(audit.matrices, list(AUDIT.tables["vectors"])).to_pylist()
    with told_what_to_remove(folder, folder / TRACE):
        tables["traces"] = list(_traces(folder / TRACE, audit))
    return {
        "k": audit.k,
        "epsilon": audit.epsilon,
        "intruders": audit.intruders,
        "vectors": audit.vectors,
        "affected_matrices": audit.affected,
        "matrices": len(audit.matrices),
        "intruder_energy_share": audit.intruder_energy_share,
        "update_frobenius": update_norm(audit.matrices),
        "relative_update": median_relative(audit.matrices) if matrices else None,
        "effective_rank": fmean([row["effective_rank"] for row in matrices]) if matrices else None,
        "rotation": _rotation(audit),
    }


def _rotation(audit: Audit) -> float | None:
    """Return the mean over the matrices whose leading spaces are known; None without one."""
    known = [
        matrix.subspaces.rotation_left_sine2
        for matrix in audit.matrices
        if matrix.subspaces is not None and math.isfinite(matrix.subspaces.rotation_left_sine2)
    ]
    return fmean(known) if known else None


def _matrices(audit: Audit) -> Iterator[dict[str, Any]]:
    modules = module_paths([matrix.name for matrix in audit.matrices])
    for matrix, module in zip(audit.matrices, modules, strict=True):
        yield {
            "name": matrix.name,
            "kind": module.kind,
            "layer": module.layer,
            "rows": matrix.shape[0],
            "columns": matrix.shape[1],
            "intruders": matrix.intruders,
            "vectors": len(matrix.vectors),
            "intruder_energy_share": matrix.intruder_energy_share,
            "frobenius": matrix.update.frobenius,
            "spectral": matrix.update.spectral,
            "relative_update": matrix.relative_update,
            "effective_rank": matrix.update.effective_rank,
            "stable_rank": matrix.update.stable_rank,
        }


def _traces(file: Path, audit: Audit) -> Iterator[dict[str, Any]]:
    """Yield one row per step and audited matrix, from the callback's rows per vector.

    The callback sees the model as it is trained, with a head that the base does not have, and under its class's names:
    bert.encoder.layer.0... for what the base's file calls encoder.layer.0...
    """
    import pandas as pd

    from ..audits.result.records import energy_share_of

    if not file.is_file():
        return
    trace = pd.read_parquet(file)
    audited = [matrix.name for matrix in audit.matrices]
    names = {name: own for name in trace["name"].unique() for own in audited if may_be_same(name, own)}
    trace = trace[trace["name"].isin(names)].assign(name=lambda frame: frame["name"].map(names))
    trace["intruder"] = trace["intruder"].astype(bool)
    trace["intruder_value"] = trace["singular_value"].where(trace["intruder"])
    for _, rows in trace.groupby(["step", "name"], sort=False):
        yield {
            "step": int(rows["step"].iloc[0]),
            "name": str(rows["name"].iloc[0]),
            "intruders": int(rows["intruder"].sum()),
            "vectors": len(rows),
            "intruder_energy_share": energy_share_of(
                rows["singular_value"].tolist(), rows["intruder"].tolist()
            ),
            "frobenius": float(rows["update_frobenius"].iloc[0]),
            "a_movement": _number(rows["a_movement"].iloc[0] if "a_movement" in rows.columns else None),
            "largest_intruder_value": _number(rows["intruder_value"].max()),
            "base_largest_value": float(rows["base_largest_value"].iloc[0]),
        }


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


AUDIT = Stage(
    "audit",
    results=(AUDIT_RESULT,),
    do=_audit,
    row=_audit_row,
    settings=_audited,
    columns={
        "k": int,
        "epsilon": float,
        "intruders": int,
        "vectors": int,
        "affected_matrices": int,
        "matrices": int,
        "intruder_energy_share": float,
        "update_frobenius": float,  # of all updates together
        "relative_update": float,  # median over matrices of ||D||_2 / s_1(W0)
        "effective_rank": float,  # mean over matrices, of the updates
        "rotation": float,  # mean over matrices of the mean squared sine between leading left spaces of base and tuned
    },
    after={"k": "validation_accuracy", "rotation": "a_movement"},
    tables={
        # One row a matrix of a run.
        "matrices": {
            "name": str,
            "kind": str,  # of module, such as q_proj
            "layer": int,
            "rows": int,
            "columns": int,
            "intruders": int,
            "vectors": int,
            "intruder_energy_share": float,
            "frobenius": float,
            "spectral": float,
            "relative_update": float,
            "effective_rank": float,
            "stable_rank": float,
        },
        # One row a singular vector of a matrix of a run.
        "vectors": {
            "name": str,
            "index": int,
            "singular_value": float,
            "max_cosine_lower": float,
            "max_cosine_upper": float,
            "intruder": bool,
            "certificate": str,
        },
        # One row a matrix at a step of training (from the callback).
        "traces": {
            "step": int,
            "name": str,
            "intruders": int,
            "vectors": int,
            "intruder_energy_share": float,
            "frobenius": float,
            "a_movement": float,  # ||A - A_0||_F / ||A_0||_F of the matrix's LoRA
            "largest_intruder_value": float,  # singular value of the first intruder; missing where there is none
            "base_largest_value": float,
        },
    },
)


def _evaluate(at: RunAtWork) -> None:
    from ..measures.corpus_loss import summarize_losses
    from ..measures.evaluation import Evaluation
    from ..measures.task_score import readable, score_task
    from ..models.tuned_model import open_for_task
    from .base_losses import SAMPLE_SEED, base_losses, corpora_of, losses_of

    base, config = at.run.base, at.config
    losses = []
    if at.losses.loss_on:
        corpora = corpora_of(at.losses)
        before = base_losses(base, at.losses, corpora, at.bases, at.loading)
        after = losses_of(at.model, base, at.losses, corpora, at.loading)
        losses = [
            summarize_losses(name, parts, after[name], before[name], seed=SAMPLE_SEED)
            for name, parts in corpora.items()
        ]
    scores = []
    task = at.task()
    if task.score != "none":
        opened, labels = open_for_task(at.model, task, base, at.loading)
        most = at.run.measure.max_examples
        if config.drop_too_long:  # as the training did
            task = readable(task, opened.tokenizer, opened.context, max_examples=most, drop_too_long=True)
        scores.append(score_task(opened, task, max_examples=most, labels=labels))
    Evaluation(model=MODEL, base=base, losses=losses, scores=scores, harness=[]).save(at.folder / EVALUATION)


def _evaluate_row(folder: Path, tables: Rows) -> dict[str, Any]:
    [file] = EVALUATE.for_tables
    document = read_result(folder / file)
    losses = tables["losses"] = [
        {
            "corpus": loss["corpus"],
            "loss_measure": loss["measure"],
            "base_loss": loss["base_loss"]["estimate"],
            "loss": loss["loss"]["estimate"],
            **Interval.from_dict(loss["difference"]).json_cells("loss_change"),
        }
        for loss in document["losses"]
    ]
    scores = document["tasks"]
    accuracy = Interval.from_dict(scores[0]["accuracy"]).json_cells("accuracy") if scores else {}
    return accuracy | (losses[0] if losses else {})


def _evaluate_amount(runs: Sequence[Run]) -> str:
    losses = sum(len(run.measure.loss_on) for run in runs)
    bases = {(run.base, run.measure.part(LossSettings)) for run in runs if run.measure.loss_on}
    if not losses:
        return ""
    return f"pre-training losses: {losses:,} of runs, and {len(bases):,} of bases, measured once each"


EVALUATE = Stage(
    "evaluate",
    results=(EVALUATION,),
    do=_evaluate,
    row=_evaluate_row,
    settings=_evaluated,
    columns={
        "accuracy": float,  # on the task's test split, with its 95 % interval
        "accuracy_low": float,
        "accuracy_high": float,
        **LOSS,
    },
    after={"accuracy": "validation_accuracy"},
    tables={"losses": LOSS},
    for_tables=(f"{EVALUATION}/evaluation.json",),
    amount=_evaluate_amount,
)


def _outputs(at: RunAtWork) -> None:
    from ..measures.output_energy import documents_of, output_energy
    from .base_losses import corpora_of

    measure = at.run.measure
    energy = output_energy(
        at.run.base,
        at.folder / MODEL,
        documents_of(corpora_of(at.losses)),
        window=measure.window,
        audit=measure.audit,
        loading=at.loading,
    )
    at.write("outputs.json", energy.as_dict())


OUTPUTS = Stage(
    "outputs",
    results=("outputs.json",),
    do=_outputs,
    row=lambda folder, tables: {
        "update_output_energy": read_result(folder / "outputs.json")["mean_relative_energy"]
    },
    wanted=lambda measure: measure.output_energy,
    settings=lambda run: _evaluated(run) | run.measure.audit.part(Selection).changed(),
    columns={"update_output_energy": float},  # mean over matrices of mean ||D h||^2 / mean ||W0 h||^2
    amount="output energies",
)


def _kl(at: RunAtWork) -> None:
    from ..measures.kl_on_task import kl_on_task

    wanted = at.run.measure.kl_to_base
    assert wanted is not None
    kl = kl_on_task(
        at.run.base,
        at.model,
        at.task(),
        max_examples=wanted.max_examples,
        drop_too_long=at.config.drop_too_long,
        loading=at.loading,
    )
    at.write("kl.json", kl.as_dict())


def _kl_row(folder: Path, tables: Rows) -> dict[str, Any]:
    document = read_result(folder / "kl.json")
    return {f"kl_{part}": document[part]["estimate"] for part in ("prompts", "answers")}


def _kl_settings(run: Run) -> dict[str, Any]:
    assert run.measure.kl_to_base is not None
    return run.measure.part(Loading).recorded() | {"kl_max_examples": run.measure.kl_to_base.max_examples}


KL = Stage(
    "kl",
    results=("kl.json",),
    do=_kl,
    row=_kl_row,
    wanted=lambda measure: measure.kl_to_base is not None,
    settings=_kl_settings,
    columns={
        "kl_prompts": float,  # KL(base || tuned) on the prompts of the run's task, nats per token
        "kl_answers": float,  # the same on its answers
    },
    amount="KL to the base",
)


def _attribute(at: RunAtWork) -> None:
    from ..data.columns import Columns
    from ..experiments.attribute import attribute
    from .base_losses import SAMPLE_SEED

    [file], audit, wanted = ATTRIBUTE.results, at.audit(), at.run.measure.attribute
    assert wanted is not None
    if not audit.matrices:
        at.write(file, {"skipped": "the run changed no matrix", "modules": []})
        return
    parts = attribute(
        at.run.base,
        at.model,
        loss_on=at.run.measure.loss_on[:1],
        settings=wanted,
        columns=at.config.part(Columns),
        audit=audit,
        data_seed=at.config.data_seed,
        seed=SAMPLE_SEED,
        keep=at.folder / ATTRIBUTIONS,
        loading=at.loading,
    )
    at.write(file, parts.to_document() | {"skipped": None})


def _attribute_row(folder: Path, tables: Rows) -> dict[str, Any]:
    [file] = ATTRIBUTE.results
    document = read_result(folder / file)
    sizes = {matrix["name"]: matrix["frobenius"] for matrix in tables.get("matrices", [])}
    rows = tables["attributions"] = []
    for module in document["modules"]:
        (corpus, part), *_ = module["parts"].items()
        rows.append(
            {
                "name": module["name"],
                "corpus": corpus,
                **Interval.from_dict(part).json_cells("part"),
                "part_of_intruders": module["part_of_intruders"].get(corpus),
                "intruders": module["intruders"],
                "frobenius": sizes.get(module["name"]),
                "rise": document["rise"],
            }
        )
    return {}


def _attribute_settings(run: Run) -> dict[str, Any]:
    measure = run.measure
    assert measure.attribute is not None
    on = measure.part(Loading).recorded() | {"loss_on": list(measure.loss_on[:1])}
    return _audited(run) | on | _prefixed("attribute", measure.attribute.recorded())


ATTRIBUTE = Stage(
    "attribute",
    results=(f"{ATTRIBUTIONS}.json",),
    do=_attribute,
    row=_attribute_row,
    wanted=lambda measure: measure.attribute is not None,
    settings=_attribute_settings,
    tables={
        # One row a matrix of a run whose loss was split into parts.
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


def _scale(at: RunAtWork) -> None:
    from ..audits.scales.critical_scales import critical_scales

    scales = critical_scales(at.run.base, at.folder / MODEL, audit=at.run.measure.audit)
    at.write("scale.json", scales.to_document())


def _scale_row(folder: Path, tables: Rows) -> dict[str, Any]:
    from ..audits.scales.critical_scales_result import CriticalScales

    measured = CriticalScales.load(folder / "scale.json")
    by_name = {matrix.name: matrix for matrix in measured.matrices}
    for row in tables.get("matrices", []):
        if scale := by_name.get(row["name"]):
            # Infinite where no scale has an intruder, as far as the search went.
            row |= {"critical_scale": scale.measured, "predicted_scale": scale.predicted}
    # The end of a search that met no intruder is not where they begin.
    return {"critical_scale": math.inf if measured.is_at_search_end else json_number(measured.largest)}


SCALE = Stage(
    "scale",
    results=("scale.json",),
    do=_scale,
    row=_scale_row,
    wanted=lambda measure: measure.critical_scale,
    settings=_audited,
    # The largest multiple of the update with no intruders, measured; infinite if the search met none.
    columns={"critical_scale": float},
    after={"critical_scale": "a_movement"},
    tables={"matrices": {"critical_scale": float, "predicted_scale": float}},
    amount="critical scales",
)


def _intervene(at: RunAtWork) -> None:
    from ..data.columns import Columns
    from ..experiments.intervene import intervene
    from ..experiments.sweep import InterventionSweep, intervention_rows
    from ..measures.measure_settings import ScoreSettings
    from .base_losses import SAMPLE_SEED

    [file], config, measure = INTERVENE.results, at.config, at.run.measure
    assert measure.intervene is not None
    has_answers = at.task().score != "none"
    audit = at.audit()
    if audit.intruders == 0:
        at.write(file, {"skipped": "the run has no intruders to scale", "rows": []})
        return
    if not (measure.loss_on or has_answers):
        skipped = "neither a corpus nor a task with right answers to measure"
        at.write(file, {"skipped": skipped, "rows": []})
        return
    sweep: InterventionSweep = intervene(
        at.run.base,
        at.model,
        sweep=measure.intervene,
        losses=at.losses,
        scores=ScoreSettings(
            **config.part(Columns).values(),
            tasks=(config.task,) if has_answers else (),
            max_examples=measure.max_examples,
        ),
        audit=audit,
        data_seed=config.data_seed,
        seed=SAMPLE_SEED,
        keep=at.folder / INTERVENTIONS,
        drop_too_long=config.drop_too_long,
        loading=at.loading,
    )
    at.write(file, {"skipped": None, "rows": intervention_rows(sweep), "verdicts": sweep.verdicts()})


def _intervene_row(folder: Path, tables: Rows) -> dict[str, Any]:
    [file] = INTERVENE.results
    tables["interventions"] = read_result(folder / file)["rows"]
    return {}


def _intervene_settings(run: Run) -> dict[str, Any]:
    assert run.measure.intervene is not None
    return _audited(run) | _evaluated(run) | _prefixed("intervene", run.measure.intervene.recorded())


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
    settings=_intervene_settings,
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
    from ..data.columns import Columns
    from ..experiments.compare_remedies import compare_remedies
    from ..measures.measure_settings import ScoreSettings
    from .base_losses import SAMPLE_SEED

    config, measure, audit, out = at.config, at.run.measure, at.audit(), at.folder / COMPARISON
    wanted = measure.remedies
    assert wanted is not None
    if not audit.matrices:
        out.mkdir(exist_ok=True)
        [file] = REMEDIES.results
        at.write(file, {"skipped": "the run changed no matrix", "curve": [], "remedies": []})
        return
    comparison = compare_remedies(
        at.run.base,
        at.model,
        comparison=wanted.part(ComparisonSettings),
        losses=replace(at.losses, max_documents=wanted.max_documents or measure.max_documents),
        scores=ScoreSettings(
            **config.part(Columns).values(),
            tasks=(config.task,),
            max_examples=wanted.max_examples or measure.max_examples,
        ),
        audit=audit,
        data_seed=config.data_seed,
        seed=SAMPLE_SEED,
        out=out,
        drop_too_long=config.drop_too_long,
        loading=at.loading,
    )
    comparison.save(out)


def _remedies_row(folder: Path, tables: Rows) -> dict[str, Any]:
    from ..experiments.point import rows_of_document

    [file] = REMEDIES.results
    document = read_result(folder / file)
    tables["remedies"] = rows = [] if document.get("skipped") else list(rows_of_document(document))
    for remedy in document["remedies"]:
        if remedy["reason"] is not None:
            rows.append({"remedy": remedy["name"], "reason": remedy["reason"], "chosen": False})
    return {}


def _remedies_settings(run: Run) -> dict[str, Any]:
    assert run.measure.remedies is not None
    return _audited(run) | _evaluated(run) | _prefixed("remedies", run.measure.remedies.recorded())


def _remedies_amount(runs: Sequence[Run]) -> str:
    compared = [run.measure.remedies for run in runs if run.measure.remedies is not None]
    remedies = max(len(comparison.only or EVERY_REMEDY) for comparison in compared)
    strengths = max(comparison.strengths for comparison in compared)
    return (
        f"comparisons of remedies: at most {plural(remedies * strengths, 'strength')} in each of "
        f"{plural(len(compared), 'run')}"
    )


REMEDIES = Stage(
    "remedies",
    results=(f"{COMPARISON}/remedies.json",),
    do=_remedies,
    row=_remedies_row,
    wanted=lambda measure: measure.remedies is not None,
    settings=_remedies_settings,
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


def _sequence(at: RunAtWork) -> None:
    from ..training.train_in_sequence import train_in_sequence

    run, config, folder = at.run, at.config, Path(at.model)
    for stage in folder.glob("stage-*"):
        if not (stage / "run.json").is_file():
            shutil.rmtree(stage)
    sequence = train_in_sequence(
        config,
        run.tasks,
        adapters=run.adapters,
        retrain_heads=run.retrain_heads,
        callbacks=lambda: list(at.callbacks()),
        audit=run.measure.audit,
    )
    seconds = sum(
        RunFolder(folder / f"stage-{number}").record["seconds"]["training"]
        for number in range(1, len(run.tasks) + 1)
    )
    at.write("sequence.json", sequence.to_document() | {"seconds": seconds})


def _sequence_row(folder: Path, tables: Rows) -> dict[str, Any]:
    document = read_result(folder / "sequence.json")
    rows = tables["sequences"] = []
    for stage, accuracies in enumerate(document["accuracies"]):
        heads = document["head_steps"][stage] if document.get("head_steps") else []
        for index, accuracy in enumerate(accuracies):
            rows.append(
                {
                    "stage": stage,
                    "task_index": index,
                    "task": document["tasks"][index],
                    "accuracy": accuracy,
                    "intruders": document["intruders"][stage],
                    "vectors": document["vectors"][stage],
                    "trained_steps": document["steps"][stage] if document.get("steps") else None,
                    "reached": document["reached"][stage] if document.get("reached") else None,
                    "head_steps": heads[index] if index < len(heads) else None,
                }
            )
    reached = document.get("reached", [])
    return {
        "seconds": document["seconds"],
        "accuracy": document["average_accuracy"],
        "intruders": document["intruders"][-1],
        "vectors": document["vectors"][-1],
        "trained_steps": sum(document.get("steps", [])) or None,
        "stopped_by": ("match" if all(reached) else "steps") if reached else None,
        "data_source": "; ".join(source for source in document.get("sources", []) if source) or None,
    }


SEQUENCE = Stage(
    "sequence",
    kind="sequence",
    results=("sequence.json", MODEL),
    do=_sequence,
    row=_sequence_row,
    settings=_audited,
    tables={
        # One row a task seen, after each stage of a sequence.
        "sequences": {
            "stage": int,
            "task_index": int,
            "task": str,
            "accuracy": float,
            "intruders": int,
            "vectors": int,
            "trained_steps": int,  # of the stage
            "reached": bool,  # whether the stage reached the score of `match`; missing without one
            "head_steps": int,  # for which the head of an earlier task was trained again; missing where it is kept
        }
    },
    for_tables=("sequence.json", f"{MODEL}/sequence.json"),
)


def _mechanism(at: RunAtWork) -> None:
    from .rank_one_terms import random_rank_one

    run = at.run
    settings = replace(run.measure.audit, include=run.include, exclude=run.exclude)
    rows = random_rank_one(run.base, run.multiples, audit=settings, seed=run.seed)
    at.write("mechanism.json", {"rows": [asdict(row) for row in rows]})


def _mechanism_row(folder: Path, tables: Rows) -> dict[str, Any]:
    tables["mechanism"] = read_result(folder / "mechanism.json")["rows"]
    return {}


MECHANISM = Stage(
    "mechanism",
    kind="random-rank-one",
    results=("mechanism.json",),
    do=_mechanism,
    row=_mechanism_row,
    settings=_audited,
    tables={
        # One row a base matrix with a random rank-one term of one size.
        "mechanism": {
            "name": str,
            "rows": int,
            "columns": int,
            "multiple": float,  # ||D||_2 / ||W0||_2
            "predicted_multiple": float,  # at which the spiked threshold expects the first intruder
            "intruders": int,
        }
    },
)

STAGES = (
    TRAIN, AUDIT, EVALUATE, OUTPUTS, KL, ATTRIBUTE, SCALE, INTERVENE, REMEDIES, SEQUENCE, MECHANISM,
)  # fmt: skip


def stages_of(run: Run) -> list[Stage]:
    """Return the stages of ``run``, in order."""
    return [stage for stage in STAGES if stage.is_of(run)]
