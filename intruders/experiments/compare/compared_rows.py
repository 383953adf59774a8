"""Remedy after remedy on one model: prepared, tried at its strengths, chosen and reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import IntrudersError, NonFiniteError
from ...measures.outcome import joined
from ...mitigation.remedies.doses import Doses
from ...mitigation.remedies.interpolate import Interpolate
from ...mitigation.remedies.remedy import Case, Remedy
from ...mitigation.remedies.remedy_table import INTRUDERS
from ...mitigation.remedies.surgery import Surgery
from ..bench.curve import ALONG_CURVE
from ..bench.interpolation_curve import ALPHAS
from .choose import choose, first_pass
from .compared import ComparedRemedy
from .measured_curve import Compared, MeasuredCurve
from .report_chosen import report
from .surgery_of_task import of_task
from .tried_strengths import at_strengths, source_of

_CONTROLS = 8  # at most, of one remedy


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
