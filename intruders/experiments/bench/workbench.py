"""Evaluations that are kept, counted and measured, and how large an update is that a remedy leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from ...audits.audit_settings import AuditSettings
from ...audits.result.audit_result import Audit
from ...checkpoints.writing.merged import Elsewhere
from ...measures.kept_outcomes import KeptOutcomes
from ...measures.outcome import Outcome
from ...measures.sensitivities import Directions
from ...mitigation.elsewhere import shares_elsewhere
from ...mitigation.remedies.changes import Change
from ...mitigation.remedies.remedy import Case, Remedy
from ...system.progress import Progress
from .bench import Bench
from .data_shares import DataShare
from .interpolation_curve import ALPHAS

_CONTROLS = 8  # at most, of one remedy


class Tally:
    """The number of evaluations that are done and expected; the latter falls as strengths are dropped."""

    def __init__(self, progress: Progress, names: Sequence[str], strengths: int, shares: int) -> None:
        self._progress, self._done = progress, 0
        rows = sum(name != "interpolate" for name in names)
        self.of_one_remedy = strengths * shares + 1 + _CONTROLS
        self._planned = (shares + 1) * (1 + len(ALPHAS)) + 1 + rows * self.of_one_remedy

    def step(self, what: str) -> None:
        """Report that an evaluation begins."""
        self._progress(what, self._done, self._planned)
        self._done += 1

    def skip(self, count: int) -> None:
        """Take evaluations that are not needed from the number expected."""
        self._planned -= count

    @property
    def done(self) -> int:
        return self._done


class Evaluations:
    """Every evaluation once: from the folder, or measured and kept there."""

    def __init__(
        self,
        bench: Bench,
        kept: KeptOutcomes,
        tally: Tally,
        base_names: Sequence[str],
        settings: AuditSettings,
    ) -> None:
        self.bench, self.tally = bench, tally
        self._kept, self._base_names, self._settings = kept, base_names, settings
        self._seen: dict[
            str, Outcome
        ] = {}  # of this call; nothing is measured twice where there is no folder

    def outcome(
        self,
        remedy: Remedy,
        share: DataShare,
        *,
        answers: bool = False,
        control: str | None = None,
        inputs: str | None = None,
    ) -> Outcome:
        """Measure the tuned model under a remedy; ``control`` is a label, ``inputs`` what it was matched on."""
        unit = {
            "remedy": remedy.name,
            "settings": remedy.recorded(),
            "control": control,
            "inputs": inputs,
            **self.bench.unit(share, answers),
        }
        self.tally.step(f"{remedy.name if control is None else control}")
        key = json.dumps(unit, sort_keys=True)
        outcome = self._seen.get(key) or self._kept.get(unit)
        if outcome is None:
            outcome = self.bench.measured(remedy, self.elsewhere(remedy), share, answers)
            self._kept.put(unit, outcome)
        self._seen[key] = outcome
        return outcome

    def sensitivities(
        self, directions: Mapping[str, Directions], task: str, examples: int
    ) -> dict[str, list[float]]:
        """Return the sensitivity of the loss on a task's training examples to every direction, by matrix."""
        share = self.bench.training_examples(task, examples)
        unit = {"sensitivities": sorted(directions), "task": task, "share": share.fingerprint()}
        self.tally.step("sensitivities")
        measured: dict[str, list[float]] | None = self._kept.get_plain(unit)
        if measured is None:
            measured = self.bench.sensitivities(directions, task, share)
            self._kept.put_plain(unit, measured)
        return measured

    def elsewhere(self, remedy: Remedy) -> Elsewhere:
        return shares_elsewhere(remedy, self._base_names, self._settings)


class UpdateSizes:
    """Norm and output energy of what a remedy leaves of all updates together, 1 being the tuned model's."""

    def __init__(self, audit: Audit, bench: Bench) -> None:
        self._audited = {matrix.name: matrix.update.frobenius for matrix in audit.matrices}
        self._bench = bench
        self._energies: dict[str, float] = {}
        self.inputs: Mapping[str, Tensor] = {}

    def weigh(self, cases: Sequence[Case], inputs: Mapping[str, Tensor]) -> None:
        """Take the base's inputs, and the energy of every update under them."""
        self.inputs = inputs
        self._energies = {
            case.matrix.name: Change().output_energy(case.update, inputs[case.matrix.name])
            for case in cases
            if case.matrix.name in inputs
        }

    def norm(self, remedy: Remedy, cases: Sequence[Case], elsewhere: Elsewhere) -> float:
        """Return ``||D'||_F`` over all tuned tensors, as a share of ``||D||_F``."""
        squares = [remedy.change(case).norm_of(case.update, case.base) ** 2 for case in cases]
        return self._norm(cases, squares, elsewhere)

    def norm_and_output(
        self, remedy: Remedy, cases: Sequence[Case], elsewhere: Elsewhere
    ) -> tuple[float, float | None]:
        """Return :meth:`norm`, and the mean ``||D'h||^2`` over all matrices as a share of D's (None without inputs).

        A control's change of a matrix can take longer than both numbers, so it is computed once.
        """
        squares, energies = [], dict(self._energies)
        for case in cases:
            change, name = remedy.change(case), case.matrix.name
            squares.append(change.norm_of(case.update, case.base) ** 2)
            if name in energies:
                energies[name] = change.output_energy(case.update, self.inputs[name], case.base)
        whole = math.fsum(self._energies.values())
        output = math.fsum(energies.values()) / whole if whole > 0 else None
        return self._norm(cases, squares, elsewhere), output

    def _norm(self, cases: Sequence[Case], squares: Sequence[float], elsewhere: Elsewhere) -> float:
        """Return the norm from ``squares``, the ``||D'||_F^2`` of the cases."""
        rest = self._bench.norm_of_others(lambda name: 1.0)
        whole = math.fsum(norm**2 for norm in self._audited.values()) + rest**2
        touched = {case.matrix.name for case in cases}
        left = math.fsum(norm**2 for name, norm in self._audited.items() if name not in touched)
        left += math.fsum(squares)
        return math.sqrt((left + self._bench.norm_of_others(elsewhere) ** 2) / whole)
