"""The claim on tasks in sequence: which sequences are compared."""

import math

import pytest

from intruders.charts.chart import Grid
from intruders.studies.compare_settings import setting_of
from intruders_research.claims import sequence
from intruders_research.claims.every_claim import charts_of
from tests.research.planted import sequence_study
from tests.studies.planted import run, study


def test_sequences_of_which_none_reached_its_score_are_compared_only_where_none_was_given() -> None:
    tables = sequence_study()
    for row in tables["runs"]:
        row["stopped_by"] = "steps"
    assert not sequence.analyse(study(**tables)).effects
    for row in tables["runs"]:
        row["match"] = None
    assert any("not at equal score" in note for note in sequence.analyse(study(**tables)).notes)


def test_points_forgotten_are_those_of_the_best_accuracy_before() -> None:
    """By hand: 0.9 falls to 0.7 after 0.8, and 0.6 to 0.5, which is 20 and 10 points, 15 on average."""
    tables = sequence_study(seeds=1)
    of_first = [row for row in tables["sequences"] if row["run_id"] == tables["runs"][0]["run_id"]]
    for row, accuracy in zip(of_first, (0.8, 0.9, 0.6, 0.7, 0.5, 0.9), strict=True):
        row["accuracy"] = accuracy
    runs = sequence.analyse(study(**tables)).tables["Runs"].set_index("run_id")
    assert runs["forgetting"][tables["runs"][0]["run_id"]] == pytest.approx(15)
    assert runs["own_accuracy"][tables["runs"][0]["run_id"]] == pytest.approx((0.8 + 0.6 + 0.9) / 3)


def test_sequences_that_merge_and_that_keep_are_two_settings() -> None:
    merged = run("a", kind="sequence", adapters="merge")
    assert setting_of(merged) != setting_of(run("b", kind="sequence", adapters="keep"))
    assert setting_of(merged) == setting_of(run("c", kind="sequence", adapters="merge"))


def test_a_seed_without_full_fine_tuning_does_not_count_where_lora_is_held_against_it() -> None:
    """A study in progress: of the third seed rank 1 alone has run."""
    tables = sequence_study()
    done = [one for one in tables["runs"] if one["seed"] < 2 or one["rank"] == 1]
    finding = sequence.analyse(study(runs=done, sequences=tables["sequences"]))
    seeds = {answer.what: answer.seeds for answer in finding.answers}
    assert seeds["points forgotten, LoRA minus full"] == 2


def test_another_order_of_the_tasks_has_stages_and_charts_of_its_own() -> None:
    tables, reordered = sequence_study(), sequence_study(effect=-1.0)
    runs = [row | {"run_id": f"second-{row['run_id']}"} for row in reordered["runs"]]
    rows = [
        row | {"run_id": f"second-{row['run_id']}", "task": "cab"[row["task_index"]]}
        for row in reordered["sequences"]
    ]
    results = study(runs=tables["runs"] + runs, sequences=tables["sequences"] + rows)
    finding = sequence.analyse(results)
    stages = finding.tables["By stage"]
    assert set(stages["sequence"]) == {"a, then b, then c", "c, then a, then b"}
    assert set(stages["seeds"]) == {3}
    alone = sequence.analyse(study(**tables)).tables["By stage"]
    of_first = stages[stages["sequence"] == "a, then b, then c"].reset_index(drop=True)
    assert of_first.equals(alone)
    charts = charts_of([finding])["sequence"]
    # One matrix of accuracies for each of four settings, in both orders.
    assert sum(chart.name.startswith("sequence-accuracy") for chart in charts) == 8
    assert sum(chart.name.startswith("sequence-intruders") for chart in charts) == 2
    assert len({chart.name for chart in charts}) == len(charts)


def test_a_task_that_comes_again_has_a_column_of_its_own() -> None:
    tables = sequence_study()
    rows = [row | {"task": "aba"[row["task_index"]]} for row in tables["sequences"]]
    runs = [row | {"task": "a,b,a"} for row in tables["runs"]]
    grids = [
        chart
        for chart in charts_of([sequence.analyse(study(runs=runs, sequences=rows))])["sequence"]
        if isinstance(chart, Grid)
    ]
    assert len(grids) == 4
    for grid in grids:
        assert (grid.rows, grid.columns) == (["a", "b", "a"], ["a", "b", "a"])
        # Every stage scores all tasks so far, and each is at 0.9 after its own.
        assert [sum(map(math.isfinite, values)) for values in grid.values] == [1, 2, 3]
        assert [grid.values[at][at] for at in range(3)] == pytest.approx([0.9] * 3)
