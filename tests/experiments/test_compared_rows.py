"""Which strengths are tried, chosen and dropped early, and their controls, on planted losses."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from intruders.errors import NonFiniteError
from intruders.experiments.compared_rows import Comparing, at_strengths, controls_of
from intruders.experiments.experiment_settings import ComparisonSettings
from intruders.experiments.yardstick import Yardstick
from intruders.measures.losses import Outcome
from intruders.mitigation.remedies.remedy import ScaledIntruders
from intruders.mitigation.remedies.shares import Interpolate, Lines
from intruders.reports.remedies import remarks
from tests.experiments.test_yardstick import made, yardstick
from tests.reports.made_up_remedies import around, made_up_comparison, made_up_row

REMEDIES = [Lines(0.75), Lines(0.5), Lines(0.25), Lines(0.0)]


def comparing(
    stick: Yardstick,
    first: Yardstick | None = None,
    *,
    allow: float = 0.02,
    outcomes: Mapping[Any, Outcome] | None = None,
) -> Comparing:
    def outcome(remedy: Any, share: Any) -> Outcome:
        measured = (outcomes or {})[remedy]
        if not np.isfinite(measured.corpora["text"][0].sums).all():
            raise NonFiniteError("the loss is NaN")
        return measured

    bench: Any = SimpleNamespace(outcome=outcome)
    data: Any = SimpleNamespace(choice=["first", "rest"])
    sizes: Any = SimpleNamespace(norm_and_output=lambda remedy, cases: (remedy.alpha, None))
    settings = ComparisonSettings(allow=allow)
    return Comparing(bench, data, settings, "none", first, stick, stick, sizes, [])


@pytest.mark.parametrize(
    ("allow", "chosen", "is_over"),
    [
        # The tuned model has the task loss 1. Losses on text fall and task losses rise with the strength.
        (0.02, 0.75, False),
        (0.25, 0.5, False),
        (5.0, 0.0, False),
        (0.0, 0.75, True),  # none is within: the one with the lowest task loss
    ],
)
def test_the_lowest_loss_within_the_allowance_is_chosen(allow: float, chosen: float, is_over: bool) -> None:
    outcomes = [made(4.5, 1.01), made(4.0, 1.2), made(3.0, 2.0), made(2.5, 3.0)]
    choice = comparing(yardstick(), allow=allow).choose(REMEDIES, outcomes, [])
    assert choice.remedy == Lines(chosen)
    assert choice.over_allowance is is_over
    assert [point.strength for point in choice.tried] == [0.75, 0.5, 0.25, 0.0]
    assert [point.norm for point in choice.tried] == [0.75, 0.5, 0.25, 0.0]
    assert {point.share for point in choice.tried} == {"choice"}
    assert [point.loss.estimate for point in choice.tried] == pytest.approx(
        [float(outcome.corpora["text"][0].mean) for outcome in outcomes]
    )


def test_points_of_interpolation_gain_nothing_over_themselves() -> None:
    stick = yardstick()
    choice = comparing(stick, allow=1.6).choose([Interpolate(0.5)], [stick.curve[5]], [])
    [point] = choice.tried
    assert (point.remedy, point.gain, point.gain_at_norm) == ("interpolate", None, None)


def test_a_first_pass_drops_what_is_clearly_under_the_curve_or_not_finite() -> None:
    # At the task loss 2.5 interpolation is half way, with the loss 3.5.
    losses = {0.75: 3.4, 0.5: 3.9, 0.25: float("nan"), 0.0: 3.5}
    outcomes = {Lines(alpha): made(loss, 2.5) for alpha, loss in losses.items()}
    stick = yardstick()
    left, dropped = comparing(stick, stick, outcomes=outcomes).first_pass(REMEDIES)
    assert left == [Lines(0.75), Lines(0.0)]
    assert dropped == [Lines(0.5), Lines(0.25)]
    # With too few data for a first pass only a loss that is no number is left out.
    left, dropped = comparing(stick, outcomes=outcomes).first_pass(REMEDIES)
    assert left == [Lines(0.75), Lines(0.5), Lines(0.0)]
    assert dropped == [Lines(0.25)]


def test_every_strength_and_control_is_of_the_strongest() -> None:
    strengths = at_strengths("intruders", 3, 0, "top")
    assert [remedy.recorded()["which"] for remedy in strengths] == ["top"] * 3
    controls, _ = controls_of(strengths[0], [], {}, 0)
    assert controls["neighbours"].recorded()["which"] == "top"
    assert controls["random 1"].recorded()["which"] == "top"
    of_all, _ = controls_of(ScaledIntruders(0.5), [], {}, 0)
    assert "neighbours" not in of_all


def test_the_command_and_the_remarks_name_it() -> None:
    comparison = made_up_comparison()
    rows = [*comparison.remedies, made_up_row("intruders", 0.25, 2.5, around(1.5))]
    settings = dict(comparison.settings) | {"which": "top"}
    top = made_up_comparison(remedies=rows, settings=settings)
    assert "--scale 0.25 --which top" in str(top.command())
    assert (
        remarks(top)[0] == "intruders: only the one with the largest singular value of each matrix is scaled"
    )
    of_all = made_up_comparison(remedies=rows)
    assert "--which" not in str(of_all.command())
    assert not any("largest singular value" in line for line in remarks(of_all))
