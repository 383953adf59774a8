"""The measures on the half that is reported: the models, the curve of interpolation, and the controls."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...linalg.low_rank import LowRank
from ...measures.outcome import Outcome
from ..doses.dose_groups import DoseGroups
from ..doses.tuned_state import TunedState
from .heal_bench import HealBench
from .heal_data import HealData
from .healing import BASE, CURVE, HEALED, INTERPOLATION, INTRUDERS, MEAN_DOSE, SHUFFLED, TUNED, HealedPoint
from .report import Report

# Interpolations that are measured besides the one of the healed model's task loss.
_ALPHAS = (0.25, 0.5, 0.75)

# Every halving of the range of a dose is one measure of the task.
_HALVINGS = 5

Step = Callable[[str], None]


@dataclass(frozen=True)
class ReportMeasuring:
    """The bench, the data and the progress of a measurement."""

    bench: HealBench
    data: HealData
    step: Step

    def outcome(self, name: str, state: TunedState, *, answers: bool = False, removed: str = "") -> Outcome:
        self.step(f"measure {name}")
        return self.bench.outcome(state, self.data.report, answers=answers, removed=removed)


def reported_points(
    measuring: ReportMeasuring,
    state: TunedState,
    rivals: Mapping[str, TunedState],
    shapes: Mapping[str, tuple[int, int]],
    intruders: Mapping[str, LowRank],
    seed: int,
) -> list[HealedPoint]:
    """Measure base, tuned, healed, rivals, interpolation (also at the healed model's task loss), and controls.

    Args:
      measuring: the models and the data.
      state: the healed model.
      rivals: what was learned beside it, by name.
      shapes: shapes of the matrices; doses are shuffled among matrices of one shape.
      intruders: low-rank matrices that remove the intruders; empty without intruders.
      seed: seed of the shuffle.
    """
    task, bench = measuring.data.task, measuring.bench
    base = measuring.outcome(BASE, bench.everywhere(0.0), answers=True)
    tuned = measuring.outcome(TUNED, bench.everywhere(1.0), answers=True)
    healed = measuring.outcome(HEALED, state, answers=True)
    measuring.step("find interpolation at that task loss")
    equal = same_dose(measuring, healed.tasks[task].losses.mean, tuned.tasks[task].losses.mean)
    at_equal = measuring.outcome(INTERPOLATION, bench.everywhere(equal), answers=True)
    curve = {0.0: base, 1.0: tuned, equal: at_equal}
    for alpha in _ALPHAS:
        if alpha not in curve:
            curve[alpha] = measuring.outcome(f"interpolation at {alpha:g}", bench.everywhere(alpha))
    ordered = dict(sorted(curve.items()))
    report = Report(measuring.data.report, base, tuned, list(ordered.values()), task, seed)
    points = [
        report.point(BASE, base, 0.0),
        report.point(TUNED, tuned, 1.0),
        report.point(HEALED, healed),
        report.point(INTERPOLATION, at_equal, equal),
        *(report.point(name, measuring.outcome(name, rival, answers=True)) for name, rival in rivals.items()),
    ]
    if state.learned is None:
        doses, groups = state.doses, bench.groups
        mean = sum(doses) / len(doses)
        points.append(report.point(MEAN_DOSE, measuring.outcome(MEAN_DOSE, bench.everywhere(mean)), mean))
        mixed = shuffled(doses, groups, shapes, seed)
        if mixed != list(doses):
            points.append(report.point(SHUFFLED, measuring.outcome(SHUFFLED, TunedState(mixed))))
    if intruders:
        with bench.with_added(intruders):
            points.append(
                report.point(
                    INTRUDERS, measuring.outcome(INTRUDERS, bench.everywhere(1.0), removed=INTRUDERS), None
                )
            )
    return points + [report.point(CURVE, outcome, alpha) for alpha, outcome in ordered.items()]


def same_dose(measuring: ReportMeasuring, healed: float, tuned: float) -> float:
    """Return the smallest common dose at the healed model's task loss, or the tuned model's if no dose gets so low.

    Without the second, interpolation would be the tuned model itself, and all that is healed would count as a gain.
    """
    bench, data = measuring.bench, measuring.data

    def at_most(loss: float) -> float:
        return least_dose(
            lambda dose: bench.on_task(bench.everywhere(dose), data.report, data.task).losses.mean <= loss
        )

    dose = at_most(healed)
    return dose if dose < 1 or healed >= tuned else at_most(tuned)


def least_dose(is_enough: Callable[[float], bool], halvings: int = _HALVINGS) -> float:
    """Return the smallest common dose, to ``0.5 ** halvings``, that is enough; 1 if none is."""
    low, high = 0.0, 1.0
    for _ in range(halvings):
        middle = (low + high) / 2
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return high


def shuffled(
    doses: Sequence[float],
    groups: DoseGroups,
    shapes: Mapping[str, tuple[int, int]],
    seed: int,
) -> list[float]:
    """Exchange the doses at random among matrices of one shape, or among all matrices that share doses."""
    generator = random.Random(f"shuffled {seed}")
    mixed = list(doses)
    kinds: dict[object, list[int]] = {}
    shared = len(set(groups.places.values())) < len(groups.places)
    for name in groups.matrices:
        kinds.setdefault(None if shared else shapes[name], []).extend(groups.places[name])
    for positions in kinds.values():
        distinct = list(dict.fromkeys(positions))
        drawn = list(distinct)
        generator.shuffle(drawn)
        for position, other in zip(distinct, drawn, strict=True):
            mixed[position] = doses[other]
    return mixed
