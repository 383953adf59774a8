"""What the claim on remedies says of comparisons with a planted gain."""

import math
from statistics import mean, stdev

import pytest

from intruders_research.claims.every_claim import analyse_all
from intruders_research.claims.shared.claim import NOT_RUN, UNDECIDED, Finding
from tests.research.planted import matched
from tests.studies.planted import comparisons, noise, study

GAINS = {"lines": 0.3, "trim": -0.2, "flatten": 0.0}
P = 1 - 0.05 / 6 / 2
# Student's quantile with 2 degrees of freedom, in closed form: two-sided, for three remedies of two settings together.
QUANTILE = (2 * P - 1) * math.sqrt(2 / (4 * P * (1 - P)))


def of_rank(rank: int, seeds: int = 3) -> list[dict]:  # type: ignore[type-arg]
    return [row for row in matched(seeds=seeds) if row["method"] == "lora" and row["rank"] == rank]


def found(runs: list[dict], **tables: list[dict]) -> Finding:  # type: ignore[type-arg]
    (finding,) = analyse_all(study(runs=runs, **tables), ["remedies"])
    return finding


def test_gains_are_means_over_seeds_with_an_interval_for_all_remedies_and_settings_together() -> None:
    runs = of_rank(1)
    both = [*runs, *of_rank(2)]
    table = found(both, remedies=comparisons(both, GAINS)).tables["Gain at equal task loss"]
    assert list(table["remedy"]) == ["lines", "flatten", "trim", "dg-hard"] * 2
    rows = table[table["setting"].str.contains("r=1 ")].set_index("remedy")
    for remedy, gain in GAINS.items():
        values = [gain + noise(run["run_id"], remedy, size=0.01) for run in runs]
        half = QUANTILE * stdev(values) / math.sqrt(3)
        assert rows.loc[remedy, "gain"] == pytest.approx(mean(values))
        assert rows.loc[remedy, "gain_low"] == pytest.approx(mean(values) - half)
        assert rows.loc[remedy, "gain_high"] == pytest.approx(mean(values) + half)
    assert dict(rows["verdict"]) == {
        "lines": "supported",
        "flatten": "undecided",
        "trim": "contradicted",
        "dg-hard": "not run",
    }
    assert rows.loc["dg-hard", "reason"] == "a low-rank update has no noise"
    assert dict(rows["seeds"]) == {"lines": 3, "flatten": 3, "trim": 3, "dg-hard": 0}


def test_of_one_seed_the_interval_is_over_documents_and_decides_nothing() -> None:
    runs = of_rank(1, seeds=1)
    finding = found(runs, remedies=comparisons(runs, GAINS))
    rows = finding.tables["Gain at equal task loss"].set_index("remedy")
    assert rows.loc["lines", "gain_high"] - rows.loc["lines", "gain_low"] == pytest.approx(0.1)
    assert set(rows["verdict"]) == {"undecided", "not run"}
    assert rows.loc["lines", "interval_over"] == "documents and examples"
    gains = [one for one in finding.effects if "gain of lines" in one.name]
    assert gains[0].name.endswith("nats per token over documents and examples")


def test_the_claim_keeps_its_meaning_and_counts_compared_remedies_among_those_that_save() -> None:
    runs = of_rank(1)
    assert found(runs).decision == NOT_RUN, "the baseline alone"
    # Every remedy is clearly worse than interpolation at equal task loss, and saves loss all the same.
    worse = found(runs, remedies=comparisons(runs, {"lines": -0.3}, saved=0.05, lost=0.02))
    assert [one.what for one in worse.answers] == [
        "nats of forgetting saved by lines after training, its strength chosen for each run"
    ]
    assert worse.answers[0].estimate == pytest.approx(0.05)
    saved = worse.tables["Remedies"].set_index("remedy")
    lines = saved.loc["lines after training, its strength chosen for each run"]
    interpolated = saved.loc["interpolate after training, its strength chosen for each run"]
    assert (lines["kind"], lines["points_lost"]) == ("compared after training", pytest.approx(2.0))
    assert (interpolated["saved"], interpolated["points_lost"]) == (pytest.approx(0.025), pytest.approx(0.0))
    gains = worse.tables["Gain at equal task loss"].set_index("remedy")["verdict"]
    assert gains["lines"] == "contradicted"
    assert any("do not decide it" in note for note in worse.notes)


def test_the_verdict_of_a_gain_named_in_advance_is_that_of_all_that_decide() -> None:
    """At rank 2 the gain is 0.03 and its three seeds lie 0.01 apart, so that p is 0.036: alone clear, of two not."""
    runs = [*of_rank(1), *of_rank(2)]
    gains = (0.1, 0.3, 0.2, 0.02, 0.03, 0.04)  # at rank 1 p is 0.07
    gain_of = dict(zip([row["run_id"] for row in runs], gains, strict=True))
    points = comparisons(runs, {"lines": 0.0})
    for point in points:
        if point["remedy"] == "lines":
            point["gain"] = gain_of[point["run_id"]]
    results = study(runs=runs, remedies=points)
    results.primary["remedies"] = "gain of lines"
    (finding,) = analyse_all(results, ["remedies"])
    assert all(answer.decision == UNDECIDED for answer in finding.answers)
    rows = finding.tables["Gain at equal task loss"]
    assert set(rows.loc[rows["remedy"] == "lines", "verdict"]) == {UNDECIDED}


def test_without_a_baseline_the_claim_is_not_run_and_the_gains_are_there() -> None:
    runs = [row | {"intruders": 0} for row in of_rank(1)]
    finding = found(runs, remedies=comparisons(runs, GAINS))
    assert finding.decision == NOT_RUN
    assert (finding.seeds, finding.runs) == (3, 3)
    assert finding.effects[0].interval.is_clear
