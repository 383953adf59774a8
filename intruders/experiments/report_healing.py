"""The result of a healing: what it changes on the half that is reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ..data.corpora import digests_of, documents_in
from ..linalg.low_rank import LowRank
from ..measures.corpus_loss import summarize_losses
from ..measures.intervals import loss_interval, paired_difference, proportion_interval
from ..measures.losses import Outcome
from ..mitigation.remedies.remedy import ScaledIntruders
from ..mitigation.tuned_matrices import TunedMatrices
from ..models.stored_dtype import dtype_name
from .bench import Tally
from .dosed_model import TunedState
from .experiment_settings import HealSettings
from .healing import BASE, CURVE, HEALED, INTERPOLATION, INTRUDERS, TUNED, Healing
from .learn import Learned
from .learning import LEAST, MOST, at_bounds, least_allowed
from .open_dosed import HealBench
from .point import CorpusMeasure, HealedPoint, TaskMeasure
from .yardstick import Yardstick

# Interpolations that are measured besides the one of the healed model's task loss.
_ALPHAS = (0.25, 0.5, 0.75)


def reported_healing(
    bench: HealBench, learned: Learned, settings: HealSettings, of_tasks: Mapping[str, Any]
) -> Healing:
    """Measure what was learned beside its controls and rivals, before anything is written.

    A control removes the intruders. The tasks are scored again by the settings ``of_tasks``.
    """
    data, doses, question = bench.data, learned.state.doses, bench.question
    states = {name: rival.state for name, rival in learned.rivals.items()}
    matrices = TunedMatrices(question.both[0], question.audited, question.compute.torch_device())
    remedy = ScaledIntruders(0.0)
    changes = {case.matrix.name: remedy.change(case).added for case in matrices.read([remedy])}
    removing = {name: added for name, added in changes.items() if added is not None and name in bench.updates}
    points = _reported_points(bench, learned.state, states, removing)
    notes = list(learned.notes)
    count = at_bounds(doses) if learned.state.learned is None else 0
    if count:
        notes.append(f"{count} of {len(doses)} doses are at the end of their range, {LEAST:g} or {MOST:g}")
    healing = Healing(
        base=question.base_source,
        tuned=question.tuned,
        out=None,
        form="",
        learn=settings.learn,
        per=settings.per,
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
            for name, rival in learned.rivals.items()
        },
        documents={name: documents_in(parts) for name, parts in data.report.corpora.items()},
        examples={name: len(rows) for name, rows in data.report.examples.items()},
        digests=digests_of(data.report.corpora),
        settings={
            **settings.as_dict(),
            "weight": settings.weight_of(settings.learn, in_full=bench.is_in_full),
            **of_tasks,
            "seed": question.seed,
            "dtype": question.loading.load_in or dtype_name(bench.language.dtype),
        },
        intruders_before=matrices.audit.intruders,
        intruders_after=None,
        at_bounds=count,
        of=bench.kept.of,
    )
    return replace(healing, notes=[*notes, *healing.gaps()])


def _reported_points(
    bench: HealBench, state: TunedState, rivals: Mapping[str, TunedState], intruders: Mapping[str, LowRank]
) -> list[HealedPoint]:
    """Measure base, tuned, healed, rivals, interpolation (also at the healed model's task loss), and controls.

    ``intruders`` are the low-rank matrices that remove them.
    """
    tally = Tally(bench.question.progress, 9 + len(rivals))  # about

    def measure(name: str, state: TunedState, *, answers: bool = False, removed: str = "") -> Outcome:
        tally.step(f"measure {name}")
        return bench.outcome(state, bench.data.report, answers=answers, removed=removed)

    task = bench.data.task
    # Without answers: of a task that it does not know a base writes each to the last token that it may.
    base = measure(BASE, bench.everywhere(0.0))
    tuned = measure(TUNED, bench.everywhere(1.0), answers=True)
    healed = measure(HEALED, state, answers=True)
    curve = {0.0: base, 1.0: tuned}
    for alpha in _ALPHAS:
        curve[alpha] = measure(f"interpolation at {alpha:g}", bench.everywhere(alpha))

    def task_loss(dose: float) -> float:
        if dose in curve:
            return curve[dose].tasks[task].losses.mean
        return bench.on_task(bench.everywhere(dose), bench.data.report).loss

    tally.step("find interpolation at that task loss")
    equal = same_dose(task_loss, healed.tasks[task].losses.mean)
    at_equal = curve[equal] = measure(INTERPOLATION, bench.everywhere(equal), answers=True)
    ordered = dict(sorted(curve.items()))
    report = Report(bench, list(ordered.values()))
    points = [
        report.point(BASE, base, 0.0),
        report.point(TUNED, tuned, 1.0),
        report.point(HEALED, healed),
        report.point(INTERPOLATION, at_equal, equal),
        *(report.point(name, measure(name, rival, answers=True)) for name, rival in rivals.items()),
    ]
    if intruders:
        bench.add(intruders, 1.0)  # after everything else is measured
        removed = measure(INTRUDERS, bench.everywhere(1.0), removed=INTRUDERS)
        points.append(report.point(INTRUDERS, removed))
    return points + [report.point(CURVE, outcome, alpha) for alpha, outcome in ordered.items()]


def same_dose(task_loss: Callable[[float], float], healed: float) -> float:
    """Return the smallest common dose at the healed model's task loss, or the tuned model's if no dose gets so low.

    Without the second, interpolation would be the tuned model itself, and all that is healed would count as a gain.
    """
    dose = least_allowed(lambda dose: task_loss(dose) <= healed)
    tuned = task_loss(1.0)
    return dose if dose < 1 or healed >= tuned else least_allowed(lambda dose: task_loss(dose) <= tuned)


class Report:
    """Turn outcomes on the reported half into points."""

    def __init__(self, bench: HealBench, curve: Sequence[Outcome]) -> None:
        """Take a ``curve`` of interpolations by ascending dose, the base first and the tuned model last."""
        self._share, self._seed = bench.data.report, bench.question.seed
        self._base, self._tuned = curve[0], curve[-1]
        self._sticks = {
            name: Yardstick(
                _of_corpus(self._base, name),
                [_of_corpus(outcome, name) for outcome in curve],
                target=bench.data.task,
                weights={name: self._share.weights[name]},
                seed=self._seed,
            )
            for name in self._share.corpora
        }

    def point(self, name: str, outcome: Outcome, dose: float | None = None) -> HealedPoint:
        """Return a measured model; its gain is over interpolation at the same task loss."""
        summaries = summarize_losses(
            self._share.corpora, outcome.corpora, self._base.corpora, seed=self._seed
        )
        corpora: dict[str, CorpusMeasure] = {}
        for corpus, summary in summaries.items():
            assert summary.difference is not None
            own, stick = _of_corpus(outcome, corpus), self._sticks[corpus]
            healed, gain = stick.healed(own), stick.gain(own)
            corpora[corpus] = CorpusMeasure(summary.loss, summary.difference, healed, gain)
        tasks: dict[str, TaskMeasure] = {}
        for task, of_task in outcome.tasks.items():
            loss = loss_interval(of_task.losses, seed=self._seed)
            rise = paired_difference(of_task.losses, self._tuned.tasks[task].losses, seed=self._seed)
            right = of_task.right
            accuracy = proportion_interval(sum(right), len(right)) if right else None
            tasks[task] = TaskMeasure(loss, rise, accuracy)
        return HealedPoint(name, dose, corpora, tasks)


def _of_corpus(outcome: Outcome, name: str) -> Outcome:
    return replace(outcome, corpora={name: outcome.corpora[name]})
