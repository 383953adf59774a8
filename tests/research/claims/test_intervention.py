"""The claim that intruders cause forgetting, against controls and at equal norm."""

import math

import pytest

from intruders_research.claims.every_claim import analyse_all, charts_of
from tests.research.planted import interventions, matched
from tests.studies.planted import noise, study


def test_interventions_without_controls_show_no_cause() -> None:
    rows = matched(effect=1.0)
    points = [row for row in interventions(rows) if row["control"] == "intruders"]
    (finding,) = analyse_all(study(runs=rows, interventions=points), ["intervention"])
    assert finding.shown is None
    assert any("no controls" in note for note in finding.notes)
    [rival] = [answer for answer in finding.answers if "a control" in answer.what]
    assert math.isnan(rival.estimate)
    assert rival.lacking == "controls"


def test_a_control_that_does_as_well_shows_no_cause() -> None:
    rows = matched(effect=1.0)
    points = interventions(rows)
    for row in points:
        if row["control"] == "shrink":
            row["against_intruders"] = noise(row["run_id"], row["scale"], size=0.01)
    (finding,) = analyse_all(study(runs=rows, interventions=points), ["intervention"])
    assert finding.shown is False
    assert {answer.decision for answer in finding.answers} == {"supported", "undecided"}
    assert any(isinstance(answer.needed, int) for answer in finding.answers)


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


def test_the_gain_over_interpolation_is_listed_and_decides_nothing() -> None:
    """Of three seeds 0.1, 0.2 and 0.3 at scale 0, half of it at 0.5: means 0.075, 0.15, 0.225, so 0.15 +- 0.186."""
    setting = [row for row in matched(effect=1.0) if (row["method"], row["rank"]) == ("lora", 1)]
    points = interventions(setting)
    gained = [
        {"run_id": of["run_id"], "control": "intruders", "scale": scale, "measure": "gain", "on": of["task"]}
        | {"value": gain, "change": gain}
        for of, whole in zip(setting, (0.1, 0.2, 0.3), strict=True)
        for scale, gain in ((0.0, whole), (0.5, whole / 2), (1.0, 0.0))
    ]
    (without,) = analyse_all(study(runs=setting, interventions=points), ["intervention"])
    (finding,) = analyse_all(study(runs=setting, interventions=points + gained), ["intervention"])
    [gain] = [effect for effect in finding.effects if "gain over interpolation" in effect.name]
    assert gain.estimate == pytest.approx(0.15)
    half = 4.302653 * 0.075 / 3**0.5  # Student's t of two degrees of freedom, the spread, three seeds
    assert (gain.low, gain.high) == pytest.approx((0.15 - half, 0.15 + half), abs=1e-5)
    assert (finding.answers, finding.decision) == (without.answers, without.decision)
    titles = [chart.title for chart in charts_of([finding])["intervention"]]
    assert any(title.startswith("Gain over interpolation at equal task loss on words") for title in titles)


def test_two_corpora_are_two_effects_and_their_task_is_one() -> None:
    rows = matched(effect=1.0)
    points = interventions(rows)
    points += [row | {"on": "wikitext-2"} for row in points if row["measure"] == "loss"]
    (finding,) = analyse_all(study(runs=rows, interventions=points), ["intervention"])
    changes = [
        effect.name for effect in finding.effects if "loss change, intruders scaled down" in effect.name
    ]
    assert [name.partition(":")[0].rpartition(", ")[2] for name in changes] == ["pydoc", "wikitext-2"]
    assert sum("accuracy change in points" in effect.name for effect in finding.effects) == 1
    assert finding.verdict.count("task accuracy") == 1
