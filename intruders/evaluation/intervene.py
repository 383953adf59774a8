"""Do the intruders cause it? Losses and task scores of a model whose intruders, or controls, are scaled in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from ..audits.audit import audited_whole
from ..audits.audit_result import Audit
from ..audits.audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ..checkpoints.pairing.pair_sides import named_sides, open_sides
from ..data.corpora import load_corpora
from ..data.load_task import load_task
from ..errors import SettingError
from ..mitigation.cases import read_cases
from ..mitigation.elsewhere import not_audited, shares_elsewhere
from ..mitigation.live_weights import LiveInterventions
from ..mitigation.remedies.every_remedy import remedy_named
from ..mitigation.remedies.intruders import INTRUDERS
from ..mitigation.remedies.remedy import Case, ScaledRemedy
from ..models.finetuned_folder import data_seed_of
from ..models.tuned_model import OpenedModel, open_for_task, open_language_model
from ..system.progress import Progress, silent
from .corpus_loss import CorpusLoss, measure_losses, summarize_losses
from .equal_task_loss import ALONG_CURVE, EqualTaskLoss, wants_curve
from .losses import DocumentLosses
from .measure_settings import (
    IN_QUARTERS,
    INTERPOLATE,
    NO_LOSSES,
    NO_SCORES,
    LossSettings,
    ScoreSettings,
    SweepSettings,
)
from .side_by_side.outcome import Outcome
from .side_by_side.task_outcomes import task_outcome
from .sweep import InterventionSweep, Point
from .task_score import score_task, scored_examples


def intervene(
    base: str | None,
    tuned: str | None = None,
    *,
    sweep: SweepSettings = IN_QUARTERS,
    losses: LossSettings = NO_LOSSES,
    scores: ScoreSettings = NO_SCORES,
    audit: AuditSettings | Audit | str | os.PathLike[str] = AS_USUAL,
    data_seed: int | None = None,
    seed: int = 0,
    compute: Compute = ANYWHERE,
    progress: Progress = silent,
) -> InterventionSweep:
    """Measure the tuned model with its intruders scaled, and under every control at the same scales.

    No model is written: the weights are changed in memory. Every measure is of the same documents and examples, so that
    all differences are paired.

    Args:
      base: folder, hub id or alias of the model before fine-tuning; None where an adapter names it.
      tuned: that of the fine-tuned model, or its adapter. An adapter that names its base may come alone.
      sweep: scales (1, the tuned model itself, is always measured) and controls; with "interpolate" among them, every
        point gets its gain over interpolation at equal task loss, from a curve of eleven more evaluations.
      losses: on what text losses are measured, as in :func:`intruders.evaluation.evaluate.evaluate`.
      scores: which tasks are scored, likewise.
      audit: settings of the audit that finds the intruders; or one of these two, or the path of a saved one.
      data_seed: of the tasks' rows and splits, as in fine-tuning; that of the run if none is given.
      seed: of the control "random", of samples of documents, and of the bootstrap.
      compute: where the audit is computed.
      progress: called with (what is being done, done, in all).

    Raises:
      SettingError: nothing to measure, or a setting out of range.
      IntrudersError: as the audit and the evaluation raise it.
    """
    given_base, given_tuned = named_sides(base, tuned)
    base, tuned = None if given_base is None else str(given_base), str(given_tuned)
    is_curve_wanted = wants_curve(sweep, losses, scores)
    if not (losses.loss_on or scores.tasks):
        raise SettingError("nothing to measure; expected a corpus (--loss-on) or a task (--task)")
    max_documents = sweep.max_documents or losses.max_documents
    max_examples = sweep.max_examples or scores.max_examples
    corpora = {name: load_corpora(name, max_documents=max_documents, seed=seed) for name in losses.loss_on}
    rows_by = data_seed_of(tuned) if data_seed is None else data_seed
    loaded_tasks = {name: load_task(name, scores, rows_by) for name in scores.tasks}
    base_side, tuned_side = open_sides(base, tuned)
    pairing, before, settings = audited_whole(base_side, tuned_side, audit, compute, progress)
    if before.intruders == 0:
        raise SettingError(
            f"'{tuned}' has no intruders among the {before.k} leading vectors of any matrix, so there is nothing to "
            "scale; pass a larger --epsilon or --k, or another model"
        )
    as_tuned, remedies = remedy_named(INTRUDERS, 1.0, seed), _remedies(sweep, seed)
    cases = list(read_cases(pairing.pairs, before, remedies, base_side.names(), compute.torch_device()))

    def losses_of(opened: OpenedModel) -> dict[str, list[DocumentLosses]]:
        return {name: measure_losses(opened, parts, losses, seed) for name, parts in corpora.items()}

    base_source = base if base is not None else base_side.source
    of_base = losses_of(open_language_model(base_source)) if corpora else {}
    language = open_language_model(tuned, base) if corpora else None
    models: dict[str, tuple[OpenedModel, list[str]]] = {}
    for name, task in loaded_tasks.items():
        shared = (
            language if language is not None and not language.is_masked and task.kind == "causal" else None
        )
        models[name] = (shared, []) if shared is not None else open_for_task(tuned, task, base)
    distinct = {id(opened.model): opened.model for opened, _ in models.values()}
    if language is not None:
        distinct[id(language.model)] = language.model
    others = not_audited(base_side, before) if is_curve_wanted else []
    with ExitStack() as stack:
        live = [
            stack.enter_context(LiveInterventions(model, base_side, cases, others))
            for model in distinct.values()
        ]

        def outcome(after: Mapping[str, list[DocumentLosses]]) -> Outcome:
            """Of the weights as they are now, whose losses on text are ``after``."""
            name, (opened, labels) = next(iter(models.items()))
            _, examples = scored_examples(loaded_tasks[name], scores.split, max_examples)
            task = task_outcome(opened, labels, loaded_tasks[name], examples, answers=False)
            return Outcome(after, {name: task})

        def measured(
            remedy: ScaledRemedy,
            tuned_losses: Mapping[str, CorpusLoss] | None,
            compared: EqualTaskLoss | None = None,
        ) -> Point:
            for one in live:
                one.set(remedy)
            after = losses_of(language) if language is not None else {}
            found = {
                name: summarize_losses(
                    name,
                    corpora[name],
                    parts,
                    None if tuned_losses is None else tuned_losses[name].losses,
                    seed=seed,
                )
                for name, parts in after.items()
            }
            scored = {
                name: score_task(
                    opened, loaded_tasks[name], split=scores.split, max_examples=max_examples, labels=labels
                )
                for name, (opened, labels) in models.items()
            }
            left_alone = 0 if remedy.changes_nothing else sum(not remedy.exists(case) for case in cases)
            point = Point(remedy.name, remedy.scale, found, scored, _update_norm(cases, remedy), left_alone)
            return point if compared is None else compared.with_gain(point, outcome(after))

        along = ALONG_CURVE if is_curve_wanted else ()
        in_all = len(along) + len(remedies) + 1
        of_curve = []
        if along:
            reached = read_cases(pairing.pairs, before, along, base_side.names(), compute.torch_device())
            every_case = list(reached)
            for one in live:
                one.use(every_case)
        for done, interpolated in enumerate(along):
            progress("measure interpolation", done, in_all)
            for one in live:
                one.set(interpolated, shares_elsewhere(interpolated, base_side.names(), settings))
            assert language is not None
            of_curve.append(outcome(losses_of(language)))
        for one in live:
            one.use(cases)
        weights = {name: [part.weight for part in parts] for name, parts in corpora.items()}
        compared = EqualTaskLoss(of_curve, next(iter(models)), weights, seed) if along else None
        progress("measure", len(along), in_all)
        tuned_point = measured(as_tuned, None)
        points = []
        for done, remedy in enumerate(remedies, start=len(along) + 1):
            progress("measure", done, in_all)
            points.append(measured(remedy, tuned_point.losses, compared))
    base_losses = {
        name: summarize_losses(name, corpora[name], parts, seed=seed) for name, parts in of_base.items()
    }
    curve = [] if compared is None else compared.points
    return InterventionSweep(base_source, tuned, before, seed, tuned_point, base_losses, points, curve)


def _remedies(sweep: SweepSettings, seed: int) -> list[ScaledRemedy]:
    """Intruders and every control at every scale but 1, where all are the tuned model; ascending."""
    return [
        remedy_named(control, scale, seed)
        for scale in sorted(set(sweep.scales) - {1.0})
        for control in dict.fromkeys([INTRUDERS, *sweep.controls])
        if control != INTERPOLATE  # which is measured as a curve
    ]


def _update_norm(cases: Sequence[Case], remedy: ScaledRemedy) -> float:
    """``sqrt(sum ||W' - W0||_F^2 / sum ||W - W0||_F^2)`` over the matrices."""
    if remedy.scale == 1:
        return 1.0
    before = math.fsum(case.update.norm() ** 2 for case in cases)
    after = math.fsum(remedy.change(case).norm_of(case.update) ** 2 for case in cases)
    return math.sqrt(after / before)
