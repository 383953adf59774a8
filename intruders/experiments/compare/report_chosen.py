"""A chosen remedy on the data that are reported, beside its controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import NonFiniteError
from ...measures.outcome import Outcome
from ...mitigation.remedies.at_random import RANDOM
from ...mitigation.remedies.remedy import Case, Remedy
from ...mitigation.remedies.remedy_table import SHRINK_OUTPUT
from ..bench.point import Point
from .choose import ChosenStrength
from .compared import ComparedRemedy
from .controls_of_remedy import controls_of, is_draw
from .measured_curve import REPORT, Compared, MeasuredCurve
from .tried_strengths import source_of


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
    points, missing = _controls(compared, curve, remedy, outcome, cases)
    return replace(row, controls=points, no_control=missing)


def _controls(
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
