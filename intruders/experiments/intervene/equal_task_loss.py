"""Interventions against interpolation at equal task loss: is one worth more than a smaller update?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import SettingError
from ...measures.measure_settings import INTERPOLATE, LossSettings, ScoreSettings, SweepSettings
from ...measures.outcome import Outcome
from ...mitigation.remedies.interpolate import Interpolate
from ...mitigation.remedies.remedy_table import INTRUDERS
from ..bench.interpolation_curve import ALPHAS
from ..bench.measured_weights import MeasuredData
from ..bench.yardstick import Yardstick
from .sweep import CurvePoint, Intervention

# From the base to the tuned model.
ALONG_CURVE = tuple(Interpolate(alpha) for alpha in ALPHAS)


def wants_curve(sweep: SweepSettings, losses: LossSettings, scores: ScoreSettings) -> bool:
    """Return whether interpolation is among the controls.

    Raises:
      SettingError: interpolation is wanted without a text or a task to compare on.
    """
    if INTERPOLATE not in sweep.controls:
        return False
    if not (losses.loss_on and scores.tasks):
        raise SettingError(
            "control 'interpolate' compares the loss on text at equal task loss; expected a corpus and a task; pass "
            "--loss-on CORPUS and --task TASK"
        )
    return True


class EqualTaskLoss:
    """The curve that interpolation draws, measured once, and what interventions gain over it."""

    def __init__(self, curve: Sequence[Outcome], data: MeasuredData) -> None:
        """Take a ``curve`` measured along ``ALONG_CURVE`` on ``data``, whose first task counts."""
        self._curve = list(curve)
        self._of_intruders: dict[float, Outcome] = {}  # by scale
        weights = {name: [part.weight for part in parts] for name, parts in data.corpora.items()}
        task = next(iter(data.tasks))
        self._yardstick = Yardstick(curve[0], curve[-1], curve, target=task, weights=weights, seed=data.seed)

    @property
    def points(self) -> list[CurvePoint]:
        stick = self._yardstick
        return [
            CurvePoint(alpha, stick.loss(outcome).estimate, stick.task_loss(outcome).estimate)
            for alpha, outcome in zip(ALPHAS, self._curve, strict=True)
        ]

    def with_gain(self, point: Intervention, outcome: Outcome) -> Intervention:
        """Return the point with its gain: interpolation's loss at the same task loss minus its own, mean over corpora.

        A control also gets its gain minus that of the intruders at its scale, which are measured before it.
        """
        if point.control == INTRUDERS:
            self._of_intruders[point.scale] = outcome
            return replace(point, gain=self._yardstick.gain(outcome))
        against = self._yardstick.margin(outcome, self._of_intruders[point.scale])
        return replace(point, gain=self._yardstick.gain(outcome), gain_against_intruders=against)
