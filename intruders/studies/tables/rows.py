"""The rows that one run adds to the study's tables, read from the files in its folder."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from ...audits.result.audit_result import Audit
from ...audits.result.records import energy_share_of
from ...audits.result.summary import median_relative, update_norm
from ...audits.result.vector_table import vector_table
from ...audits.scales.critical_scales_result import CriticalScales, MatrixScale
from ...checkpoints.stored.names import may_be_same, module_paths
from ...errors import IntrudersError, NewerVersionError, ResultFileError, in_one_line, what_is_wrong
from ...experiments.comparison_rows import rows_of_document
from ...measures.intervals import Interval
from ...settings import settings_of
from ...system.documents import json_number, read_document
from ...training.finetune_config import FinetuneConfig
from ...training.run_folder import RunFolder
from ..describe.runs import Run
from ..work.run_record import RunRecord, is_finished
from ..work.stages import (
    ATTRIBUTION_RESULT,
    AUDIT,
    EVALUATION_RECORD,
    FILES,
    INTERVENTION,
    KL,
    MECHANISM,
    OUTPUTS,
    REMEDIES_RESULT,
    SCALE,
    SEQUENCE,
    TRACE,
    stages_of,
)
from ..work.study_folder import MODEL
from .table_columns import COLUMNS, SETTINGS
from .table_files import Rows
from .taken_rows import taken_rows


def rows_of(run: Run, folder: Path) -> Rows:
    """Return what is known of ``run`` so far, by table. An unfinished run has a row in ``runs`` at least."""
    kept = RunRecord(folder)
    record = kept.read()
    # The study's file may have changed since the record was written, and the work may have been stopped.
    is_done = all(is_finished(record, stage.name, stage.settings) for stage in stages_of(run))
    if is_done and kept.is_taken_over:
        return taken_rows(folder, kept.taken_tables)
    stages = _stages_with_results(run, record, folder)
    row = settings_row(run) | {"status": _status(record, is_done), "error": record.get("error")}
    tables: Rows = {"runs": [row]}
    scales: dict[str, MatrixScale] = {}
    # The audit's rows contain the scales.
    for stage in sorted(stages, key=lambda stage: stage != "scale"):
        with _told_what_to_remove(folder, stage, folder / FILES[stage].for_tables[0]):
            _add_results(stage, folder, row, tables, scales)
    return {table: [{"run_id": run.id} | row for row in rows] for table, rows in tables.items()}


def _add_results(
    stage: str, folder: Path, row: dict[str, Any], tables: Rows, scales: dict[str, MatrixScale]
) -> None:
    """Add what a finished stage left in a run's folder to the run's row, and to the rows of other tables."""
    match stage:
        case "train":
            row |= _training(folder)
        case "scale":
            measured = CriticalScales.load(folder / SCALE)
            # The end of a search that met no intruder is not where they begin.
            row["critical_scale"] = math.inf if measured.is_at_search_end else json_number(measured.largest)
            scales |= {matrix.name: matrix for matrix in measured.matrices}
        case "audit":
            audit = Audit.load(folder / AUDIT)
            tables["matrices"] = list(_matrices(audit, scales))
            tables["vectors"] = vector_table(audit.matrices, COLUMNS["vectors"]).to_pylist()
            with _told_what_to_remove(folder, "train", folder / TRACE):
                tables["traces"] = list(_traces(folder / TRACE, audit))
            row |= _audit(audit, tables["matrices"])
        case "evaluate":
            document = _json(folder / EVALUATION_RECORD)
            tables["losses"] = [_loss(loss) for loss in document["losses"]]
            row |= _evaluation(document)
        case "outputs":
            row["update_output_energy"] = _json(folder / OUTPUTS)["mean_relative_energy"]
        case "kl":
            row |= _kl(_json(folder / KL))
        case "attribute":
            sizes = {matrix["name"]: matrix["frobenius"] for matrix in tables.get("matrices", [])}
            tables["attributions"] = list(_attributions(_json(folder / ATTRIBUTION_RESULT), sizes))
        case "intervene":
            tables["interventions"] = _json(folder / INTERVENTION)["rows"]
        case "remedies":
            tables["remedies"] = list(_remedies(_json(folder / REMEDIES_RESULT)))
        case "sequence":
            document = _json(folder / SEQUENCE)
            row |= _of_sequence(document)
            tables["sequences"] = list(_sequence(document))
        case "mechanism":
            tables["mechanism"] = _json(folder / MECHANISM)["rows"]


class _DamagedResultError(ResultFileError):
    """A result of a run cannot be read; the message says what to remove."""


@contextmanager
def _told_what_to_remove(folder: Path, stage: str, file: Path) -> Iterator[None]:
    """Say of a result that cannot be read what to remove of the run, so that the study makes that again.

    Raises:
      ResultFileError: the block met a file that is damaged or is something else.
    """
    try:
        yield
    except (NewerVersionError, _DamagedResultError):
        raise
    except (IntrudersError, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        # A model without its record cannot be told from another one.
        result = folder if stage == "train" else folder / FILES[stage].results[0]
        told = f"'{file}' is something else ({in_one_line(error)})"
        if isinstance(error, ResultFileError):
            told = what_is_wrong(error)  # without what to do where it is no result of a study
        raise _DamagedResultError(
            f"{told}; expected what the study wrote; remove '{result}', and run the study again, which makes it "
            "again and keeps all else"
        ) from error


def _of_sequence(document: dict[str, Any]) -> dict[str, Any]:
    return {
        "seconds": document["seconds"],
        "accuracy": document["average_accuracy"],
        "intruders": document["intruders"][-1],
        "vectors": document["vectors"][-1],
        "trained_steps": sum(document.get("steps", [])) or None,
        "stopped_by": _stopped_by(document.get("reached", [])),
        "data_source": "; ".join(source for source in document.get("sources", []) if source) or None,
    }


def can_give_rows(run: Run, folder: Path) -> bool:
    """Return True if the folder has the files of every stage, or rows that were taken over.

    Without the files, such as a model that was removed to save space, the tables are all that is left of the run.
    """
    files = [folder / result for stage in stages_of(run) for result in stage.results]
    return RunRecord(folder).is_taken_over or all(file.exists() for file in files)


def _stages_with_results(run: Run, record: dict[str, Any], folder: Path) -> list[str]:
    """Return the stages that are finished with the run's settings, in order.

    Left out are those whose files were removed since, and those of an earlier version of the study's file.
    """
    return [
        stage.name
        for stage in stages_of(run)
        if is_finished(record, stage.name, stage.settings)
        and all((folder / result).exists() for result in stage.results)
    ]


def _status(record: dict[str, Any], is_done: bool) -> str:
    """Return a run's status.

    A begun run is pending, since no file tells whether it is at work or was killed. So is one that was finished by an
    earlier version of the study's file, and is not by this one.
    """
    status = str(record.get("status", "pending"))
    return "pending" if status == "running" or (status == "finished" and not is_done) else status


def settings_row(run: Run) -> dict[str, Any]:
    """Return the columns of a run that its settings fill."""
    row: dict[str, Any] = {"experiment": run.experiment, "kind": run.kind}
    config = run.description()["config"] or {"base": run.base, "seed": run.seed}
    for name in SETTINGS:
        value = config.get(name)
        row[name] = ",".join(map(str, value)) if isinstance(value, list) else value
    if config.get("method") == "full":
        known = settings_of(FinetuneConfig).items()
        row |= {name: None for name, setting in known if setting.adapter_only}  # that it does not have
    if isinstance(row["alpha"], float):
        row["alpha"] = f"{row['alpha']:g}"
    if run.kind == "sequence":
        row |= {
            "task": ",".join(run.tasks),
            "adapters": run.adapters,
            "retrain_heads": run.retrain_heads or None,
        }
    if run.kind != "finetune":  # of a fine-tuning its audit says it
        row |= {"k": run.measure.audit.k, "epsilon": run.measure.audit.epsilon}
    return row


def _training(folder: Path) -> dict[str, Any]:
    record = RunFolder(folder / MODEL).record
    return {
        "seconds": record["seconds"]["training"],
        "trained_steps": record["steps"],
        "stopped_by": record["stopped_by"],
        "a_movement": record.get("a_movement"),  # of a version that did not measure it: missing
        "data_source": record["task"].get("source"),
        "validation_accuracy": record["validation"]["accuracy"],
    }


def _audit(audit: Audit, matrices: list[dict[str, Any]]) -> dict[str, Any]:
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


def _evaluation(document: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    if document["tasks"]:
        row |= Interval.from_dict(document["tasks"][0]["accuracy"]).json_cells("accuracy")
    if document["losses"]:
        row |= _loss(document["losses"][0])
    return row


def _loss(loss: dict[str, Any]) -> dict[str, Any]:
    return {
        "corpus": loss["corpus"],
        "loss_measure": loss["measure"],
        "base_loss": loss["base_loss"]["estimate"],
        "loss": loss["loss"]["estimate"],
        **Interval.from_dict(loss["difference"]).json_cells("loss_change"),
    }


def _kl(document: dict[str, Any]) -> dict[str, Any]:
    return {f"kl_{part}": document[part]["estimate"] for part in ("prompts", "answers")}


def _attributions(document: dict[str, Any], sizes: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    for module in document["modules"]:
        (corpus, part), *_ = module["parts"].items()
        yield {
            "name": module["name"],
            "corpus": corpus,
            **Interval.from_dict(part).json_cells("part"),
            "part_of_intruders": module["part_of_intruders"].get(corpus),
            "intruders": module["intruders"],
            "frobenius": sizes.get(module["name"]),
            "rise": document["rise"],
        }


def _rotation(audit: Audit) -> float | None:
    """Return the mean over the matrices whose leading spaces are known; None without one."""
    known = [
        matrix.subspaces.rotation_left_sine2
        for matrix in audit.matrices
        if matrix.subspaces is not None and math.isfinite(matrix.subspaces.rotation_left_sine2)
    ]
    return fmean(known) if known else None


def _matrices(audit: Audit, scales: dict[str, MatrixScale]) -> Iterator[dict[str, Any]]:
    modules = module_paths([matrix.name for matrix in audit.matrices])
    for matrix, module in zip(audit.matrices, modules, strict=True):
        scale = scales.get(matrix.name)
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
            # Infinite where no scale has an intruder, as far as the search went; None where none was measured.
            "critical_scale": None if scale is None else scale.measured,
            "predicted_scale": None if scale is None else scale.predicted,
        }


def _traces(file: Path, audit: Audit) -> Iterator[dict[str, Any]]:
    """Yield one row per step and audited matrix, from the callback's rows per vector.

    The callback sees the model as it is trained, with a head that the base does not have, and under its class's names:
    bert.encoder.layer.0... for what the base's file calls encoder.layer.0...
    """
    if not file.is_file():
        return
    trace = pd.read_parquet(file)
    audited = [matrix.name for matrix in audit.matrices]
    names = {name: own for name in trace["name"].unique() for own in audited if may_be_same(name, own)}
    trace = trace[trace["name"].isin(names)].assign(name=lambda frame: frame["name"].map(names))
    trace["intruder"] = trace["intruder"].astype(bool)
    trace["intruder_value"] = trace["singular_value"].where(trace["intruder"])
    for _, rows in trace.groupby(["step", "name"], sort=False):
        largest = rows["intruder_value"].max()
        yield {
            "step": int(rows["step"].iloc[0]),
            "name": str(rows["name"].iloc[0]),
            "intruders": int(rows["intruder"].sum()),
            "vectors": len(rows),
            "intruder_energy_share": energy_share_of(
                rows["singular_value"].tolist(), rows["intruder"].tolist()
            ),
            "frobenius": float(rows["update_frobenius"].iloc[0]),
            "a_movement": _a_movement(rows),
            "largest_intruder_value": None if pd.isna(largest) else float(largest),
            "base_largest_value": float(rows["base_largest_value"].iloc[0]),
        }


def _a_movement(rows: pd.DataFrame) -> float | None:
    """Return how far a matrix's A has moved; None in a trace of an earlier version, which did not measure it."""
    value = rows["a_movement"].iloc[0] if "a_movement" in rows.columns else None
    return None if value is None or pd.isna(value) else float(value)


def _remedies(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if document.get("skipped"):
        return
    yield from rows_of_document(document)
    for remedy in document["remedies"]:
        if remedy["reason"] is not None:
            yield {"remedy": remedy["name"], "reason": remedy["reason"], "chosen": False}


def _stopped_by(reached: list[bool | None]) -> str | None:
    """Return "match" if every stage reached its score, else "steps"; None in records of earlier versions."""
    if not reached:
        return None
    return "match" if all(reached) else "steps"


def _sequence(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for stage, accuracies in enumerate(document["accuracies"]):
        for index, accuracy in enumerate(accuracies):
            yield {
                "stage": stage,
                "task_index": index,
                "task": document["tasks"][index],
                "accuracy": accuracy,
                "intruders": document["intruders"][stage],
                "vectors": document["vectors"][stage],
                "trained_steps": document["steps"][stage] if document.get("steps") else None,
                "reached": document["reached"][stage] if document.get("reached") else None,
                "head_steps": _head_steps(document, stage, index),
            }


def _head_steps(document: dict[str, Any], stage: int, index: int) -> int | None:
    """Return for how many steps the head of an earlier task was trained again before this test; None if it was kept."""
    steps = document["head_steps"][stage] if document.get("head_steps") else []
    return steps[index] if index < len(steps) else None


def _json(file: Path) -> dict[str, Any]:
    document = read_document(file, "a result of intruders", 1)
    if document is None:
        raise ResultFileError(f"'{file}' is missing; run the study again")
    return document
