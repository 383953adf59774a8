"""Do the intruders cause it? Losses and task scores of a model whose intruders, or controls, are scaled in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..audits.audit import audited_whole
from ..audits.audit_result import Audit
from ..audits.audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.pairing.pair_sides import named_sides, open_sides
from ..data.corpora import load_corpora
from ..data.load_task import load_task
from ..errors import SettingError
from ..mitigation.cases import read_cases
from ..mitigation.elsewhere import not_audited, shares_elsewhere
from ..mitigation.live_weights import LiveInterventions
from ..mitigation.remedies.controls import ShrinkOutput
from ..mitigation.remedies.every_remedy import remedy_named
from ..mitigation.remedies.intruders import INTRUDERS
from ..mitigation.remedies.remedy import Case, Remedy, ScaledRemedy
from ..models.finetuned_folder import data_seed_of
from ..models.tuned_model import OpenedModel, open_language_model
from ..system.progress import Progress, silent
from .base_inputs import documents_of, sample_inputs
from .equal_task_loss import ALONG_CURVE, EqualTaskLoss, wants_curve
from .live_models import opened_live
from .measure_settings import (
    IN_QUARTERS,
    INTERPOLATE,
    NO_LOSSES,
    NO_SCORES,
    SHRINK_OUTPUT,
    LossSettings,
    ScoreSettings,
    SweepSettings,
)
from .measured_weights import Losses, MeasuredData, MeasuredWeights
from .sweep import InterventionSweep, Point


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
        point gets its gain over interpolation at equal task loss, from a curve of eleven more evaluations. The control
        "shrink-output" equals output energies on the first documents of the corpora.
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
    if SHRINK_OUTPUT in sweep.controls and not losses.loss_on:
        raise SettingError(
            f"control {SHRINK_OUTPUT!r} equals outputs of the base on text, and there is none; add a corpus "
            "(--loss-on), or choose the control 'shrink'"
        )
    rows_by = data_seed_of(tuned) if data_seed is None else data_seed
    max_documents = sweep.max_documents or losses.max_documents
    data = MeasuredData(
        corpora={name: load_corpora(name, max_documents=max_documents, seed=seed) for name in losses.loss_on},
        tasks={name: load_task(name, scores, rows_by) for name in scores.tasks},
        losses=losses,
        split=scores.split,
        max_examples=sweep.max_examples or scores.max_examples,
        seed=seed,
    )
    base_side, tuned_side = open_sides(base, tuned)
    pairing, before, settings = audited_whole(base_side, tuned_side, audit, compute, progress)
    if before.intruders == 0:
        raise SettingError(
            f"'{tuned}' has no intruders among the {before.k} leading vectors of any matrix, so there is nothing to "
            "scale; pass a larger --epsilon or --k, or another model"
        )

    def cases_of(remedies: Sequence[Remedy]) -> list[Case]:
        return list(read_cases(pairing.pairs, before, remedies, base_side.names(), compute.torch_device()))

    # An audit of other weights is refused before anything is measured. No case depends on the base's inputs.
    cases = cases_of(_remedies(sweep, seed, {}))
    base_source = base if base is not None else base_side.source
    of_base: Losses = {}
    inputs: dict[str, Tensor] = {}
    if data.corpora:
        base_model = open_language_model(base_source)
        of_base = data.losses_of(base_model)
        if SHRINK_OUTPUT in sweep.controls:
            inputs = _inputs_of_base(base_model, base_side, cases, data)
        del base_model  # the tuned one needs its memory
    remedies = _remedies(sweep, seed, inputs)
    along = ALONG_CURVE if is_curve_wanted else ()
    in_all = len(along) + 1 + len(remedies)
    others = not_audited(base_side, before) if is_curve_wanted else []
    reads_text = bool(data.corpora)
    with opened_live(tuned, base, data.tasks, base_side, others, reads_text=reads_text) as models:
        weights = MeasuredWeights(data, models)
        of_curve = []
        if along:
            models.use(cases_of(along))
        for done, interpolated in enumerate(along):
            progress("measure interpolation", done, in_all)
            models.set(interpolated, shares_elsewhere(interpolated, base_side.names(), settings))
            of_curve.append(weights.outcome(weights.losses()))
        compared = EqualTaskLoss(of_curve, data) if along else None
        models.use(cases)
        points: list[Point] = []
        for done, remedy in enumerate([remedy_named(INTRUDERS, 1.0, seed), *remedies], start=len(along)):
            progress("measure", done, in_all)
            models.set(remedy)
            after = weights.losses()
            point = Point(
                remedy.name,
                remedy.scale,
                data.summarized(after, points[0].losses if points else None),
                weights.scores(),
                _update_norm(cases, remedy),
                0 if remedy.changes_nothing else sum(not remedy.exists(case) for case in cases),
            )
            if compared is not None and points:
                point = compared.with_gain(point, weights.outcome(after))
            points.append(point)
    tuned_point, *scaled = points
    return InterventionSweep(
        base_source,
        tuned,
        before,
        seed,
        tuned_point,
        data.summarized(of_base),
        scaled,
        [] if compared is None else compared.points,
    )


def _inputs_of_base(
    base: OpenedModel, base_side: Checkpoint, cases: Sequence[Case], data: MeasuredData
) -> dict[str, Tensor]:
    """(tokens, n) of each case, a sample of what the base feeds to its matrix on the corpora."""
    modules = LiveInterventions(base.model, base_side).modules_of([case.matrix.name for case in cases])
    return sample_inputs(base, modules, documents_of(data.corpora), data.seed)


def _remedies(sweep: SweepSettings, seed: int, inputs: Mapping[str, Tensor]) -> list[ScaledRemedy]:
    """Intruders and every control at every scale but 1, where all are the tuned model; ascending."""
    return [
        ShrinkOutput(scale, seed, inputs) if control == SHRINK_OUTPUT else remedy_named(control, scale, seed)
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
