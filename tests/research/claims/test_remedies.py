"""The claim on remedies: what saves forgetting at what cost."""

import pytest

from intruders_research.claims.every_claim import analyse_all, charts_of
from tests.research.planted import interventions, matched
from tests.studies.planted import noise, run, study


def test_remedies_are_on_the_frontier_where_nothing_beats_them_with_what_was_scaled_in_columns() -> None:
    rows = matched(effect=1.0)
    (finding,) = analyse_all(study(runs=rows, interventions=interventions(rows)), ["remedies"])
    table = finding.tables["Remedies"]
    for _, row in table.iterrows():
        beaten = (
            (table["loss_change"] <= row["loss_change"])
            & (table["accuracy_points"] >= row["accuracy_points"])
            & (
                (table["loss_change"] < row["loss_change"])
                | (table["accuracy_points"] > row["accuracy_points"])
            )
        )
        assert row["on_frontier"] == (not beaten.any())
    assert table["on_frontier"].any()
    assert (table["kind"] == "baseline").sum() == 1
    scaled = table[table["control"] == "intruders"]
    assert dict(zip(scaled["remedy"], scaled["scale"], strict=True)) == {
        "intruders scaled to 0 after training": 0.0,
        "intruders scaled to 0.5 after training": 0.5,
    }
    assert set(table.loc[table["control"] == "shrink", "scale"]) == {0.0, 0.5}


def test_a_higher_rate_is_no_remedy() -> None:
    rows = matched(effect=1.0)
    rows += [
        row | {"run_id": f"fast-{row['run_id']}", "lr": 1e-2, "loss_change": -1.0}
        for row in rows
        if row["method"] == "lora" and row["rank"] == 1
    ]
    (finding,) = analyse_all(study(runs=rows), ["remedies"])
    assert not finding.tables["Remedies"]["remedy"].str.contains("lr=0.01").any()


def test_the_best_remedy_is_one_that_clearly_saves() -> None:
    """A single seed of another may have the larger estimate, and shows nothing."""
    rows = []
    for seed in range(3):
        little = noise(seed, size=0.01)
        rows.append(run(f"plain-{seed}", seed=seed, rank=1, intruders=20, loss_change=1.0 + little))
        rows.append(run(f"eight-{seed}", seed=seed, rank=8, intruders=0, loss_change=0.2 - little))
    rows.append(run("sixteen", seed=0, rank=16, intruders=0, loss_change=0.1))
    (found,) = [one for one in analyse_all(study(runs=rows)) if one.name == "remedies"]
    assert found.shown
    (best,) = found.answers
    assert best.what.startswith("nats of forgetting saved by lora r=8 ")


@pytest.mark.parametrize("stopped_by", ["steps", "limit", "intruders"])
def test_a_run_that_did_not_reach_its_score_is_neither_remedy_nor_baseline(stopped_by: str) -> None:
    rows = [row for row in matched(effect=1.0) if row["rank"] in (1, 8)]
    missed = [
        row | {"run_id": f"low-{row['run_id']}", "lr": 1e-5, "loss_change": 0.01, "stopped_by": stopped_by}
        for row in rows
        if row["rank"] == 1
    ]
    (finding,) = analyse_all(study(runs=rows + missed), ["remedies"])
    assert set(finding.tables["Remedies"]["kind"]) == {"baseline", "higher rank"}
    assert any("did not reach their score" in note and "lr=1e-05" in note for note in finding.notes)
    forgets_most = [row | {"stopped_by": stopped_by} if row["rank"] == 1 else row for row in rows]
    (finding,) = analyse_all(study(runs=forgets_most), ["remedies"])
    assert "Remedies" not in finding.tables, "rank 8 alone reached its score"


def test_without_a_task_score_no_cost_is_drawn() -> None:
    """A task whose answers are not compared has a loss and no accuracy."""
    rows = matched(effect=1.0)
    without = [row | dict.fromkeys(("accuracy", "accuracy_low", "accuracy_high")) for row in rows]
    drawn = {}
    for name, runs in (("with", rows), ("without", without)):
        (finding,) = analyse_all(study(runs=runs), ["remedies"])
        assert len(finding.tables["Remedies"])
        drawn[name] = [chart.name for chart in charts_of([finding])["remedies"]]
    assert drawn == {"with": ["remedies-pareto"], "without": []}


def test_the_strongest_intruders_and_all_of_them_are_remedies_of_their_own() -> None:
    """Two experiments of one training scale one or the other; their mean is of neither."""
    rows = matched(effect=1.0)
    again = [row | {"run_id": f"{row['run_id']} again", "experiment": "again"} for row in rows]
    top = [point | {"which": "top", "change": 2 * point["change"]} for point in interventions(again)]
    (finding,) = analyse_all(study(runs=rows + again, interventions=interventions(rows) + top), ["remedies"])
    (alone,) = analyse_all(study(runs=rows, interventions=interventions(rows)), ["remedies"])
    table, of_all = (each.tables["Remedies"].set_index("remedy")["loss_change"] for each in (finding, alone))
    name = "intruders scaled to 0.5 after training"
    assert table[name] == pytest.approx(of_all[name])
    assert table[f"{name}, top intruders"] < table[name]
