"""The stages of a run that train: one fine-tuning, or several in sequence."""

from pathlib import Path
from typing import Any

from ..training.run_folder import RunFolder
from .stage import Rows, RunAtWork, Stage, audited, read_result
from .study_folder import MODEL

TRACE = f"{MODEL}/intruders.parquet"  # of the audits during training


def _train(at: RunAtWork) -> None:
    from ..training.finetune import finetune

    at.corpora()  # what cannot be read is told now, and not after the training
    finetune(at.config, list(at.callbacks()))


def _train_row(file: Path, tables: Rows) -> dict[str, Any]:
    record = RunFolder(file.parent).record
    return {
        "seconds": record["seconds"]["training"],
        "trained_steps": record["steps"],
        "stopped_by": record["stopped_by"],
        "a_movement": record["a_movement"],
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


def _sequence(at: RunAtWork) -> None:
    from ..training.train_in_sequence import train_in_sequence

    run, folder = at.run, Path(at.model)
    sequence = train_in_sequence(
        at.config,
        run.tasks,
        adapters=run.adapters,
        retrain_heads=run.retrain_heads,
        callbacks=lambda: list(at.callbacks()),
        audit=run.measure.audit,
    )
    stages = [folder / f"stage-{number}" for number in range(1, len(run.tasks) + 1)]
    seconds = sum(RunFolder(stage).record["seconds"]["training"] for stage in stages)
    at.write("sequence.json", sequence.to_document() | {"seconds": seconds})


def _sequence_row(file: Path, tables: Rows) -> dict[str, Any]:
    document = read_result(file)
    reached, heads = document["reached"], document["head_steps"]
    tables["sequences"] = [
        {
            "stage": stage,
            "task_index": index,
            "task": document["tasks"][index],
            "accuracy": accuracy,
            "intruders": document["intruders"][stage],
            "vectors": document["vectors"][stage],
            "trained_steps": document["steps"][stage],
            "reached": reached[stage] if reached else None,
            "head_steps": heads[stage][index] if heads and index < len(heads[stage]) else None,
        }
        for stage, accuracies in enumerate(document["accuracies"])
        for index, accuracy in enumerate(accuracies)
    ]
    return {
        "seconds": document["seconds"],
        "accuracy": document["average_accuracy"],
        "intruders": document["intruders"][-1],
        "vectors": document["vectors"][-1],
        "trained_steps": sum(document["steps"]),
        "stopped_by": ("match" if all(reached) else "steps") if reached else None,
        "data_source": "; ".join(source for source in document["sources"] if source) or None,
    }


SEQUENCE = Stage(
    "sequence",
    kind="sequence",
    results=("sequence.json", MODEL),
    do=_sequence,
    row=_sequence_row,
    settings=audited,
    tables={
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
