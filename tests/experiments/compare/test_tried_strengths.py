"""A comparison of remedies that scales the strongest intruder of each matrix: its strengths, controls and words."""

from __future__ import annotations

from intruders.experiments.compare.comparison_settings import ComparisonSettings
from intruders.experiments.compare.controls_of_remedy import controls_of
from intruders.experiments.compare.tried_strengths import at_strengths
from intruders.mitigation.remedies.intruders import ScaledIntruders
from intruders.reports.remedies import remarks
from tests.reports.made_up_remedies import around, made_up_comparison, made_up_row


def test_every_strength_and_control_is_of_the_strongest() -> None:
    strengths = at_strengths("intruders", 3, 0, "top")
    assert [remedy.recorded()["which"] for remedy in strengths] == ["top"] * 3
    controls, _ = controls_of(strengths[0], [], {}, 0)
    assert controls["neighbours"].recorded()["which"] == "top"
    assert controls["random 1"].recorded()["which"] == "top"
    of_all, _ = controls_of(ScaledIntruders(0.5), [], {}, 0)
    assert "neighbours" not in of_all


def test_settings_of_earlier_comparisons_stay_equal() -> None:
    assert "which" not in ComparisonSettings().recorded()
    assert ComparisonSettings(which="top").recorded()["which"] == "top"


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
