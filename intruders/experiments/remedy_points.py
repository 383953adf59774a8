"""The evaluation of a remedy as a point beside the interpolation curve, and how large an update it leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..measures.losses import mean_loss
from ..measures.outcome import Outcome
from ..mitigation.remedies.changes import Change
from ..mitigation.remedies.remedy import Case, Remedy
from ..mitigation.remedies.shares import Interpolate
from .bench import ALONG_CURVE, Bench
from .point import Point
from .yardstick import Yardstick


class UpdateSizes:
    """Norm and output energy of what a remedy leaves of all tuned tensors together, 1 being the tuned model's.

    :func:`intruders.mitigation.mitigation_result.norm_left` is of the changed matrices alone.
    """

    def __init__(self, bench: Bench, cases: Sequence[Case], inputs: Mapping[str, Tensor]) -> None:
        """Weigh every update.

        Args:
          bench: of the tuned model.
          cases: every audited matrix.
          inputs: (tokens, n), a sample of the base's inputs of some of them.
        """
        self._audited = {matrix.name: matrix.update.frobenius for matrix in bench.matrices.audit.matrices}
        self._bench, self.inputs = bench, inputs
        self._energies = {
            case.matrix.name: Change().output_energy(case.update, inputs[case.matrix.name])
            for case in cases
            if case.matrix.name in inputs
        }

    def norm(self, remedy: Remedy, cases: Sequence[Case]) -> float:
        """Return ``||D'||_F`` over all tuned tensors, as a share of ``||D||_F``."""
        squares = [remedy.change(case).norm_of(case.update, case.base) ** 2 for case in cases]
        return self._norm(remedy, cases, squares)

    def norm_and_output(self, remedy: Remedy, cases: Sequence[Case]) -> tuple[float, float | None]:
        """Return :meth:`norm`, and the mean ``||D'h||^2`` over all matrices as a share of D's (None without inputs).

        A change of a matrix can take longer than both numbers, so it is computed once.
        """
        squares, energies = [], dict(self._energies)
        for case in cases:
            name = case.matrix.name
            change, update = remedy.change(case).formed(case.update, case.base)
            squares.append(change.norm_of(update) ** 2)
            if name in energies:
                energies[name] = change.output_energy(update, self.inputs[name])
        whole = math.fsum(self._energies.values())
        output = math.fsum(energies.values()) / whole if whole > 0 else None
        return self._norm(remedy, cases, squares), output

    def _norm(self, remedy: Remedy, cases: Sequence[Case], squares: Sequence[float]) -> float:
        """Return the norm from ``squares``, the ``||D'||_F^2`` of the cases."""
        rest = self._bench.norm_of_others(lambda name: 1.0)
        whole = math.fsum(norm**2 for norm in self._audited.values()) + rest**2
        touched = {case.matrix.name for case in cases}
        left = math.fsum(norm**2 for name, norm in self._audited.items() if name not in touched)
        left += math.fsum(squares)
        others = self._bench.norm_of_others(self._bench.matrices.elsewhere(remedy))
        return math.sqrt((left + others**2) / whole)


def point_of(
    remedy: Remedy,
    outcome: Outcome,
    yardstick: Yardstick,
    share: str,
    norm: float,
    output: float | None,
    control: str | None = None,
    of: Remedy | None = None,
) -> Point:
    """Return the point of a remedy, or of a ``control`` of the remedy ``of``.

    ``norm`` and ``output`` are the norm of all updates and their output energy, 1 being the tuned model's.
    """
    is_curve = remedy.name == Interpolate.name
    return Point(
        remedy=(of or remedy).name,
        settings=remedy.recorded(),
        strength=(of or remedy).strength_value,
        control=control,
        share=share,
        norm=norm,
        output=output,
        **_measures(outcome, yardstick),
        gain=None if is_curve else yardstick.gain(outcome),
        gain_at_norm=None if is_curve else yardstick.gain_at_norm(outcome, norm),
    )


def _measures(outcome: Outcome, yardstick: Yardstick) -> dict[str, Any]:
    return {
        "losses": {
            name: mean_loss(parts, yardstick.weights[name]) for name, parts in outcome.corpora.items()
        },
        "task_losses": {name: task.losses.mean for name, task in outcome.tasks.items()},
        "accuracies": {name: task.accuracy for name, task in outcome.tasks.items()},
        "harness": {name: sum(scores) / len(scores) for name, scores in outcome.harness.items()},
        "loss": yardstick.loss(outcome),
        "task_loss": yardstick.task_loss(outcome),
        "healed": yardstick.healed(outcome),
        "kept": yardstick.kept(outcome),
    }


def points_of_curve(yardstick: Yardstick, norms: Sequence[float], share: str) -> list[Point]:
    """Return the points of interpolation; a share alpha of D has the output energy alpha^2."""
    return [
        point_of(remedy, outcome, yardstick, share, norm, remedy.alpha**2)
        for remedy, norm, outcome in zip(ALONG_CURVE, norms, yardstick.curve, strict=True)
    ]
