"""Remedy after remedy on one model: prepared, tried at its strengths, chosen and reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import IntrudersError, NonFiniteError, SettingError
from ..measures.outcome import Outcome, joined
from ..measures.sensitivities import SingularDirections
from ..mitigation.remedies.at_random import RANDOM, at_random
from ..mitigation.remedies.controls import Complement, EqualNorm, EqualOutput, EqualSize, Neighbours
from ..mitigation.remedies.doses import Doses
from ..mitigation.remedies.every_remedy import published_remedy
from ..mitigation.remedies.intruders import ScaledIntruders
from ..mitigation.remedies.remedy import Case, Remedy
from ..mitigation.remedies.remedy_table import INTRUDERS, SHRINK_OUTPUT, TOP
from ..mitigation.remedies.shares import Interpolate
from ..mitigation.remedies.surgery import Surgery
from .bench import ALONG_CURVE, Bench
from .data_shares import DataShare, DataShares
from .experiment_settings import ComparisonSettings
from .point import Point
from .remedy_comparison import ComparedRemedy, kind_of, source_of
from .remedy_points import UpdateSizes, point_of
from .yardstick import ALPHAS, Yardstick

CHOICE, REPORT = "choice", "report"
_LEVEL = 0.95
_DRAWS = 3  # of the control random
_IS_SHRINK = "the remedy itself scales complete updates"
_CONTROLS = 8  # at most, of one remedy


def at_strengths(name: str, count: int, seed: int, which: str) -> list[Remedy]:
    """Return a remedy at ``count`` of its strengths, evenly spread, from the mildest; ``which`` intruders it scales."""
    strengths = _spread(kind_of(name).strengths, count)
    if name == INTRUDERS:
        return [ScaledIntruders(scale, which=which) for scale in strengths]
    if not strengths:  # of a plugin that names none
        return [published_remedy(name, seed=seed)]
    return [published_remedy(name, strength, seed) for strength in strengths]


def _spread(strengths: tuple[float, ...], count: int) -> list[float]:
    """Pick ``count`` strengths, evenly spaced, ends included; a single one is the middle one.

    >>> _spread((1.0, 2.0, 3.0, 4.0, 5.0), 3), _spread((1.0, 2.0, 3.0), 1), _spread((1.0, 2.0), 9)
    ([1.0, 3.0, 5.0], [2.0], [1.0, 2.0])
    """
    if count >= len(strengths):
        return list(strengths)
    if count == 1:
        return [strengths[len(strengths) // 2]]
    last = len(strengths) - 1
    return [strengths[round(position * last / (count - 1))] for position in range(count)]


@dataclass(frozen=True)
class Compared:
    """One tuned model, as each remedy in turn is measured on it."""

    bench: Bench
    data: DataShares
    target: str  # the task that the model was tuned for
    comparison: ComparisonSettings
    seed: int
    learned: Doses | str = "were not asked for"  # the doses, or why there are none


@dataclass(frozen=True)
class MeasuredCurve:
    """Interpolation on the shares of the data, and the sizes of the updates along it."""

    first: Yardstick | None  # of the first pass; None where the data are too few for one
    choice: Yardstick
    report: Yardstick
    norms: list[float]  # of the curve's points, 1 being the tuned model's
    sizes: UpdateSizes
    cases: list[Case]  # the matrices that interpolation changes

    def point(
        self,
        remedy: Remedy,
        outcome: Outcome,
        share: str,
        cases: Sequence[Case],
        control: str | None = None,
        of: Remedy | None = None,
    ) -> Point:
        """Return the point of a remedy, or of a ``control`` of the remedy ``of``, on the choice or the report."""
        norm, output = self.sizes.norm_and_output(remedy, cases)
        yardstick = self.choice if share == CHOICE else self.report
        return point_of(remedy, outcome, yardstick, share, norm, output, control, of)


def measured_curve(compared: Compared, of_base: Sequence[Outcome]) -> MeasuredCurve:
    """Measure interpolation on every share, from the base, which was measured by itself, to the tuned model."""
    bench, data = compared.bench, compared.data
    cases = bench.matrices.cases([Interpolate()])
    bench.use(cases)
    names = [case.matrix.name for case in cases]
    sizes = UpdateSizes(bench, cases, bench.inputs(names, data.choice[0]))
    bases: dict[str, Outcome] = {}
    curves: dict[str, list[Outcome]] = {}
    for share, outcome in zip([*data.choice, data.report], of_base, strict=True):
        is_report = share is data.report
        base = bases[share.name] = _with_tasks(bench, outcome, share, is_report)
        # Where tensors are left out by name, they stay as tuned at 0 too, and that is not the base.
        first = None if bench.matrices.leave_some_out else base
        curves[share.name] = bench.along_curve(share, answers=is_report, base=first)
    chosen = [share.name for share in data.choice]
    bases[CHOICE] = joined([bases[name] for name in chosen])
    curves[CHOICE] = [joined(outcomes) for outcomes in zip(*(curves[name] for name in chosen), strict=True)]
    norms = [sizes.norm(remedy, cases) for remedy in ALONG_CURVE]

    def yardstick(share: str, level: float) -> Yardstick:
        return Yardstick(
            bases[share],
            curves[share][-1],
            curves[share],
            target=compared.target,
            weights=data.report.weights,
            norms=norms,
            level=level,
            seed=compared.seed,
        )

    # The number of remedies that are compared with the curve at once.
    rows = max(1, sum(name != Interpolate.name for name in compared.comparison.names()))
    level = 1 - (1 - _LEVEL) / rows
    return MeasuredCurve(
        None if data.first.is_empty else yardstick(data.first.name, _LEVEL),
        yardstick(CHOICE, level),
        yardstick(REPORT, level),
        norms,
        sizes,
        cases,
    )


def _with_tasks(bench: Bench, of_base: Outcome, share: DataShare, answers: bool) -> Outcome:
    """Measure the base on tasks that its language model cannot answer, under the head that was tuned for them."""
    if all(name in of_base.tasks for name in share.examples):
        return of_base
    headed = bench.outcome(ALONG_CURVE[0], share, answers=answers)
    tasks = {name: of_base.tasks.get(name, headed.tasks[name]) for name in share.examples}
    return Outcome(of_base.corpora, tasks, of_base.harness)


@dataclass(frozen=True)
class ChosenStrength:
    """A remedy at the strength that was chosen, and the strengths that it was chosen from."""

    remedy: Remedy
    is_over_allowance: bool  # no strength kept the task loss within the allowance
    tried: list[Point]


def first_pass(
    compared: Compared, curve: MeasuredCurve, remedies: Sequence[Remedy]
) -> tuple[list[Remedy], list[Remedy]]:
    """Separate the strengths to measure further from those clearly below the curve or without a finite loss."""
    left: list[Remedy] = []
    dropped: list[Remedy] = []
    for remedy in remedies:
        try:
            # Without a first pass this finds a loss that is not finite; the evaluation is kept and used again.
            outcome = compared.bench.outcome(remedy, compared.data.choice[0])
        except NonFiniteError:
            dropped.append(remedy)
            continue
        is_under = curve.first is not None and curve.first.gain(outcome).is_below_zero
        (dropped if is_under else left).append(remedy)
    return left, dropped


def choose(
    compared: Compared,
    curve: MeasuredCurve,
    remedies: Sequence[Remedy],
    outcomes: Sequence[Outcome],
    cases: Sequence[Case],
) -> ChosenStrength:
    """Choose the lowest loss on text within the allowance for the task; where none is within, the lowest task loss.

    Args:
      compared: the model.
      curve: what its points are measured by.
      remedies: one remedy at several strengths.
      outcomes: of each on the half that strengths are chosen by.
      cases: the matrices that it changes.
    """
    tried = [
        curve.point(remedy, outcome, CHOICE, cases)
        for remedy, outcome in zip(remedies, outcomes, strict=True)
    ]
    limit = curve.choice.tuned.tasks[compared.target].losses.mean + compared.comparison.allow
    within = [position for position, point in enumerate(tried) if point.task_loss.estimate <= limit]
    if within:
        best = min(within, key=lambda position: tried[position].loss.estimate)
    else:
        best = min(range(len(tried)), key=lambda position: tried[position].task_loss.estimate)
    return ChosenStrength(remedies[best], not within, tried)


def controls_of(
    remedy: Remedy, cases: Sequence[Case], inputs: Mapping[str, Tensor], seed: int
) -> tuple[dict[str, Remedy], dict[str, str]]:
    """Return the controls by label, and the reasons of missing ones; draws are not fitted to the model yet.

    Args:
      remedy: at the strength that was chosen.
      cases: the matrices that it changes.
      inputs: (tokens, n), a sample of the base's inputs, by matrix.
      seed: seed of the random draws.
    """
    controls: dict[str, Remedy] = {}
    missing: dict[str, str] = {}
    matched = {
        "shrink": EqualNorm(remedy),
        SHRINK_OUTPUT: EqualOutput(remedy, inputs),
        "resized": EqualSize(remedy),
    }
    if remedy.scales_whole_updates:
        missing = dict.fromkeys(matched, _IS_SHRINK)
    else:
        controls |= matched
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
    drawn = [
        control for draw in range(_DRAWS) if (control := at_random(remedy, seed + draw, cases)) is not None
    ]
    if drawn and cases and not any(drawn[0].exists(case) for case in cases):
        missing[RANDOM] = "every vector that an audit examines is an intruder in every matrix"
        return controls, missing
    controls |= {f"{RANDOM} {number}": control for number, control in enumerate(drawn, start=1)}
    if not drawn:
        missing[RANDOM] = "the remedy makes no choice that can be drawn"
    return controls, missing


def is_draw(label: str) -> bool:
    """Return whether a control is one of the random draws."""
    return label.startswith(f"{RANDOM} ")


def of_task(surgeries: Sequence[Surgery], task: str, cases: Sequence[Case], bench: Bench) -> list[Surgery]:
    """Return one remedy at several strengths with a task's sensitivities, which are measured once.

    Raises:
      SettingError: no update in reach has two singular values to compare.
    """
    first = surgeries[0]
    reached = {case.matrix.name: first.directions(case) for case in cases if first.reaches(case.matrix.name)}
    if reached and all(len(part.values) < 2 for part in reached.values()):
        raise SettingError(
            "changes nothing in this model: every update that it reaches has rank 1, and a single singular value "
            "keeps its size"
        )
    directions = {name: SingularDirections(part.left, part.right) for name, part in reached.items()}
    sensitivities = bench.sensitivities(directions, task, first.examples) if directions else {}
    return [replace(surgery, task=task, sensitivities=sensitivities) for surgery in surgeries]


def report(
    compared: Compared, curve: MeasuredCurve, choice: ChosenStrength, cases: Sequence[Case], *, controls: bool
) -> ComparedRemedy:
    """Measure the chosen strength on the data that are reported, and its ``controls`` where they are wanted."""
    remedy = choice.remedy
    outcome = compared.bench.outcome(remedy, compared.data.report, answers=True)
    row = ComparedRemedy(
        remedy.name,
        source_of(remedy.name),
        chosen=curve.point(remedy, outcome, REPORT, cases),
        parts=curve.report.four_parts(outcome),
        items=curve.report.items(outcome),
        tried=choice.tried,
        is_over_allowance=choice.is_over_allowance,
    )
    if not controls:
        return row
    points, missing = _controls_measured(compared, curve, remedy, outcome, cases)
    return replace(row, controls=points, no_control=missing)


def _controls_measured(
    compared: Compared, curve: MeasuredCurve, remedy: Remedy, outcome: Outcome, cases: Sequence[Case]
) -> tuple[list[Point], dict[str, str]]:
    """Measure every control; also return the reasons of those that are missing."""
    bench, data = compared.bench, compared.data
    controls, missing = controls_of(remedy, cases, curve.sizes.inputs, compared.seed)
    if RANDOM not in missing:
        controls = {
            label: bench.matrices.fitted(drawn) if is_draw(label) else drawn
            for label, drawn in controls.items()
        }
        cases = bench.matrices.cases([remedy, *controls.values()])
        bench.use(cases)
    points = []
    for label, control in controls.items():
        inputs = data.choice[0].fingerprint() if label == SHRINK_OUTPUT else None
        try:
            measured = bench.outcome(control, data.report, control=label, inputs=inputs)
        except NonFiniteError as error:
            missing[label] = str(error)
            continue
        point = curve.point(control, measured, REPORT, cases, label, remedy)
        points.append(replace(point, margin=curve.report.margin(outcome, measured)))
    return points, missing


def evaluations_of_one_remedy(strengths: int, shares: int) -> int:
    """Return how many evaluations a remedy takes at most; ``shares`` are those that strengths are chosen by."""
    return strengths * shares + 1 + _CONTROLS


def planned_evaluations(names: Sequence[str], strengths: int, shares: int) -> int:
    """Return how many evaluations a comparison takes at most, with the base's."""
    rows = sum(name != Interpolate.name for name in names)
    on_curve = (shares + 1) * (1 + len(ALPHAS)) + 1
    return on_curve + rows * evaluations_of_one_remedy(strengths, shares)


def compared_rows(compared: Compared, curve: MeasuredCurve, names: Sequence[str]) -> list[ComparedRemedy]:
    """Return one row for every remedy, in their order; interpolation is always there."""
    on_curve = choose(compared, curve, ALONG_CURVE[1:-1], curve.choice.curve[1:-1], curve.cases)
    return [
        report(compared, curve, on_curve, curve.cases, controls=False),
        *(_row_or_reason(compared, curve, name) for name in names if name != Interpolate.name),
    ]


def _row_or_reason(compared: Compared, curve: MeasuredCurve, name: str) -> ComparedRemedy:
    tally, before = compared.bench.tally, compared.bench.tally.done
    planned = evaluations_of_one_remedy(compared.comparison.strengths, len(compared.data.choice))
    try:
        return _row(compared, curve, name)
    except (_CannotRunError, NonFiniteError) as error:
        return ComparedRemedy(name, source_of(name), reason=str(error))
    finally:
        tally.skip(planned - (tally.done - before))


def _row(compared: Compared, curve: MeasuredCurve, name: str) -> ComparedRemedy:
    bench, data = compared.bench, compared.data
    # Release the matrices of the last remedy before those of this one are read.
    bench.use(())
    remedies, cases = _prepared(compared, name)
    bench.use(cases)
    idle = [remedy for remedy in remedies if all(_does_nothing(remedy, case) for case in cases)]
    remedies = [remedy for remedy in remedies if remedy not in idle]
    if not remedies:
        raise _CannotRunError(f"changes nothing in this model at {_listed(idle)}")
    left, dropped = first_pass(compared, curve, remedies)
    if not left:
        counts = data.first.counts
        raise _CannotRunError(
            f"clearly under the interpolation curve at {_listed(remedies)} in a first pass on "
            f"{counts['documents']} documents and {counts['examples']} examples"
        )
    outcomes = [joined([bench.outcome(remedy, share) for share in data.choice]) for remedy in left]
    choice = choose(compared, curve, left, outcomes, cases)
    row = report(compared, curve, choice, cases, controls=True)
    return replace(
        row,
        dropped=[remedy.strength_value for remedy in dropped],
        idle=[remedy.strength_value for remedy in idle],
    )


def _prepared(compared: Compared, name: str) -> tuple[list[Remedy], list[Case]]:
    """Return the remedy at every strength, fitted to the model, and its matrices.

    Raises:
      _CannotRunError: the remedy does not fit the model or the data.
    """
    matrices = compared.bench.matrices
    if name == INTRUDERS and matrices.audit.intruders == 0:
        raise _CannotRunError(f"no intruders among the {matrices.audit.k} leading vectors of any matrix")
    try:
        remedies = at_strengths(name, compared.comparison.strengths, compared.seed, compared.comparison.which)
        if surgeries := [remedy for remedy in remedies if isinstance(remedy, Surgery)]:
            remedies = [*of_task(surgeries, compared.target, matrices.cases(surgeries[:1]), compared.bench)]
        remedies = [
            _with_doses(remedy, compared.learned) if isinstance(remedy, Doses) else remedy
            for remedy in remedies
        ]
        remedies = [matrices.fitted(remedy) for remedy in remedies]
        return remedies, matrices.cases(remedies)
    except IntrudersError as error:
        raise _CannotRunError(str(error)) from error


def _with_doses(remedy: Doses, learned: Doses | str) -> Doses:
    if isinstance(learned, str):
        raise _CannotRunError(learned)
    return replace(learned, share=remedy.share)


class _CannotRunError(Exception):
    """The reason why a remedy was not measured."""


def _does_nothing(remedy: Remedy, case: Case) -> bool:
    return remedy.change(case).is_nothing(case.update)


def _listed(remedies: Sequence[Remedy]) -> str:
    return ", ".join(f"{remedy.strength_value:g}" for remedy in remedies)
