"""How remedies are measured: the curve of interpolation first, then remedy after remedy, each with its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...audits.result.audit_result import Audit
from ...checkpoints.pairing.pairing import PairedMatrix
from ...checkpoints.stored.checkpoint import Checkpoint
from ...errors import IntrudersError, NonFiniteError
from ...measures.measure_settings import SHRINK_OUTPUT
from ...measures.outcome import Outcome, joined
from ...mitigation.cases import read_cases
from ...mitigation.remedies.at_random import RANDOM
from ...mitigation.remedies.doses import Doses
from ...mitigation.remedies.interpolate import Interpolate
from ...mitigation.remedies.intruders import ScaledIntruders
from ...mitigation.remedies.remedy import Case, Remedy
from ...mitigation.remedies.surgery import Surgery
from ..bench.data_shares import DataShare, DataShares
from ..bench.interpolation_curve import ALPHAS
from ..bench.workbench import Evaluations, UpdateSizes
from ..bench.yardstick import Yardstick
from .compared import CHOICE, REPORT, ComparedPoint, ComparedRemedy, RemedyComparison
from .comparison_settings import ComparisonSettings
from .controls_of_remedy import controls_of, is_draw
from .points import point_of, point_on_curve
from .surgery_of_task import of_task
from .tried_strengths import at_strengths, source_of, strength_of

_LEVEL = 0.95


@dataclass
class Contest:
    """One tuned model, measured under each remedy in turn."""

    pairing: Sequence[PairedMatrix]
    audit: Audit
    base: Checkpoint
    evaluations: Evaluations
    sizes: UpdateSizes
    data: DataShares
    target: str  # the task that the model was tuned for
    comparison: ComparisonSettings
    device: torch.device
    seed: int
    task_settings: Mapping[str, Any]  # how the target is read, for the command that writes the winner
    learned: Doses | str = "were not asked for"  # the doses, or why there are none
    # By share; the curve ends with the tuned model.
    _base: dict[str, Outcome] = field(default_factory=dict)
    _curve: dict[str, list[Outcome]] = field(default_factory=dict)
    _norms: list[float] = field(default_factory=list)  # of the curve's points
    _first: Yardstick | None = None
    _choice: Yardstick = field(init=False)
    _report: Yardstick = field(init=False)
    _interpolation: ComparedRemedy = field(init=False)

    # --- the curve

    def draw_curve(self, of_base: Sequence[Outcome]) -> None:
        """Measure interpolation on every share, from the base, which was measured by itself, to the tuned model."""
        cases = self._cases([Interpolate()])
        bench, evaluations = self.evaluations.bench, self.evaluations
        bench.use(cases)
        base = Interpolate(0.0)
        names = [case.matrix.name for case in cases]
        self.sizes.weigh(cases, bench.inputs(base, evaluations.elsewhere(base), names, self.data.choice[0]))
        for share, outcome in zip([*self.data.choice, self.data.report], of_base, strict=True):
            is_report = share is self.data.report
            inner = [evaluations.outcome(Interpolate(alpha), share) for alpha in ALPHAS[1:-1]]
            tuned = evaluations.outcome(Interpolate(1.0), share, answers=is_report)
            self._base[share.name] = self._with_tasks(outcome, share, is_report)
            # Where tensors are left out by name, they stay as tuned at 0 too, and that is not the base.
            first = evaluations.outcome(base, share) if self._leaves_out else self._base[share.name]
            self._curve[share.name] = [first, *inner, tuned]
        chosen = [share.name for share in self.data.choice]
        self._base[CHOICE] = joined([self._base[name] for name in chosen])
        by_point = zip(*(self._curve[name] for name in chosen), strict=True)
        self._curve[CHOICE] = [joined(outcomes) for outcomes in by_point]
        along = [Interpolate(alpha) for alpha in ALPHAS]
        self._norms = [self.sizes.norm(remedy, cases, evaluations.elsewhere(remedy)) for remedy in along]
        rows = self._rows_compared()
        if not self.data.first.is_empty:
            self._first = self._yardstick(self.data.first.name, _LEVEL)
        self._choice = self._yardstick(CHOICE, 1 - (1 - _LEVEL) / rows)
        self._report = self._yardstick(REPORT, 1 - (1 - _LEVEL) / rows)
        self._interpolation = self._interpolated(cases)

    def _with_tasks(self, of_base: Outcome, share: DataShare, answers: bool) -> Outcome:
        """Measure the base on tasks that its language model cannot answer, under the head that was tuned for them."""
        if all(name in of_base.tasks for name in share.examples):
            return of_base
        headed = self.evaluations.outcome(Interpolate(0.0), share, answers=answers)
        tasks = {name: of_base.tasks.get(name, headed.tasks[name]) for name in share.examples}
        return Outcome(of_base.corpora, tasks, of_base.harness)

    def _yardstick(self, share: str, level: float) -> Yardstick:
        curve = self._curve[share]
        weights = {name: [part.weight for part in parts] for name, parts in self.data.report.corpora.items()}
        return Yardstick(
            self._base[share],
            curve[-1],
            curve,
            target=self.target,
            weights=weights,
            norms=self._norms,
            level=level,
            seed=self.seed,
        )

    @property
    def _leaves_out(self) -> bool:
        """Whether the selection excludes tensors by name."""
        return bool(self.audit.settings.get("include") or self.audit.settings.get("exclude"))

    def _interpolated(self, cases: Sequence[Case]) -> ComparedRemedy:
        remedies = [Interpolate(alpha) for alpha in ALPHAS[1:-1]]
        outcomes = self._curve[CHOICE][1:-1]
        tried = [
            self._point(remedy, outcome, self._choice, CHOICE, cases)
            for remedy, outcome in zip(remedies, outcomes, strict=True)
        ]
        position, is_over = self._best(tried)
        outcome = self.evaluations.outcome(remedies[position], self.data.report, answers=True)
        return self._row(remedies[position], outcome, cases, tried=tried, is_over_allowance=is_over)

    # --- one remedy

    def rows(self, names: Sequence[str]) -> list[ComparedRemedy]:
        """Return one row for every remedy, in their order; interpolation is always there."""
        return [self._interpolation, *(self._compared(name) for name in names if name != Interpolate.name)]

    def _compared(self, name: str) -> ComparedRemedy:
        tally, before = self.evaluations.tally, self.evaluations.tally.done
        try:
            return self._measured(name)
        except (_CannotRunError, NonFiniteError) as error:
            return ComparedRemedy(name, source_of(name), reason=str(error))
        finally:
            tally.skip(tally.of_one_remedy - (tally.done - before))

    def _measured(self, name: str) -> ComparedRemedy:
        # Release the matrices of the last remedy before those of this one are read.
        self.evaluations.bench.use(())
        remedies, cases = self._prepared(name)
        self.evaluations.bench.use(cases)
        idle = [remedy for remedy in remedies if all(_does_nothing(remedy, case) for case in cases)]
        remedies = [remedy for remedy in remedies if remedy not in idle]
        if not remedies:
            raise _CannotRunError(f"changes nothing in this model at {_listed(idle)}")
        left, dropped = self._first_pass(remedies)
        if not left:
            raise _CannotRunError(
                f"clearly under the interpolation curve at {_listed(remedies)} in a first pass on "
                f"{_count(self.data.first)}"
            )
        outcomes = [
            joined([self.evaluations.outcome(remedy, share) for share in self.data.choice]) for remedy in left
        ]
        tried = [
            self._point(remedy, outcome, self._choice, CHOICE, cases)
            for remedy, outcome in zip(left, outcomes, strict=True)
        ]
        position, is_over = self._best(tried)
        chosen = left[position]
        outcome = self.evaluations.outcome(chosen, self.data.report, answers=True)
        row = self._row(chosen, outcome, cases, tried=tried, is_over_allowance=is_over)
        controls, missing = self._controls(chosen, outcome, cases)
        return ComparedRemedy(
            **{
                **row.__dict__,
                "dropped": [strength_of(remedy) for remedy in dropped],
                "idle": [strength_of(remedy) for remedy in idle],
                "controls": controls,
                "no_control": missing,
            }
        )

    def _prepared(self, name: str) -> tuple[list[Remedy], list[Case]]:
        """Return the remedy at every strength, fitted to the model, and its matrices.

        Raises:
          _CannotRunError: the remedy does not fit the model or the data.
        """
        if name == ScaledIntruders.name and self.audit.intruders == 0:
            raise _CannotRunError(f"no intruders among the {self.audit.k} leading vectors of any matrix")
        try:
            remedies = at_strengths(name, self.comparison.strengths, self.seed)
            if surgeries := [remedy for remedy in remedies if isinstance(remedy, Surgery)]:
                remedies = [*of_task(surgeries, self.target, self._cases(surgeries[:1]), self.evaluations)]
            remedies = [
                self._with_doses(remedy) if isinstance(remedy, Doses) else remedy for remedy in remedies
            ]
            remedies = [self._fitted(remedy) for remedy in remedies]
            return remedies, self._cases(remedies)
        except IntrudersError as error:
            raise _CannotRunError(str(error)) from error

    def _with_doses(self, remedy: Doses) -> Doses:
        if isinstance(self.learned, str):
            raise _CannotRunError(self.learned)
        return replace(self.learned, share=remedy.share)

    def _first_pass(self, remedies: Sequence[Remedy]) -> tuple[list[Remedy], list[Remedy]]:
        """Separate the strengths to measure further from those clearly below the curve or without a finite loss."""
        left: list[Remedy] = []
        dropped: list[Remedy] = []
        for remedy in remedies:
            try:
                # Without a first pass this finds a loss that is not finite; the evaluation is kept and used again.
                outcome = self.evaluations.outcome(remedy, self.data.choice[0])
            except NonFiniteError:
                dropped.append(remedy)
                continue
            is_under = self._first is not None and self._first.gain(outcome).high < 0
            (dropped if is_under else left).append(remedy)
        return left, dropped

    def _best(self, tried: Sequence[ComparedPoint]) -> tuple[int, bool]:
        """Return the point with the lowest loss on text within the allowance; without any, the lowest task loss."""
        limit = self._choice.tuned.tasks[self.target].losses.mean + self.comparison.allow
        within = [position for position, point in enumerate(tried) if point.task_loss.estimate <= limit]
        if within:
            return min(within, key=lambda position: tried[position].loss.estimate), False
        return min(range(len(tried)), key=lambda position: tried[position].task_loss.estimate), True

    # --- its controls

    def _controls(
        self, remedy: Remedy, outcome: Outcome, cases: Sequence[Case]
    ) -> tuple[list[ComparedPoint], dict[str, str]]:
        inputs = self.sizes.inputs
        controls, missing = controls_of(remedy, cases, inputs, self.seed)
        if RANDOM not in missing:
            controls = {
                label: self._fitted(drawn) if is_draw(label) else drawn for label, drawn in controls.items()
            }
            cases = self._cases([remedy, *controls.values()])
            self.evaluations.bench.use(cases)
        points = []
        for label, control in controls.items():
            try:
                measured = self.evaluations.outcome(
                    control,
                    self.data.report,
                    control=label,
                    inputs=self.data.choice[0].fingerprint() if label == SHRINK_OUTPUT else None,
                )
            except NonFiniteError as error:
                missing[label] = str(error)
                continue
            point = self._point(control, measured, self._report, REPORT, cases, label, remedy)
            points.append(replace(point, margin=self._report.margin(outcome, measured)))
        return points, missing

    # --- what is made of an evaluation

    def _row(self, remedy: Remedy, outcome: Outcome, cases: Sequence[Case], **more: Any) -> ComparedRemedy:
        return ComparedRemedy(
            remedy.name,
            source_of(remedy.name),
            chosen=self._point(remedy, outcome, self._report, REPORT, cases),
            parts=self._report.four_parts(outcome),
            items=self._report.items(outcome),
            **more,
        )

    def _point(
        self,
        remedy: Remedy,
        outcome: Outcome,
        yardstick: Yardstick,
        share: str,
        cases: Sequence[Case],
        control: str | None = None,
        of: Remedy | None = None,
    ) -> ComparedPoint:
        norm, output = self.sizes.norm_and_output(remedy, cases, self.evaluations.elsewhere(remedy))
        return point_of(remedy, outcome, yardstick, share, norm, output, control, of)

    def result(
        self, rows: list[ComparedRemedy], base: str, tuned: str, tuned_kind: str, others: list[str]
    ) -> RemedyComparison:
        """Return everything that was measured."""
        curve = [
            point_on_curve(alpha, norm, outcome, self._report)
            for alpha, norm, outcome in zip(ALPHAS, self._norms, self._curve[REPORT], strict=True)
        ]
        return RemedyComparison(
            base=base,
            tuned=tuned,
            tuned_kind=tuned_kind,
            target=self.target,
            settings={
                **self.comparison.recorded(),
                "k": self.audit.k,
                "epsilon": self.audit.epsilon,
                "include": list(self.audit.settings.get("include") or ()),
                "exclude": list(self.audit.settings.get("exclude") or ()),
                "seed": self.seed,
                **self.task_settings,
                "intruders": self.audit.intruders,
                "matrices": len(self.audit.matrices),
            },
            allow=self.comparison.allow,
            level=self._report.level,
            counts={
                share.name: _counts(share) for share in (self.data.first, self.data.rest, self.data.report)
            },
            base_point=point_on_curve(0.0, 0.0, self._base[REPORT], self._report),
            tuned_point=curve[-1],
            curve=curve,
            forgotten=self._report.tuning_cost(),
            remedies=rows,
            others=others,
        )

    def _rows_compared(self) -> int:
        """Return the number of remedies that are compared with the curve."""
        names = self.comparison.names()
        return max(1, sum(name != Interpolate.name for name in names))

    def _fitted(self, remedy: Remedy) -> Remedy:
        audited = {matrix.name for matrix in self.audit.matrices}
        return remedy.fitted([pair for pair in self.pairing if pair.name in audited], self.base.config)

    def _cases(self, remedies: Sequence[Remedy]) -> list[Case]:
        return list(read_cases(self.pairing, self.audit, remedies, self.base.names(), self.device))


class _CannotRunError(Exception):
    """The reason why a remedy was not measured."""


def _does_nothing(remedy: Remedy, case: Case) -> bool:
    return remedy.change(case).is_nothing(case.update)


def _counts(share: DataShare) -> Mapping[str, int]:
    return {
        "documents": sum(len(part.documents) for parts in share.corpora.values() for part in parts),
        "examples": sum(len(rows) for rows in share.examples.values()),
    }


def _count(share: DataShare) -> str:
    counts = _counts(share)
    return f"{counts['documents']} documents and {counts['examples']} examples"


def _listed(remedies: Sequence[Remedy]) -> str:
    return ", ".join(f"{strength_of(remedy):g}" for remedy in remedies)
