"""The claim on remedies: what saves forgetting at what cost."""

from __future__ import annotations

from intruders.studies.claims.every_claim import analyse_all, charts_of
from tests.studies.planted import (
    interventions,
    matched,
    noise,
    run,
    study,
)


def test_remedies_are_on_the_frontier_where_nothing_beats_them() -> None:
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


def test_gains_of_interventions_are_tabulated_and_drawn_and_decide_nothing() -> None:
    rows = matched(effect=1.0)
    swept = interventions(rows)
    gains = [
        row | {"measure": "gain", "on": "words", "value": -0.5, "change": -0.5}
        for row in swept
        if row["measure"] == "accuracy" and row["control"] == "intruders"
    ]
    (before,) = analyse_all(study(runs=rows, interventions=swept), ["intervention"])
    (finding,) = analyse_all(study(runs=rows, interventions=swept + gains), ["intervention"])
    assert (finding.answers, finding.decision) == (before.answers, before.decision)
    table = finding.tables["By scale"]
    assert set(table.loc[table["measure"] == "gain", "change"]) == {-0.5}
    titles = [chart.title for chart in charts_of([finding])["intervention"]]
    assert any(title.startswith("Gain over interpolation at equal task loss on words") for title in titles)


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
    assert "most saves lora r=8" in found.verdict
