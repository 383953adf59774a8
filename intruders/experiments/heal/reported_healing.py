"""The result of a healing: what it changes on the half that is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...data.corpora import digests_of, documents_in
from ...linalg.low_rank import LowRank
from ...mitigation.remedies.intruders import ScaledIntruders
from ...mitigation.tuned_matrices import TunedMatrices
from ...models.stored_dtype import dtype_name
from ...system.progress import Progress
from ..bench.given_sides import OpenedSides
from ..doses.updates import Updates
from .heal_request import HealRequest
from .healing import Healing
from .learn import Learned
from .learning import LEAST, MOST, at_bounds
from .open_bench import OpenedBench
from .reported_points import ReportMeasuring, reported_points

_MEASURES = 11  # on the half that is reported, about


def reported_healing(
    request: HealRequest,
    sides: OpenedSides,
    key: Mapping[str, Any],
    opened: OpenedBench,
    learned: Learned,
    rivals: Mapping[str, Learned],
    matrices: TunedMatrices,
    progress: Progress,
) -> Healing:
    """Measure what was learned beside its controls and rivals, before anything is written.

    Args:
      request: the settings, for the record.
      sides: base and tuned model, opened.
      key: what the healing is known again by.
      opened: the models and the data.
      learned: the state that is kept.
      rivals: what was learned beside it, by name.
      matrices: the audited matrices, whose intruders a control removes.
      progress: called with (what is being measured, done, in all).
    """
    bench, data, doses = opened.bench, opened.data, learned.state.doses
    in_all = _MEASURES + len(rivals)
    done = iter(range(in_all + 1))

    def step(name: str) -> None:
        progress(name, min(next(done, in_all), in_all), in_all)

    removing = _removing(matrices, opened.updates)
    measuring = ReportMeasuring(bench, data, step)
    states = {name: rival.state for name, rival in rivals.items()}
    points = reported_points(measuring, learned.state, states, opened.updates.shapes, removing, request.seed)
    notes = list(learned.notes)
    count = at_bounds(doses) if learned.state.learned is None else 0
    if count:
        notes.append(f"{count} of {len(doses)} doses are at the end of their range, {LEAST:g} or {MOST:g}")
    healing = Healing(
        base=sides.base_source,
        tuned=sides.tuned,
        out=None,
        form="",
        learn=request.settings.learn,
        per=request.settings.per,
        task=data.task,
        corpus=data.corpus,
        start=learned.start,
        step=learned.best.step,
        doses=bench.groups.by_matrix(doses),
        elsewhere=bench.groups.elsewhere(doses),
        points=points,
        learning=[asdict(measured) for measured in learned.measured],
        rivals={
            name: [asdict(measured) for measured in (rival.best, *rival.measured)]
            for name, rival in rivals.items()
        },
        documents={name: documents_in(parts) for name, parts in data.report.corpora.items()},
        examples={name: len(rows) for name, rows in data.report.examples.items()},
        digests=digests_of(data.report.corpora),
        settings={
            **request.settings.as_dict(),
            "weight": request.settings.weight_of(request.settings.learn),
            "rate": request.settings.rate_of(request.settings.learn),
            **request.task_settings,
            "seed": request.seed,
            "dtype": request.loading.load_in or dtype_name(bench.language.dtype),
        },
        intruders_before=matrices.audit.intruders,
        intruders_after=None,
        at_bounds=count,
        notes=notes,
        of=key,
    )
    return healing.finished(notes=[*notes, *healing.gaps()])


def _removing(matrices: TunedMatrices, updates: Updates) -> dict[str, LowRank]:
    """Return the low-rank matrices that remove the intruders, by matrix."""
    if matrices.audit.intruders == 0:
        return {}
    remedy = ScaledIntruders(0.0)
    changes = {case.matrix.name: remedy.change(case).added for case in matrices.read([remedy])}
    return {name: added for name, added in changes.items() if added is not None and name in updates.by_name}
