"""Do the intruders cause it? Losses and task scores of a model whose intruders, or controls, are scaled in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

from ..audits.audit import audit as run_audit
from ..audits.audit_result import Audit
from ..audits.audit_settings import choose_device
from ..audits.base_cache import CacheChoice
from ..checkpoints.pairing.pair_sides import open_sides, pair_sides
from ..data.columns import Columns
from ..data.corpora import load_corpora
from ..data.load_task import load_task
from ..errors import SettingError
from ..mitigation.cases import Affected, affected_matrices
from ..mitigation.live_weights import LiveInterventions
from ..mitigation.mitigate import audited_selection, given_audit
from ..mitigation.remedies.controls import INTRUDERS, check_control, check_scale
from ..models.tuned_model import OpenedModel, open_for_task, open_language_model
from ..training.run_folder import data_seed_of
from .corpus_loss import CorpusLoss, measure_losses, summarize_losses
from .losses import DocumentLosses
from .sweep import InterventionSweep, Point
from .task_score import score_task

Progress = Callable[[str, int, int], None]


def intervene(
    base: str | None,
    tuned: str,
    *,
    scales: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    controls: Sequence[str] = ("shrink", "random"),
    loss_on: Sequence[str] = (),
    tasks: Sequence[str] = (),
    columns: Columns | None = None,
    split: str | None = None,
    max_documents: int | None = None,
    max_examples: int | None = None,
    window: int | None = None,
    stride: int | None = None,
    estimate: bool = False,
    audit: Audit | str | os.PathLike[str] | None = None,
    k: int = 10,
    epsilon: float = 0.5,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    data_seed: int | None = None,
    seed: int = 0,
    device: str = "auto",
    cache: CacheChoice = True,
    progress: Progress | None = None,
) -> InterventionSweep:
    """Measures the tuned model with its intruders scaled, and with every control in their stead at the same scales.

    No model is written: the weights are changed in memory. Every measure is of the same documents and examples, so that
    all differences are paired.

    Args:
      base: the model before fine-tuning; None where an adapter names it.
      tuned: folder, hub id or alias of the fine-tuned model, or its adapter.
      scales: lambdas; 1, the tuned model itself, is always measured.
      controls: of "shrink", "random", "neighbours" and "update".
      loss_on: corpora, as in :func:`intruders.evaluation.evaluate.evaluate`, like the next eight.
      tasks: see there.
      columns: see there.
      split: see there.
      max_documents: see there.
      max_examples: see there.
      window: see there.
      stride: see there.
      estimate: see there.
      audit: one of these two that was made before, or the path of a saved one; its settings are used.
      k: as in :func:`intruders.audit`, like the next three.
      epsilon: see there.
      include: see there.
      exclude: see there.
      data_seed: of the tasks' rows and splits, as in fine-tuning; that of the run if none is given.
      seed: of the control "random", of samples of documents, and of the bootstrap.
      device: of the decompositions.
      cache: as in :func:`intruders.audit`.
      progress: called with (what is being done, done, in all).

    Raises:
      SettingError: nothing to measure, or a setting out of range. Other IntrudersErrors as the audit and the
      evaluation raise them.
    """
    if not (loss_on or tasks):
        raise SettingError("nothing to measure; expected a corpus (--loss-on) or a task (--task)")
    for scale in scales:
        check_scale(scale)
    for control in controls:
        check_control(control)
    corpora = {name: load_corpora(name, max_documents=max_documents, seed=seed) for name in loss_on}
    rows_by = data_seed_of(tuned) if data_seed is None else data_seed
    loaded_tasks = {name: load_task(name, columns, rows_by) for name in tasks}
    report = progress or (lambda stage, done, total: None)
    found = given_audit(audit)
    if found is None:
        found = run_audit(
            base, tuned, k=k, epsilon=epsilon, include=include, exclude=exclude, device=device, cache=cache,
            progress=lambda done, total, intruders: report("audit", done, total),
        )  # fmt: skip
    if found.intruders == 0:
        raise SettingError(
            f"'{tuned}' has no intruders among the {found.k} leading vectors of any matrix, so there is nothing to "
            "scale; give a larger --epsilon or --k, or another model"
        )
    base_side, tuned_side = open_sides(base, tuned)
    pairs = pair_sides(base_side, tuned_side, **audited_selection(found)).pairs
    affected = list(affected_matrices(pairs, found, set(controls), seed, choose_device(device)))

    def losses_of(opened: OpenedModel) -> dict[str, list[DocumentLosses]]:
        return {
            name: measure_losses(opened, parts, window=window, stride=stride, estimate=estimate, seed=seed)
            for name, parts in corpora.items()
        }

    base_source = base if base is not None else base_side.source
    before = losses_of(open_language_model(base_source)) if corpora else {}
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
    settings = list(_settings(scales, controls))
    with ExitStack() as stack:
        live = [
            stack.enter_context(LiveInterventions(model, base_side, affected)) for model in distinct.values()
        ]

        def measured(control: str, scale: float, tuned_losses: Mapping[str, CorpusLoss] | None) -> Point:
            for one in live:
                one.set(scale, control)
            after = losses_of(language) if language is not None else {}
            losses = {
                name: summarize_losses(
                    name,
                    corpora[name],
                    parts,
                    None if tuned_losses is None else tuned_losses[name].losses,
                    seed=seed,
                )
                for name, parts in after.items()
            }
            scores = {
                name: score_task(
                    opened, loaded_tasks[name], split=split, max_examples=max_examples, labels=labels
                )
                for name, (opened, labels) in models.items()
            }
            return Point(control, scale, losses, scores, _update_norm(affected, control, scale))

        report("measure", 0, len(settings) + 1)
        tuned_point = measured(INTRUDERS, 1.0, None)
        points = []
        for done, (control, scale) in enumerate(settings, start=1):
            report("measure", done, len(settings) + 1)
            points.append(measured(control, scale, tuned_point.losses))
    base_losses = {
        name: summarize_losses(name, corpora[name], parts, seed=seed) for name, parts in before.items()
    }
    return InterventionSweep(base_source, tuned, found, seed, tuned_point, base_losses, points)


def _settings(scales: Sequence[float], controls: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Intruders and every control at every scale but 1, where all are the tuned model; ascending."""
    for scale in sorted(set(scales) - {1.0}):
        for control in dict.fromkeys([INTRUDERS, *controls]):
            yield control, scale


def _update_norm(affected: Sequence[Affected], control: str, scale: float) -> float:
    """``sqrt(sum ||W' - W0||_F^2 / sum ||W - W0||_F^2)`` over the matrices."""
    if scale == 1:
        return 1.0
    before = math.fsum(one.update.norm() ** 2 for one in affected)
    after = math.fsum(one.change(scale, control).norm ** 2 for one in affected)
    return math.sqrt(after / before)
