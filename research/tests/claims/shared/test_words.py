"""The words of verdicts, on made-up studies whose numbers the other tests of claims check."""

import re
from statistics import mean

from intruders.measures.intervals import Interval
from intruders_research.claims.every_claim import analyse_all
from intruders_research.claims.shared.words import NOT_MEASURED, points_said, said
from research.tests.claims.test_structure_loss import FULL, LORA
from research.tests.claims.test_structure_loss import found as structure_of
from research.tests.planted import interventions, matched
from tests.studies.planted import noise, study


def test_the_verdict_has_the_numbers_of_its_effects() -> None:
    finding = structure_of("loss change, LoRA minus full")
    assert f"LoRA minus full fine-tuning {mean(LORA) - mean(FULL):+.3f}" in finding.verdict


def test_a_task_that_two_corpora_share_is_said_once() -> None:
    rows = matched(effect=1.0)
    points = interventions(rows)
    points += [row | {"on": "wikitext-2"} for row in points if row["measure"] == "loss"]
    (finding,) = analyse_all(study(runs=rows, interventions=points), ["intervention"])
    assert finding.verdict.count("task accuracy") == 1


def test_missing_seeds_of_several_effects_are_one_range() -> None:
    rows = matched(effect=1.0)
    points = interventions(rows)
    for row in points:
        if row["control"] in ("shrink", "random"):
            size = 0.02 if row["control"] == "shrink" else 0.05
            row["against_intruders"] = 0.01 + noise(row["run_id"], row["control"], size=size)
    (finding,) = analyse_all(study(runs=rows, interventions=points), ["intervention"])
    needed = [
        int(found[1])
        for one in finding.answers
        if (found := re.match(r"about (\d+) seeds", one.lacking))
        if one.decision == "undecided"
    ]
    assert len(set(needed)) == 2
    start = f"Undecided in part (missing: about {min(needed)} to {max(needed)} seeds at this spread): "
    assert finding.verdict.startswith(start)


def test_points_that_were_gained_are_not_called_a_cost() -> None:
    assert points_said(Interval(-23.7, -35.9, -11.4)) == "gains +23.7 [+11.4, +35.9] points of task score"
    assert points_said(Interval(4.0, -1.0, 9.0)) == "loses +4.0 [-1.0, +9.0] points of task score"
    assert points_said(NOT_MEASURED) == "has no measured task score"


def test_an_interval_is_said_with_its_ends_where_it_has_any() -> None:
    assert said(Interval(0.421, 0.312, 0.53)) == "+0.42 [+0.31, +0.53]"
    assert said(Interval(0.421, 0.312, 0.53), digits=1, signed=False) == "0.4 [0.3, 0.5]"
    assert said(NOT_MEASURED) == "-"
    assert said(Interval(0.421, 0.421, 0.421).opened()) == "+0.42 (no interval)"
