"""Published remedies side by side on one model, each against what else could explain it."""

import os
from dataclasses import replace
from typing import Any

from ..audits.audit_settings import ANYWHERE, AS_USUAL, FINDING_INTRUDERS, AuditSettings, Compute
from ..audits.result.audit_result import Audit
from ..data.corpora import Corpora, documents_in, load_all
from ..data.load_task import described_task
from ..errors import IntrudersError, SettingError
from ..measures.harness import check_harness
from ..measures.measure_settings import (
    NO_HARNESS,
    NO_LOSSES,
    NO_SCORES,
    HarnessSettings,
    LossSettings,
    ScoreSettings,
)
from ..mitigation.remedies.doses import Doses
from ..mitigation.tuned_matrices import TunedMatrices
from ..models.loading_settings import AS_STORED, Loading
from ..system.callers_process import apart_from_caller
from ..system.files import user_path
from ..system.folders import require_ours
from ..system.progress import Progress, silent
from ..system.store import EVALUATIONS
from .bench import ALONG_CURVE, Bench, Measuring, Tally, kept_outcomes
from .compared_rows import comparing, planned_evaluations
from .data_shares import DataShare, DataShares, split_data
from .experiment_settings import DOSES, EVERY_REMEDY, HEALING, ComparisonSettings, HealSettings
from .heal import doses_in
from .learn import learn
from .open_dosed import open_to_heal
from .question import Question
from .remedy_comparison import RemedyComparison


@apart_from_caller()
def compare_remedies(
    base: str | os.PathLike[str] | None,
    tuned: str | os.PathLike[str] | None = None,
    *,
    comparison: ComparisonSettings = EVERY_REMEDY,
    losses: LossSettings = NO_LOSSES,
    scores: ScoreSettings = NO_SCORES,
    harness: HarnessSettings = NO_HARNESS,
    audit: AuditSettings | Audit | str | os.PathLike[str] = AS_USUAL,
    data_seed: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    drop_too_long: bool = False,
    loading: Loading = AS_STORED,
    compute: Compute = ANYWHERE,
    progress: Progress = silent,
) -> RemedyComparison:
    """Measure every remedy on a tuned model, at a few strengths, against scaling the complete update down.

    No model is written: weights are changed in memory. Strengths are chosen on one half of the documents and on the
    validation split, and everything is reported on the other half and on the test split.

    Args:
      base: folder, Hub id or demo model of the model before fine-tuning; None if an adapter names it.
      tuned: the fine-tuned model, or its adapter. An adapter that names its base may be passed alone.
      comparison: which remedies, at how many strengths, and what they may cost.
      losses: the text that forgetting is measured on, as in :func:`intruders.evaluate`; at least one corpus.
      scores: the tasks to score; the first is the one that the model was tuned for.
      harness: tasks of lm-evaluation-harness, which are counted among the four parts of every remedy.
      audit: settings of the audit that finds the intruders, an audit of these two models, or the path of a saved one.
      data_seed: seed of the tasks' rows and splits, as in fine-tuning; by default that of the run.
      seed: seed of halves, samples, random controls and the bootstrap.
      out: a folder that keeps every finished evaluation, so that the same call resumes.
      drop_too_long: leave out the completions of the tasks that do not fit in the tuned model's context, as its
        training may have; otherwise one stops the call.
      loading: how the models are loaded.
      compute: where the audit is computed.
      progress: called with (what is being measured, evaluations done, in all).

    Returns:
      One row per remedy with its chosen strength, its gain over interpolation and its controls.

    Raises:
      SettingError: nothing to measure, or a setting out of range.
      IntrudersError: as the audit and the evaluation raise it. A remedy that cannot run is a row with its reason.

    Examples:
      With a base in the folder ``base`` and an adapter in ``tuned``:

      >>> comparison = ComparisonSettings(only=("interpolate", "intruders"), strengths=1)
      >>> losses = LossSettings(loss_on=("pydoc",), max_documents=4, max_tokens=32)
      >>> scores = ScoreSettings(tasks=("word-problems",), max_examples=2, max_new_tokens=4)
      >>> result = compare_remedies("base", "tuned", comparison=comparison, losses=losses, scores=scores)
      >>> result.target, result.tuned_kind
      ('word-problems', 'adapter')
    """
    question = Question.about(
        base, tuned, data_seed, seed, audit=audit, loading=loading, compute=compute, progress=progress
    )
    if out is not None:
        require_ours(user_path(out), (RemedyComparison.file_name, EVALUATIONS), "a comparison of remedies")
    if not losses.loss_on:
        raise SettingError("nothing to measure forgetting on; expected a corpus; pass --loss-on CORPUS")
    if not scores.tasks:
        raise SettingError(
            "nothing to measure the task on; expected what the model was tuned for; pass --task TASK"
        )
    if harness.lm_eval:
        check_harness(harness)
    corpora = load_all(losses.loss_on, max_documents=losses.max_documents, seed=seed)
    tasks = question.tasks(scores.tasks, scores)
    if drop_too_long:
        for name, task in tasks.items():
            fitting = question.fitting(task, {"validation": task.validation, "test": task.test})
            tasks[name] = replace(task, validation=fitting["validation"], test=fitting["test"])
    data = split_data(corpora, tasks, scores.max_examples, seed)
    with question.working_in(out, "out") as folder:
        audited = question.audited.audit
        if not audited.matrices:
            raise SettingError(
                f"'{question.tuned}' changes no matrix of '{question.base_source}' that an audit examines, so nothing "
                "can be compared; pass another model or a wider --include"
            )
        names, of_audit = comparison.names(), AuditSettings.of(audited).as_dict()
        measuring = Measuring(losses, tasks, seed, harness, scores.max_examples)
        kept = kept_outcomes(folder, question, measuring, scores)
        tally = Tally(progress, planned_evaluations(names, comparison.strengths, len(data.choice)))
        matrices = TunedMatrices(question.stacks, question.audited, compute.torch_device())
        bench = Bench(question, measuring, matrices, kept, tally)
        of_base = bench.of_base([*data.choice, data.report], answers_on=data.report)
        learned: Doses | str = "were not asked for"
        healing = _healing(losses, scores, corpora, comparison.allow)
        if of_doses := Doses.name in names:
            learned = _learned(bench, corpora, data, healing)
        bench.open()
        compared = comparing(bench, data, comparison, learned, of_base)
        report, target = compared.report, compared.report.target
        rows = compared.rows(names)
        points = report.points_of_curve(ALONG_CURVE)
        return RemedyComparison(
            base=question.base_source,
            tuned=question.tuned,
            tuned_kind=question.audited.pairing.tuned.kind,
            target=target,
            settings={
                **comparison.recorded(),
                **{name: of_audit[name] for name in FINDING_INTRUDERS},
                "seed": seed,
                "task": described_task(target, scores),
                "data_seed": data_seed,
                **(harness.recorded() if harness.lm_eval else {}),
                **({"healing": healing.changed()} if of_doses else {}),
                **({} if loading.dtype == AS_STORED.dtype else {"dtype": loading.dtype}),
                "intruders": audited.intruders,
                "matrices": len(audited.matrices),
            },
            allow=comparison.allow,
            level=report.level,
            counts={share.name: share.counts for share in (data.first, data.rest, data.report)},
            base_point=report.point(ALONG_CURVE[0], report.base, 0.0, 0.0),
            tuned_point=points[-1],
            curve=points,
            forgotten=report.tuning_cost(),
            remedies=rows,
            others=bench.other_names,
        )


def _learned(bench: Bench, corpora: Corpora, data: DataShares, settings: HealSettings) -> Doses | str:
    """Learn the remedy ``doses`` on the text and on training rows of the first task, or say why that cannot be."""
    tasks = bench.measuring.tasks
    first = next(iter(tasks))
    trained = DataShare("training", {}, {first: tasks[first].train[: settings.learned_examples]})
    unit = {
        "doses": settings.recorded(),
        "share": [share.fingerprint() for share in (trained, *data.choice)],
        "learned on": [first, next(iter(corpora))],
    }

    def learned() -> dict[str, Any]:
        dosed = open_to_heal(bench.question, corpora, tasks, settings)
        doses, groups = learn(dosed, settings).state.doses, dosed.groups
        remedy = doses_in(groups.by_matrix(doses), groups.elsewhere(doses))
        return {"doses": remedy.doses, "elsewhere": remedy.elsewhere}

    try:
        return Doses(**bench.kept.once(unit, Any, learned))
    except IntrudersError as error:
        return str(error)


def _healing(losses: LossSettings, scores: ScoreSettings, corpora: Corpora, allow: float) -> HealSettings:
    """Return how doses are learned, as ``intruders heal`` takes it, which cannot ask for all data."""
    return HealSettings(
        learn=DOSES,
        allow=allow,
        max_documents=losses.max_documents or max(documents_in(parts) for parts in corpora.values()),
        max_tokens=losses.max_tokens or HEALING.max_tokens,
        max_examples=scores.max_examples or HEALING.max_examples,
        estimate=losses.estimate,
    )
