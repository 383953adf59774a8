"""Remedy after remedy on one model: prepared, tried at its strengths, chosen and reported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ..errors import IntrudersError, NonFiniteError, SettingError
from ..measures.losses import Outcome, joined
from ..mitigation.remedies.at_random import RANDOM, at_random
from ..mitigation.remedies.controls import Complement, EqualNorm, EqualOutput, EqualSize, Neighbours
from ..mitigation.remedies.doses import Doses
from ..mitigation.remedies.every_remedy import published_remedy
from ..mitigation.remedies.remedy import Case, Remedy, ScaledIntruders
from ..mitigation.remedies.remedy_table import INTRUDERS, SHRINK_OUTPUT, TOP
from ..mitigation.remedies.shares import Interpolate
from ..mitigation.remedies.surgery import Surgery
from .bench import ALONG_CURVE, Bench, UpdateSizes
from .data_shares import DataShares
from .experiment_settings import ALPHAS, ComparisonSettings
from .point import Point
from .remedy_comparison import ComparedRemedy, kind_of
from .yardstick import Yardstick

_CHOICE = "choice"
_LEVEL = 0.95
_DRAWS = 3  # of the control random
_CONTROLS = 8  # at most, of one remedy


def at_strengths(name: str, count: int, seed: int, which: str) -> list[Remedy]:
    """Return a remedy at ``count`` of its strengths, evenly spread, from the mildest; ``which`` intruders it scales."""
    strengths = _spread(kind_of(name).strengths, count)
    if name == INTRUDERS:
        return [ScaledIntruders(scale, which=which) for scale in strengths]
    # A plugin may name none, and has its own default.
    return [published_remedy(name, strength, seed) for strength in strengths or (None,)]


def _spread(strengths: tuple[float, ...], count: int) -> list[float]:
    """Pick ``count`` strengths, evenly spaced, ends included; a single one is the middle one.

    >>> _spread((1.0, 2.0, 3.0, 4.0, 5.0), 3), _spread((1.0, 2.0, 3.0), 1), _spread((1.0, 2.0), 9)
    ([1.0, 3.0, 5.0], [2.0], [1.0, 2.0])
    """
    if count == 1:
        return list(strengths[len(strengths) // 2 :][:1])
    positions = np.linspace(0, len(strengths) - 1, min(count, len(strengths)))
    return [strengths[round(position)] for position in positions]


def controls_of(
    remedy: Remedy, cases: Sequence[Case], inputs: Mapping[str, Tensor], seed: int
) -> tuple[dict[str, Remedy], dict[str, str]]:
    """Return the controls by label, and the reasons of missing ones; draws are not fitted to the model yet.

    The remedy is at its chosen strength and changes ``cases``; ``inputs`` are the base's, (tokens, n) by matrix.
    """
    missing: dict[str, str] = {}
    controls: dict[str, Remedy] = {
        control.name: control
        for control in (EqualNorm(remedy), EqualOutput(remedy, inputs), EqualSize(remedy))
    }
    if remedy.scales_whole_updates:
        missing, controls = dict.fromkeys(controls, "the remedy itself scales complete updates"), {}
    if not inputs:
        controls.pop(SHRINK_OUTPUT, None)
        missing[SHRINK_OUTPUT] = "the inputs of no matrix are known"
    if isinstance(remedy, ScaledIntruders):
        in_their_place: list[Remedy] = [Complement(remedy.scale, which=remedy.which)]
        if remedy.which == TOP:  # the paper's own control of it
            in_their_place.append(Neighbours(remedy.scale, which=TOP))
        for matching in in_their_place:
            without = sum(not matching.exists(case) for case in cases)
            if without < len(cases) or not cases:
                controls[matching.name] = matching
            if without:
                missing[matching.name] = f"{without} of {len(cases)} matrices with intruders have none"
    drawn = [control for draw in range(_DRAWS) if (control := at_random(remedy, seed + draw, cases))]
    if not drawn:
        missing[RANDOM] = "the remedy makes no choice that can be drawn"
    elif cases and not any(drawn[0].exists(case) for case in cases):
        missing[RANDOM] = "every vector that an audit examines is an intruder in every matrix"
    else:
        controls |= {f"{RANDOM} {number}": control for number, control in enumerate(drawn, start=1)}
    return controls, missing


def of_task(surgeries: Sequence[Surgery], task: str, cases: Sequence[Case], bench: Bench) -> list[Surgery]:
    """Return one remedy at several strengths with a task's sensitivities, which are measured once."""
    first = surgeries[0]
    reached = {case.matrix.name: first.directions(case) for case in cases if first.reaches(case.matrix.name)}
    if reached and all(len(part.values) < 2 for part in reached.values()):
        raise SettingError(
            "changes nothing in this model: every update that it reaches has rank 1, and a single singular value "
            "keeps its size"
        )
    directions = {name: (part.left, part.right) for name, part in reached.items()}
    sensitivities = bench.sensitivities(directions, task, first.examples) if directions else {}
    return [replace(surgery, task=task, sensitivities=sensitivities) for surgery in surgeries]


def evaluations_of_one_remedy(strengths: int, shares: int) -> int:
    """Return how many evaluations a remedy takes at most; ``shares`` are those that strengths are chosen by."""
    return strengths * shares + 1 + _CONTROLS


def planned_evaluations(names: Sequence[str], strengths: int, shares: int) -> int:
    """Return how many evaluations a comparison takes at most, with the base's."""
    rows = sum(name != Interpolate.name for name in names)
    on_curve = (shares + 1) * (1 + len(ALPHAS)) + 1
    return on_curve + rows * evaluations_of_one_remedy(strengths, shares)


class _CannotRunError(Exception):
    """The reason why a remedy was not measured."""


@dataclass(frozen=True)
class Comparing:
    """One tuned model, as each remedy in turn is measured on it and compared with interpolation."""

    bench: Bench
    data: DataShares
    comparison: ComparisonSettings
    learned: Doses | str  # the doses, or why there are none
    # Interpolation on the shares of the data.
    first: Yardstick | None  # of the first pass; None where the data are too few for one
    choice: Yardstick
    report: Yardstick
    sizes: UpdateSizes
    cases: list[Case]  # the matrices that interpolation changes

    def rows(self, names: Sequence[str]) -> list[ComparedRemedy]:
        """Return one row for every remedy, in their order; interpolation is always there."""
        alpha, chosen = self.choose(ALONG_CURVE[1:-1], self.choice.curve[1:-1], self.cases)
        row, _ = self._reported(alpha, chosen, self.cases)
        return [row, *(self._row_or_reason(name) for name in names if name != Interpolate.name)]

    def first_pass(self, remedy: Remedy) -> Outcome | None:
        """Measure a remedy on the first share; None if it is clearly below the curve or its loss is not finite."""
        try:
            outcome = self.bench.outcome(remedy, self.data.choice[0])
        except NonFiniteError:
            return None
        return None if self.first is not None and self.first.gain(outcome).is_below_zero else outcome

    def choose(
        self, remedies: Sequence[Remedy], outcomes: Sequence[Outcome], cases: Sequence[Case]
    ) -> tuple[Remedy, ComparedRemedy]:
        """Choose the lowest loss on text within the allowance for the task; where none is within, the lowest task loss.

        ``remedies`` are one remedy at several strengths, with their ``outcomes`` on the half that strengths are chosen
        by, and ``cases`` the matrices that it changes.
        """
        tried = [
            self.choice.point(remedy, outcome, *self.sizes.norm_and_output(remedy, cases))
            for remedy, outcome in zip(remedies, outcomes, strict=True)
        ]
        limit = self.choice.tuned.tasks[self.choice.target].losses.mean + self.comparison.allow
        within = [position for position, point in enumerate(tried) if point.task_loss.estimate <= limit]
        if within:
            best = min(within, key=lambda position: tried[position].loss.estimate)
        else:
            best = min(range(len(tried)), key=lambda position: tried[position].task_loss.estimate)
        name = remedies[best].name
        row = ComparedRemedy(name, kind_of(name).source, tried=tried, over_allowance=not within)
        return remedies[best], row

    def _reported(
        self, remedy: Remedy, row: ComparedRemedy, cases: Sequence[Case]
    ) -> tuple[ComparedRemedy, Outcome]:
        """Measure a remedy at the strength that was chosen; return its row with the numbers that are reported."""
        outcome = self.bench.outcome(remedy, self.data.report, answers=True)
        chosen = self.report.point(remedy, outcome, *self.sizes.norm_and_output(remedy, cases))
        parts, items = self.report.four_parts(outcome), self.report.items(outcome)
        return replace(row, chosen=chosen, parts=parts, items=items), outcome

    def _controls(
        self, remedy: Remedy, outcome: Outcome, cases: Sequence[Case]
    ) -> tuple[list[Point], dict[str, str]]:
        """Measure every control of a remedy with its outcome; also return the reasons of those that are missing."""
        bench = self.bench
        controls, missing = controls_of(remedy, cases, self.sizes.inputs, bench.measuring.seed)
        if RANDOM not in missing:
            for label in controls:
                if label.startswith(f"{RANDOM} "):
                    controls[label] = bench.matrices.fitted(controls[label])
            cases = list(bench.matrices.read([remedy, *controls.values()]))
            bench.use(cases)
        points = []
        for label, control in controls.items():
            inputs = self.data.choice[0].fingerprint() if label == SHRINK_OUTPUT else None
            try:
                measured = bench.outcome(control, self.data.report, control=label, inputs=inputs)
            except NonFiniteError as error:
                missing[label] = str(error)
                continue
            sizes = self.sizes.norm_and_output(control, cases)
            point = self.report.point(control, measured, *sizes, label, remedy)
            points.append(replace(point, margin=self.report.margin(outcome, measured)))
        return points, missing

    def _row_or_reason(self, name: str) -> ComparedRemedy:
        tally = self.bench.tally
        last = tally.done + evaluations_of_one_remedy(self.comparison.strengths, len(self.data.choice))
        try:
            return self._row(name)
        except (_CannotRunError, NonFiniteError) as error:
            return ComparedRemedy(name, kind_of(name).source, reason=str(error))
        finally:
            tally.planned -= last - tally.done

    def _row(self, name: str) -> ComparedRemedy:
        bench, data = self.bench, self.data
        # Release the matrices of the last remedy before those of this one are read.
        bench.use(())
        prepared, cases = self._prepared(name)
        bench.use(cases)
        remedies, idle = list[Remedy](), list[Remedy]()
        for remedy in prepared:
            changes = [not remedy.change(case).is_nothing(case.update) for case in cases]
            (remedies if any(changes) else idle).append(remedy)
        if not remedies:
            raise _CannotRunError(f"changes nothing in this model at {_listed(idle)}")
        left, outcomes, dropped = list[Remedy](), list[Outcome](), list[Remedy]()
        for remedy in remedies:
            first = self.first_pass(remedy)
            if first is None:
                dropped.append(remedy)
                continue
            rest = [bench.outcome(remedy, share) for share in data.choice[1:]]
            left.append(remedy)
            outcomes.append(joined([first, *rest]))
        if not left:
            counts = data.first.counts
            raise _CannotRunError(
                f"clearly under the interpolation curve at {_listed(remedies)} in a first pass on "
                f"{counts['documents']} documents and {counts['examples']} examples"
            )
        best, chosen = self.choose(left, outcomes, cases)
        row, outcome = self._reported(best, chosen, cases)
        controls, missing = self._controls(best, outcome, cases)
        return replace(
            row,
            controls=controls,
            no_control=missing,
            dropped_in_first_pass=[remedy.strength_value for remedy in dropped],
            changes_nothing=[remedy.strength_value for remedy in idle],
        )

    def _prepared(self, name: str) -> tuple[list[Remedy], list[Case]]:
        """Return the remedy at every strength, fitted to the model, and its matrices."""
        matrices, comparison = self.bench.matrices, self.comparison
        if name == INTRUDERS and matrices.audit.intruders == 0:
            raise _CannotRunError(f"no intruders among the {matrices.audit.k} leading vectors of any matrix")
        if name == Doses.name and isinstance(self.learned, str):
            raise _CannotRunError(self.learned)
        try:
            remedies = at_strengths(name, comparison.strengths, self.bench.measuring.seed, comparison.which)
            if surgeries := [remedy for remedy in remedies if isinstance(remedy, Surgery)]:
                cases = list(matrices.read(surgeries[:1]))
                remedies = [*of_task(surgeries, self.choice.target, cases, self.bench)]
            remedies = [
                replace(self.learned, share=remedy.share)
                if isinstance(remedy, Doses) and isinstance(self.learned, Doses)
                else remedy
                for remedy in remedies
            ]
            remedies = [matrices.fitted(remedy) for remedy in remedies]
            return remedies, list(matrices.read(remedies))
        except IntrudersError as error:
            raise _CannotRunError(str(error)) from error


def comparing(
    bench: Bench,
    data: DataShares,
    comparison: ComparisonSettings,
    learned: Doses | str,
    of_base: Sequence[Outcome],
) -> Comparing:
    """Measure interpolation on every share, from the base, which was measured by itself, to the tuned model."""
    cases = list(bench.matrices.read([Interpolate()]))
    bench.use(cases)
    sizes = UpdateSizes(bench, cases, bench.inputs([case.matrix.name for case in cases], data.choice[0]))
    bases: dict[str, Outcome] = {}
    curves: dict[str, list[Outcome]] = {}
    for share, outcome in zip([*data.choice, data.report], of_base, strict=True):
        is_report = share is data.report
        base = outcome
        if any(name not in outcome.tasks for name in share.examples):
            # What its language model cannot answer is measured under the head that was tuned for it.
            headed = bench.outcome(ALONG_CURVE[0], share, answers=is_report)
            tasks = {name: outcome.tasks.get(name, headed.tasks[name]) for name in share.examples}
            base = Outcome(outcome.corpora, tasks, outcome.harness)
        bases[share.name] = base
        # Where tensors are left out by name, they stay as tuned at 0 too, and that is not the base.
        selected = bench.matrices.audited.settings
        first = None if selected.include or selected.exclude else base
        curves[share.name] = bench.along_curve(share, answers=is_report, base=first)
    chosen = [share.name for share in data.choice]
    bases[_CHOICE] = joined([bases[name] for name in chosen])
    curves[_CHOICE] = [joined(outcomes) for outcomes in zip(*(curves[name] for name in chosen), strict=True)]
    norms = bench.norms_of_curve(cases)

    def yardstick(share: str, level: float) -> Yardstick:
        return Yardstick(
            bases[share],
            curves[share],
            target=next(iter(bench.measuring.tasks)),
            weights=data.report.weights,
            norms=norms,
            level=level,
            seed=bench.measuring.seed,
            share=share,
        )

    # The number of remedies that are compared with the curve at once.
    rows = max(1, sum(name != Interpolate.name for name in comparison.names()))
    level = 1 - (1 - _LEVEL) / rows
    first_pass = yardstick(data.first.name, _LEVEL) if data.first in data.choice else None
    choice, report = yardstick(_CHOICE, level), yardstick(data.report.name, level)
    return Comparing(bench, data, comparison, learned, first_pass, choice, report, sizes, cases)


def _listed(remedies: Sequence[Remedy]) -> str:
    return ", ".join(f"{remedy.strength_value:g}" for remedy in remedies)
