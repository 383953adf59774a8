"""The claim that intruders cause forgetting, against controls and at equal norm."""

from __future__ import annotations

import pytest

from intruders.studies.claims.every_claim import analyse_all
from tests.studies.planted import (
    interventions,
    matched,
    noise,
    study,
    trace,
)


def test_interventions_without_controls_show_no_cause() -> None:
    rows = matched(effect=1.0)
    points = [row for row in interventions(rows) if row["control"] == "intruders"]
    (finding,) = analyse_all(study(runs=rows, interventions=points), ["intervention"])
    assert finding.shown is None
    assert any("no controls" in note for note in finding.notes)


def test_a_control_that_does_as_well_shows_no_cause() -> None:
    rows = matched(effect=1.0)
    points = interventions(rows)
    for row in points:
        if row["control"] == "shrink":
            row["against_intruders"] = noise(row["run_id"], row["scale"], size=0.01)
    (finding,) = analyse_all(study(runs=rows, interventions=points), ["intervention"])
    assert finding.shown is False
    assert finding.verdict.startswith("Undecided in part (missing: about ")


def test_the_intruders_without_the_shrinking_are_no_rival() -> None:
    """At the update's own norm the claim expects the loss to fall too, and not to be higher than with the shrinking."""
    rows = matched(effect=1.0)
    points = interventions(rows)
    resized = [
        row | {"control": "resized", "against_intruders": noise(row["run_id"], size=0.001)}
        for row in points
        if row["control"] == "intruders" and row["scale"] < 1
    ]
    (finding,) = analyse_all(study(runs=rows, interventions=points + resized), ["intervention"])
    assert finding.decision == "supported"
    answer = next(answer for answer in finding.answers if "at the update's norm" in answer.what)
    assert (answer.expected, answer.decision) == (-1, "supported")


def test_norms_that_do_not_meet_are_not_compared() -> None:
    rows = matched(effect=1.0)
    traces = []
    for seed in range(3):
        traces += trace(f"tiny-words-lora-1-{seed}", [1, 2], [5.0, 6.0], [1.0, 2.0])
        traces += trace(f"tiny-words-full-{seed}", [0, 0], [1.0, 2.0], [1.0, 1.0])
    (finding,) = analyse_all(study(runs=rows, traces=traces), ["causes"])
    assert finding.effects == []
    assert any("do not overlap" in note for note in finding.notes)


def test_equal_norm_is_interpolated_by_hand() -> None:
    """LoRA: 2 n intruders of 20 at norm n; full: none. Norms 1.5 to 4 are shared, so the mean difference is at 2.75."""
    rows = matched(effect=1.0)
    traces = []
    for seed in range(3):
        traces += trace(f"tiny-words-lora-1-{seed}", [2, 4, 6, 8], [1.0, 2.0, 3.0, 4.0], [1.0] * 4)
        traces += trace(f"tiny-words-full-{seed}", [0, 0], [1.5, 4.5], [1.0] * 2)
    (finding,) = analyse_all(study(runs=rows, traces=traces), ["causes"])
    effect = next(e for e in finding.effects if "equal norm" in e.name)
    assert effect.estimate == pytest.approx(100 * 2 * 2.75 / 20)
