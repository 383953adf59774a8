"""Do the intruders cause it? Losses and task scores of a model whose intruders, or controls, are scaled in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...audits.audit import audited_whole
from ...audits.audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ...audits.result.audit_result import Audit
from ...checkpoints.pairing.open_sides import named_sides, open_sides
from ...checkpoints.pairing.pairing import PairedMatrix
from ...checkpoints.stored.checkpoint import Checkpoint
from ...data.corpora import load_corpora
from ...data.load_task import load_task
from ...errors import SettingError
from ...measures.base_inputs import documents_of, sample_inputs
from ...measures.kept_outcomes import KeptOutcomes, depends_on
from ...measures.measure_settings import (
    IN_QUARTERS,
    INTERPOLATE,
    NO_LOSSES,
    NO_SCORES,
    SHRINK_OUTPUT,
    LossSettings,
    ScoreSettings,
    SweepSettings,
)
from ...measures.outcome import Outcome
from ...measures.task_score import scored_examples
from ...mitigation.cases import read_cases
from ...mitigation.elsewhere import not_audited, shares_elsewhere
from ...mitigation.live_weights import LiveInterventions
from ...mitigation.remedies.controls import ShrinkOutput
from ...mitigation.remedies.every_remedy import remedy_named
from ...mitigation.remedies.intruders import INTRUDERS
from ...mitigation.remedies.remedy import Case, Remedy, ScaledRemedy
from ...models.finetuned_folder import data_seed_of
from ...models.loading_settings import AS_STORED, Loading
from ...models.stored_dtype import recorded_dtypes
from ...models.tuned_model import OpenedModel, open_language_model
from ...system.folders import locked_folder, make_folder
from ...system.progress import Progress, silent
from ..bench.live_models import models_loaded, opened_live
from ..bench.measured_weights import Losses, MeasuredData, MeasuredWeights
from .equal_task_loss import ALONG_CURVE, EqualTaskLoss, wants_curve
from .sweep import InterventionSweep, Point

_OF_BASE = {"remedy": None}  # the unit of its evaluation


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
    keep: str | os.PathLike[str] | None = None,
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
      sweep: scales (1, the tuned model itself, is always measured) and controls; with "interpolate" among them, every
        point gets its gain over interpolation at equal task loss, from a curve of eleven more evaluations. The control
        "shrink-output" equals output energies on the first documents of the corpora.
      losses: the corpora, as in :func:`intruders.evaluate`.
      scores: the tasks whose accuracy is measured.
      audit: settings of the audit that finds the intruders, an audit of these two models, or the path of a saved one.
      data_seed: seed of the tasks' rows and splits, as in fine-tuning; by default that of the run.
      seed: seed of the control "random", of samples of documents, and of the bootstrap.
      keep: folder of finished evaluations. A call that was stopped resumes there; another model, other data or
        settings never reuse one.
      loading: how the models are loaded.
      compute: where the audit is computed.
      progress: called with (what is being done, done, in all).

    Returns:
      The measures of the tuned model and of every intervention.

    Raises:
      SettingError: nothing to measure, or a setting out of range.
      IntrudersError: as the audit and the evaluation raise it.

    Example:
      ``intruders.intervene("smollm2-135m", "my-adapter", losses=intruders.LossSettings(loss_on=("pydoc",))).points``
    """
    given_base, given_tuned = named_sides(base, tuned)
    base, tuned = None if given_base is None else str(given_base), str(given_tuned)
    is_curve_wanted = wants_curve(sweep, losses, scores)
    if not (losses.loss_on or scores.tasks):
        raise SettingError("nothing to measure; expected a corpus (--loss-on) or a task (--task)")
    if SHRINK_OUTPUT in sweep.controls and not losses.loss_on:
        raise SettingError(
            "control 'shrink-output' equals outputs of the base on text, and there is none; add a corpus "
            "(--loss-on), or choose the control 'shrink'"
        )
    rows_by = data_seed_of(tuned) if data_seed is None else data_seed
    max_documents = sweep.max_documents or losses.max_documents
    most = sweep.max_examples or scores.max_examples
    tasks = {name: load_task(name, scores, rows_by) for name in scores.tasks}
    data = MeasuredData(
        corpora={name: load_corpora(name, max_documents=max_documents, seed=seed) for name in losses.loss_on},
        tasks=tasks,
        losses=losses,
        examples={name: scored_examples(task, scores.split, most) for name, task in tasks.items()},
        seed=seed,
    )
    base_side, tuned_side = open_sides(base, tuned)
    base_source = base if base is not None else base_side.source
    folder = None if keep is None else Path(keep)
    if folder is not None:
        make_folder(folder, "keep")
    with nullcontext() if folder is None else locked_folder(folder, "keep"):
        pairing, audited, settings = audited_whole(base_side, tuned_side, audit, compute, progress)
        if audited.intruders == 0:
            raise SettingError(
                f"'{tuned}' has no intruders among the {audited.k} leading vectors of any matrix, so there is nothing "
                "to scale; pass a larger --epsilon or --k, or another model"
            )
        of = {}
        if folder is not None:
            of = depends_on(base_source, tuned, settings, losses, scores, seed, audited=audited, tasks=tasks)
            of |= recorded_dtypes(loading, models_loaded((base_side, tuned_side), tuned, base_source))
        kept = KeptOutcomes(folder, {**of, "data": data.fingerprint()})
        measured = _Measured(
            base,
            base_source,
            tuned,
            base_side,
            pairing.pairs,
            audited,
            settings,
            sweep,
            data,
            kept,
            loading,
            compute,
            progress,
        )
        return measured.sweep_of_all(is_curve_wanted)


@dataclass(frozen=True)
class _Measured:
    """Everything that is measured of one tuned model, in order."""

    base: str | None  # as it was given
    base_source: str
    tuned: str
    base_side: Checkpoint
    pairs: Sequence[PairedMatrix]
    audit: Audit
    settings: AuditSettings
    sweep: SweepSettings
    data: MeasuredData
    kept: KeptOutcomes
    loading: Loading
    compute: Compute
    progress: Progress

    def sweep_of_all(self, is_curve_wanted: bool) -> InterventionSweep:
        """Measure the base, then interpolation if wanted, then the tuned model and every intervention on it."""
        data = self.data
        # An audit of other weights is refused before anything is measured. No case depends on the base's inputs.
        cases = self._cases(_remedies(self.sweep, data.seed, {}))
        of_base, inputs = self._of_base(cases)
        remedies = [
            remedy_named(INTRUDERS, 1.0, data.seed),
            *_remedies(self.sweep, data.seed, inputs),
        ]
        others = not_audited(self.base_side, self.audit) if is_curve_wanted else []
        reads_text = bool(data.corpora)
        with opened_live(
            self.tuned,
            self.base,
            data.tasks,
            self.base_side,
            others,
            loading=self.loading,
            reads_text=reads_text,
        ) as models:
            weights = MeasuredWeights(data, models, self.kept)
            compared = self._curve(weights, len(remedies)) if is_curve_wanted else None
            tuned_point, *points = self._points(weights, cases, remedies, compared)
        return InterventionSweep(
            self.base_source,
            self.tuned,
            self.audit,
            data.seed,
            tuned_point,
            data.summarized(of_base),
            points,
            [] if compared is None else compared.points,
        )

    def _cases(self, remedies: Sequence[Remedy]) -> list[Case]:
        device = self.compute.torch_device()
        return list(read_cases(self.pairs, self.audit, remedies, self.base_side.names(), device))

    def _of_base(self, cases: Sequence[Case]) -> tuple[Losses, dict[str, Tensor]]:
        """Measure the base's losses, and the inputs of the matrices if a control needs them.

        The model is open only within this method, since the tuned one needs its memory.
        """
        asks = SHRINK_OUTPUT in self.sweep.controls
        outcome = self.kept.get(_OF_BASE)
        if not self.data.corpora or (outcome is not None and not asks):
            return {} if outcome is None else outcome.corpora, {}
        opened = open_language_model(self.base_source, loading=self.loading)
        if outcome is None:
            outcome = Outcome(self.data.losses_of(opened), {})
            self.kept.put(_OF_BASE, outcome)
        return outcome.corpora, _inputs_of_base(opened, self.base_side, cases, self.data) if asks else {}

    def _curve(self, weights: MeasuredWeights, more: int) -> EqualTaskLoss:
        """Measure interpolation from the base to the tuned model; ``more`` models are measured after it."""
        weights.models.use(self._cases(ALONG_CURVE))
        outcomes = []
        for done, remedy in enumerate(ALONG_CURVE):
            self.progress("measure interpolation", done, len(ALONG_CURVE) + more)
            shares = shares_elsewhere(remedy, self.base_side.names(), self.settings)
            outcomes.append(weights.outcome(remedy, shares, answers=False))
        return EqualTaskLoss(outcomes, self.data)

    def _points(
        self,
        weights: MeasuredWeights,
        cases: Sequence[Case],
        remedies: Sequence[ScaledRemedy],
        compared: EqualTaskLoss | None,
    ) -> list[Point]:
        """Measure a point for every remedy; the first is the tuned model, which the others are compared with."""
        before = 0 if compared is None else len(ALONG_CURVE)
        weights.models.use(cases)
        points: list[Point] = []
        for done, remedy in enumerate(remedies, start=before):
            self.progress("measure", done, before + len(remedies))
            outcome = weights.outcome(remedy)
            point = Point(
                remedy.name,
                remedy.scale,
                self.data.summarized(outcome.corpora, points[0].losses if points else None),
                self.data.scores(outcome),
                _update_norm(cases, remedy),
                0 if remedy.changes_nothing else sum(not remedy.exists(case) for case in cases),
            )
            is_tuned = not points
            points.append(point if compared is None or is_tuned else compared.with_gain(point, outcome))
        return points


def _inputs_of_base(
    base: OpenedModel, base_side: Checkpoint, cases: Sequence[Case], data: MeasuredData
) -> dict[str, Tensor]:
    """Sample the base's inputs (tokens, n) of each case's matrix on the corpora."""
    modules = LiveInterventions(base.model, base_side).modules_of([case.matrix.name for case in cases])
    return sample_inputs(base, modules, documents_of(data.corpora), data.seed)


def _remedies(sweep: SweepSettings, seed: int, inputs: Mapping[str, Tensor]) -> list[ScaledRemedy]:
    """Return the remedy and every control at every ascending scale except 1, where all are the tuned model."""
    return [
        ShrinkOutput(scale, seed, inputs) if control == SHRINK_OUTPUT else remedy_named(control, scale, seed)
        for scale in sorted(set(sweep.scales) - {1.0})
        for control in dict.fromkeys([INTRUDERS, *sweep.controls])
        if control != INTERPOLATE  # which is measured as a curve
    ]


def _update_norm(cases: Sequence[Case], remedy: ScaledRemedy) -> float:
    """Return ``sqrt(sum ||W' - W0||_F^2 / sum ||W - W0||_F^2)`` over the matrices."""
    if remedy.scale == 1:
        return 1.0
    before = math.fsum(case.update.norm() ** 2 for case in cases)
    after = math.fsum(remedy.change(case).norm_of(case.update) ** 2 for case in cases)
    return math.sqrt(after / before)
