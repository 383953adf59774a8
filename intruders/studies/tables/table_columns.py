"""The columns of a study's tables, and their types."""

from __future__ import annotations

import pyarrow as pa

from ...audits.audit_settings import AuditSettings
from ...experiments.comparison_rows import INTERVALS
from ...settings import settings_of
from ...training.finetune_config import FinetuneConfig

SCHEMA = 1

# Every setting of the fine-tuning is a column under its own name; lists are joined by commas.
SETTINGS = list(settings_of(FinetuneConfig))

COLUMNS: dict[str, list[str]] = {
    # One row a run.
    "runs": [
        "run_id",
        "experiment",
        "kind",  # finetune, sequence or random-rank-one
        "status",  # finished, failed or pending
        "error",  # one line, of a failed run
        "seconds",  # of training, without the measures
        *SETTINGS,
        "adapters",  # merge or keep, of a sequence
        "retrain_heads",  # whether a sequence trains heads of earlier tasks again; missing where they are kept
        "trained_steps",
        "stopped_by",  # match, steps, epochs, ...
        "validation_accuracy",  # at the end of training
        "accuracy",  # on the task's test split, with its 95 % interval
        "accuracy_low",
        "accuracy_high",
        "corpus",  # the first of those measured; the rest is in the run's evaluation.json
        "loss_measure",
        "base_loss",
        "loss",
        "loss_change",  # loss - base_loss, with its paired 95 % interval over documents
        "loss_change_low",
        "loss_change_high",
        "k",
        "epsilon",
        "intruders",
        "vectors",
        "affected_matrices",
        "matrices",
        "intruder_energy_share",
        "update_frobenius",  # of all updates together
        "relative_update",  # median over matrices of ||D||_2 / s_1(W0)
        "effective_rank",  # mean over matrices, of the updates
        "a_movement",  # ||A - A_0||_F / ||A_0||_F over all modules with a LoRA
        "critical_scale",  # largest multiple of the update with no intruders, measured; infinite if the search met none
        "rotation",  # mean over matrices of the mean squared sine between leading left spaces of base and tuned
        "update_output_energy",  # mean over matrices of mean ||D h||^2 / mean ||W0 h||^2
        "kl_prompts",  # KL(base || tuned) on the prompts of the run's task, nats per token
        "kl_answers",  # the same on its answers
        "data_source",  # of a public set: the hub, or the digest of the local copy that stood in
    ],
    # One row a corpus of a run: the columns of runs that are of the first, for every one.
    "losses": [
        "run_id",
        "corpus",
        "loss_measure",
        "base_loss",
        "loss",
        "loss_change",
        "loss_change_low",
        "loss_change_high",
    ],
    # One row a matrix of a run.
    "matrices": [
        "run_id",
        "name",
        "kind",  # of module, such as q_proj
        "layer",
        "rows",
        "columns",
        "intruders",
        "vectors",
        "intruder_energy_share",
        "frobenius",
        "spectral",
        "relative_update",
        "effective_rank",
        "stable_rank",
        "critical_scale",
        "predicted_scale",
    ],
    # One row a singular vector of a matrix of a run.
    "vectors": [
        "run_id",
        "name",
        "index",
        "singular_value",
        "max_cosine_lower",
        "max_cosine_upper",
        "intruder",
        "certificate",
    ],
    # One row a measure of a run under one intervention. At scale 1, control "intruders", stands the tuned model itself.
    "interventions": [
        "run_id",
        "which",  # all intruders of a matrix were scaled, or top; missing in tables of earlier versions: all
        "control",  # intruders, shrink, random, neighbours or update
        "scale",
        "measure",  # loss, accuracy, or gain: over interpolation at equal task loss, where that is among the controls
        "on",  # corpus or task
        "value",
        "change",  # against the tuned model, paired, with its 95 % interval
        "change_low",
        "change_high",
        "against_intruders",  # against scaling the intruders at the same scale, paired; missing for those
        "against_intruders_low",
        "against_intruders_high",
        "base_value",  # of the base; missing where it was not measured
    ],
    # One row a point of a comparison of remedies; the points of the curve are of interpolate. A remedy that was not
    # measured has one row with its reason.
    "remedies": [
        "run_id",
        "remedy",
        "reason",
        "strength",
        "control",  # missing for the remedy itself
        "share",  # of the documents: choice, by which strengths were chosen, or report
        "chosen",  # whether it is the remedy at the strength that was chosen, on the documents that are reported
        "over_allowance",  # of what is chosen: whether no strength kept the task loss within `allow`
        "norm",  # of all updates together, 1 being the tuned model's
        "output",  # mean squared norm of what updates add to outputs, likewise
        "accuracy",
        "corpus_loss",  # on the first corpus
        *(f"{name}{end}" for name in INTERVALS for end in ("", "_low", "_high")),
    ],
    # One row a matrix of a run whose loss was split into parts.
    "attributions": [
        "run_id",
        "name",
        "corpus",
        "part",  # of the rise of the loss, nats per token, with its 95 % interval over documents
        "part_low",
        "part_high",
        "part_of_intruders",  # of the update inside the span of the matrix's intruders; missing without one
        "intruders",
        "frobenius",  # of the matrix's update
        "rise",  # of the whole model
    ],
    # One row a task seen, after each stage of a sequence.
    "sequences": [
        "run_id",
        "stage",
        "task_index",
        "task",
        "accuracy",
        "intruders",
        "vectors",
        "trained_steps",  # of the stage
        "reached",  # whether the stage reached the score of `match`; missing without one
        "head_steps",  # for which the head of an earlier task was trained again; missing where it is kept
    ],
    # One row a matrix at a step of training (from the callback).
    "traces": [
        "run_id",
        "step",
        "name",
        "intruders",
        "vectors",
        "intruder_energy_share",
        "frobenius",
        "a_movement",  # ||A - A_0||_F / ||A_0||_F of the matrix's LoRA
        "largest_intruder_value",  # singular value of the first intruder; missing where there is none
        "base_largest_value",
    ],
    # One row a base matrix with a random rank-one term of one size.
    "mechanism": [
        "run_id",
        "name",
        "rows",
        "columns",
        "multiple",  # ||D||_2 / ||W0||_2
        "predicted_multiple",  # at which the spiked threshold expects the first intruder
        "intruders",
    ],
}

_SETTINGS = {**settings_of(AuditSettings), **settings_of(FinetuneConfig)}
# Lists, and what is a number or a text, are texts.
_OF_KINDS: dict[tuple[type, ...], pa.DataType] = {
    (int,): pa.int64(),
    (float,): pa.float64(),
    (bool,): pa.bool_(),
}

METADATA_KEY = b"intruders_study"

# Types of the columns that are no settings; the others are numbers.
_WHOLE = {
    "trained_steps", "intruders", "vectors", "affected_matrices", "matrices", "layer", "rows", "columns", "index",
    "step", "stage", "task_index", "head_steps",
}  # fmt: skip

_TEXTS = {
    "run_id", "experiment", "kind", "status", "error", "adapters", "stopped_by", "corpus", "loss_measure", "name",
    "certificate", "control", "measure", "on", "data_source", "remedy", "reason", "share", "which",
}  # fmt: skip


def arrow_schema(table: str) -> pa.Schema:
    return pa.schema([(name, _type(name)) for name in COLUMNS[table]])


def _type(name: str) -> pa.DataType:
    setting = _SETTINGS.get(name)
    if setting is not None:
        return pa.string() if setting.is_list else _OF_KINDS.get(setting.kinds, pa.string())
    if name in _WHOLE:
        return pa.int64()
    if name in ("intruder", "reached", "chosen", "over_allowance", "retrain_heads"):
        return pa.bool_()
    return pa.string() if name in _TEXTS else pa.float64()
