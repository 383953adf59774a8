"""What every remedy of a comparison is measured by: interpolation on every share of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...measures.outcome import Outcome, joined
from ...mitigation.remedies.doses import Doses
from ...mitigation.remedies.interpolate import Interpolate
from ...mitigation.remedies.remedy import Case, Remedy
from ..bench.bench import Bench
from ..bench.curve import ALONG_CURVE, curve
from ..bench.data_shares import DataShare, DataShares
from ..bench.point import Point, point_of
from ..bench.update_sizes import UpdateSizes
from ..bench.yardstick import Yardstick
from .comparison_settings import ComparisonSettings

CHOICE, REPORT = "choice", "report"

_LEVEL = 0.95


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

    def points(self) -> list[Point]:
        """Return the curve on the data that are reported; a share alpha of D has the output energy alpha^2."""
        return [
            point_of(remedy, outcome, self.report, REPORT, norm, remedy.alpha**2)
            for remedy, norm, outcome in zip(ALONG_CURVE, self.norms, self.report.curve, strict=True)
        ]


def measured_curve(compared: Compared, of_base: Sequence[Outcome]) -> MeasuredCurve:
    """Measure interpolation on every share, from the base, which was measured by itself, to the tuned model."""
    bench, data = compared.bench, compared.data
    cases = bench.matrices.cases([Interpolate()])
    bench.use(cases)
    names = [case.matrix.name for case in cases]
    sizes = UpdateSizes(bench, cases, bench.inputs(ALONG_CURVE[0], names, data.choice[0]))
    bases: dict[str, Outcome] = {}
    curves: dict[str, list[Outcome]] = {}
    for share, outcome in zip([*data.choice, data.report], of_base, strict=True):
        above = curve(bench, share, answers=share is data.report)
        base = _with_tasks(bench, outcome, share, share is data.report)
        # Where tensors are left out by name, they stay as tuned at 0 too, and that is not the base.
        first = bench.outcome(ALONG_CURVE[0], share) if bench.matrices.leave_some_out else base
        bases[share.name], curves[share.name] = base, [first, *above]
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
