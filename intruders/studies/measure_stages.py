"""The stages of a run that measure its model beside its base: losses, scores, outputs, and the KL divergence."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoints.stored.selection import Selection
from ..errors import IntrudersError
from ..measures.intervals import Interval
from ..measures.measure_settings import LossSettings
from ..models.loading_settings import Loading
from ..system.digests import json_digest
from ..system.folders import locked_folder
from ..system.plain_values import plain
from ..system.progress import silent
from ..system.store import Kept
from .runs import Run
from .stage import SAMPLE_SEED, Rows, RunAtWork, Stage, evaluated, prefixed, read_result
from .study_folder import MODEL

if TYPE_CHECKING:
    from ..data.corpora import Corpora
    from ..measures.losses import DocumentLosses

EVALUATION = "evaluation"  # a folder, whose file has the numbers
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


def _evaluate(at: RunAtWork) -> None:
    from ..measures.corpus_loss import summarize_losses
    from ..measures.evaluate import MeasuredModel
    from ..measures.evaluation import Evaluation
    from ..measures.task_score import readable, scored_examples

    base, most = at.run.base, at.run.measure.max_examples
    corpora, task = at.corpora(), at.task()
    work = MeasuredModel(at.model, base, Kept(None), at.losses, SAMPLE_SEED, at.loading, silent)
    evaluation = Evaluation(model=MODEL, base=base)
    if corpora:
        before = base_losses(base, at.losses, corpora, at.bases, at.loading)
        after = work.text_losses("model", at.model, corpora)
        evaluation.losses.extend(summarize_losses(corpora, after, before, seed=SAMPLE_SEED).values())
    if task.score != "none":
        if at.config.drop_too_long and task.kind == "causal":  # as the training did
            opened = work.open(at.model, base)
            task = readable(task, opened.tokenizer, opened.context, max_examples=most, drop_too_long=True)
        split, _ = scored_examples(task, None, most)
        evaluation.scores.append(work.score(task, split, most))
    evaluation.save(at.folder / EVALUATION)


def base_losses(
    base: str, settings: LossSettings, corpora: "Corpora", bases: Path, loading: Loading
) -> "Mapping[str, list[DocumentLosses]]":
    """Return the base's losses by corpus and part, measured once for its weights, documents and type of numbers."""
    from ..data.corpora import digests_of
    from ..measures.corpus_loss import losses_by_corpus
    from ..measures.losses import DocumentLosses
    from ..models.base_model import digest_of_model
    from ..models.stored_dtype import recorded_dtypes
    from ..models.tuned_model import open_language_model

    try:
        content = digest_of_model(base)
    except (IntrudersError, OSError):  # not on this machine yet
        content = None
    of = {"base": base, **settings.recorded(), **loading.recorded()}
    measured = {"documents": digests_of(corpora), "content": content, **recorded_dtypes(loading, [base])}
    folder = bases / json_digest(of, 16)
    folder.mkdir(parents=True, exist_ok=True)
    # Another run may be at it: its numbers are worth waiting for.
    with locked_folder(folder, wait=True):
        losses: dict[str, list[DocumentLosses]] = Kept(folder, of).once(
            measured,
            dict[str, list[DocumentLosses]],
            lambda: losses_by_corpus(
                open_language_model(base, loading=loading), corpora, settings, SAMPLE_SEED
            ),
        )
    return losses


def _evaluate_row(file: Path, tables: Rows) -> dict[str, Any]:
    document = read_result(file)
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
    settings=evaluated,
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

    measure = at.run.measure
    energy = output_energy(
        at.run.base,
        at.folder / MODEL,
        documents_of(at.corpora()),
        window=measure.window,
        audit=measure.audit,
        loading=at.loading,
    )
    at.write("outputs.json", energy.as_dict())


OUTPUTS = Stage(
    "outputs",
    results=("outputs.json",),
    do=_outputs,
    row=lambda file, tables: {"update_output_energy": read_result(file)["mean_relative_energy"]},
    wanted=lambda measure: measure.output_energy,
    settings=lambda run: evaluated(run) | run.measure.audit.part(Selection).changed(),
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
    at.write("kl.json", {"schema": 1, **plain(kl, short=True)})


KL = Stage(
    "kl",
    results=("kl.json",),
    do=_kl,
    row=lambda file, tables: {
        f"kl_{part}": read_result(file)[part]["estimate"] for part in ("prompts", "answers")
    },
    wanted=lambda measure: measure.kl_to_base is not None,
    settings=lambda run: run.measure.part(Loading).recorded() | prefixed("kl", run.measure.kl_to_base),
    columns={
        "kl_prompts": float,  # KL(base || tuned) on the prompts of the run's task, nats per token
        "kl_answers": float,  # the same on its answers
    },
    amount="KL to the base",
)
