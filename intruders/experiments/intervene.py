"""Do the intruders cause it? Losses and task scores of a model whose intruders, or controls, are scaled in memory."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..audits.audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ..audits.result.audit_result import Audit
from ..data.corpora import load_all
from ..data.task import Example
from ..errors import SettingError
from ..measures.corpus_loss import summarize_losses
from ..measures.losses import DocumentLosses, Outcome
from ..measures.measure_settings import NO_LOSSES, NO_SCORES, LossSettings, ScoreSettings
from ..measures.task_score import score_of_answers, scored_examples
from ..mitigation.mitigation_result import norm_left
from ..mitigation.remedies.controls import EqualOutput
from ..mitigation.remedies.every_remedy import remedy_named
from ..mitigation.remedies.remedy import Case, Remedy, ScaledIntruders
from ..mitigation.remedies.remedy_table import INTRUDERS, SHRINK_OUTPUT
from ..mitigation.tuned_matrices import TunedMatrices
from ..models.loading_settings import AS_STORED, Loading
from ..system.callers_process import apart_from_caller
from ..system.progress import Progress, silent
from .bench import ALONG_CURVE, Bench, Measuring, Tally, kept_outcomes
from .data_shares import DataShare
from .experiment_settings import IN_QUARTERS, INTERPOLATE, SweepSettings
from .question import Question
from .sweep import Intervention, InterventionSweep
from .yardstick import Yardstick


@apart_from_caller()
def intervene(
    base: str | os.PathLike[str] | None,
    tuned: str | os.PathLike[str] | None = None,
    *,
    sweep: SweepSettings = IN_QUARTERS,
    losses: LossSettings = NO_LOSSES,
    scores: ScoreSettings = NO_SCORES,
    audit: AuditSettings | Audit | str | os.PathLike[str] = AS_USUAL,
    data_seed: int | None = None,
    seed: int = 0,
    keep: str | os.PathLike[str] | None = None,
    drop_too_long: bool = False,
    loading: Loading = AS_STORED,
    compute: Compute = ANYWHERE,
    progress: Progress = silent,
) -> InterventionSweep:
    """Measure the tuned model with its intruders scaled, and under every control at the same scales.

    No model is written: the weights are changed in memory. Every measure is of the same documents and examples, so that
    all differences are paired.

    Args:
      base: folder, Hub id or demo model of the model before fine-tuning; None if an adapter names it.
      tuned: the fine-tuned model, or its adapter. An adapter that names its base may be passed alone.
      sweep: scales (1, the tuned model itself, is always measured), controls, and whether all intruders of a matrix are
        scaled or the one with the largest singular value alone; with "interpolate" among them, every
        point gets its gain over interpolation at equal task loss, from a curve of eleven more evaluations. The control
        "shrink-output" equals output energies on the first documents of the corpora.
      losses: the corpora, as in :func:`intruders.evaluate`.
      scores: the tasks whose accuracy is measured.
      audit: settings of the audit that finds the intruders, an audit of these two models, or the path of a saved one.
      data_seed: seed of the tasks' rows and splits, as in fine-tuning; by default that of the run.
      seed: seed of the control "random", of samples of documents, and of the bootstrap.
      keep: folder of finished evaluations. A call that was stopped resumes there; another model, other data or
        settings never reuse one.
      drop_too_long: leave out the completions of the tasks that do not fit in the tuned model's context, as its
        training may have; otherwise one stops the call.
      loading: how the models are loaded.
      compute: where the audit is computed.
      progress: called with (what is being done, done, in all).

    Returns:
      The measures of the tuned model and of every intervention.

    Raises:
      SettingError: nothing to measure, or a setting out of range.
      IntrudersError: as the audit and the evaluation raise it.

    Examples:
      With a base in the folder ``base`` and an adapter with intruders in ``tuned``:

      >>> losses = LossSettings(loss_on=("pydoc",), max_documents=2, max_tokens=32)
      >>> sweep = SweepSettings(scales=(0.0,), controls=("shrink",))
      >>> result = intervene("base", "tuned", sweep=sweep, losses=losses)
      >>> [(point.control, point.scale) for point in result.points]
      [('intruders', 0.0), ('shrink', 0.0)]
    """
    question = Question.about(
        base, tuned, data_seed, seed, audit=audit, loading=loading, compute=compute, progress=progress
    )
    is_curve_wanted, asks_inputs = INTERPOLATE in sweep.controls, SHRINK_OUTPUT in sweep.controls
    if is_curve_wanted and not (losses.loss_on and scores.tasks):
        raise SettingError(
            "control 'interpolate' compares the loss on text at equal task loss; expected a corpus and a task; pass "
            "--loss-on CORPUS and --task TASK"
        )
    if not (losses.loss_on or scores.tasks):
        raise SettingError("nothing to measure; expected a corpus (--loss-on) or a task (--task)")
    if asks_inputs and not losses.loss_on:
        raise SettingError(
            "control 'shrink-output' equals outputs of the base on text, and there is none; add a corpus "
            "(--loss-on), or choose the control 'shrink'"
        )
    tasks = question.tasks(scores.tasks, scores)
    corpora = load_all(losses.loss_on, max_documents=sweep.max_documents or losses.max_documents, seed=seed)
    most = sweep.max_examples or scores.max_examples
    splits, examples = dict[str, str](), dict[str, list[Example]]()
    for name, task in tasks.items():
        split, rows = scored_examples(task, scores.split, most)
        splits[name] = split
        examples[name] = question.fitting(task, {split: rows})[split] if drop_too_long else rows
    data = DataShare("all", corpora, examples)
    measuring = Measuring(losses, tasks, seed)
    with question.working_in(keep, "keep") as folder:
        audited = question.audited.audit
        if audited.intruders == 0:
            raise SettingError(
                f"'{question.tuned}' has no intruders among the {audited.k} leading vectors of any matrix, so there is "
                "nothing to scale; pass a larger --epsilon or --k, or another model"
            )
        kept = kept_outcomes(folder, question, measuring, scores)
        matrices = TunedMatrices(question.stacks, question.audited, compute.torch_device())
        # An audit of other weights is refused before anything is measured. No case depends on the base's inputs.
        cases = list(matrices.read(_remedies(sweep, seed, {})))
        on_curve = list(matrices.read(ALONG_CURVE)) if is_curve_wanted or asks_inputs else []
        planned = 1 + bool(corpora) + len(_remedies(sweep, seed, {})) + is_curve_wanted * len(ALONG_CURVE)
        bench = Bench(question, measuring, matrices, kept, Tally(progress, planned))
        of_base = bench.of_base([data], scored=False)[0].corpora if corpora else {}
        bench.open(changes_others=bool(on_curve))
        bench.use(on_curve)
        inputs = bench.inputs([case.matrix.name for case in cases], data) if asks_inputs else {}
        stick = None
        if is_curve_wanted:  # gains are read off it, on the first task
            outcomes = bench.along_curve(data, step="measure interpolation")
            norms = bench.norms_of_curve(on_curve)
            target, weights = next(iter(examples)), data.weights
            stick = Yardstick(
                outcomes[0], outcomes, target=target, weights=weights, norms=norms, seed=seed, share=data.name
            )
        bench.use(cases)
        remedies = [remedy_named(INTRUDERS, 1.0, seed, sweep.which), *_remedies(sweep, seed, inputs)]
        tuned_point, *points = _interventions(bench, data, splits, cases, remedies, stick)
        return InterventionSweep(
            base=question.base_source,
            tuned=question.tuned,
            audit=audited,
            seed=seed,
            tuned_point=tuned_point,
            base_losses=summarize_losses(corpora, of_base, None, seed=seed),
            points=points,
            curve=[] if stick is None else stick.points_of_curve(ALONG_CURVE),
            which=sweep.which,
        )


def _interventions(
    bench: Bench,
    data: DataShare,
    splits: Mapping[str, str],
    cases: Sequence[Case],
    remedies: Sequence[Remedy],
    stick: Yardstick | None,
) -> list[Intervention]:
    """Measure every remedy; the first is the tuned model, which the others are compared with.

    With a yardstick each gets its gain, interpolation's loss at the same task loss minus its own, mean over corpora. A
    control also gets its gain minus that of the intruders at its scale, which are measured before it.
    """
    points: list[Intervention] = []
    of_intruders: dict[float, Outcome] = {}  # by scale
    of_tuned: Mapping[str, list[DocumentLosses]] | None = None
    tasks, seed = bench.measuring.tasks, bench.measuring.seed
    for remedy in remedies:
        outcome, scale = bench.outcome(remedy, data, answers=True, step="measure"), remedy.intruder_scale
        assert scale is not None  # of the intruders, and of every control in their place
        changed = [] if remedy.changes_nothing else cases
        point = Intervention(
            control=remedy.name,
            scale=scale,
            losses=summarize_losses(data.corpora, outcome.corpora, of_tuned, seed=seed),
            scores={
                name: score_of_answers(tasks[name], splits[name], of_task.right or [])
                for name, of_task in outcome.tasks.items()
            },
            update_norm=norm_left(
                (case.update.norm() for case in changed),
                (remedy.change(case).norm_of(case.update) for case in changed),
            ),
            left_alone=sum(not remedy.exists(case) for case in changed),
        )
        if stick is not None and points:
            point = replace(point, gain=stick.gain(outcome))
            if remedy.name == INTRUDERS:
                of_intruders[scale] = outcome
            else:
                point = replace(point, gain_against_intruders=stick.margin(outcome, of_intruders[scale]))
        points.append(point)
        of_tuned = of_tuned or outcome.corpora
    return points


def _remedies(sweep: SweepSettings, seed: int, inputs: Mapping[str, Tensor]) -> list[Remedy]:
    """Return the remedy and every control at every ascending scale except 1, where all are the tuned model."""
    return [
        EqualOutput(ScaledIntruders(scale, seed, sweep.which), inputs)
        if control == SHRINK_OUTPUT
        else remedy_named(control, scale, seed, sweep.which)
        for scale in sorted(set(sweep.scales) - {1.0})
        for control in dict.fromkeys([INTRUDERS, *sweep.controls])
        if control != INTERPOLATE  # which is measured as a curve
    ]
