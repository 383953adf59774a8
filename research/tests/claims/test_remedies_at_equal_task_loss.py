"""What the claim on remedies says of comparisons with a planted gain."""

import math
from statistics import mean, stdev

import pytest

from intruders_research.claims.every_claim import analyse_all, charts_of
from intruders_research.claims.shared.claim import NOT_RUN, SUPPORTED, UNDECIDED, Finding
from research.tests.planted import matched
from tests.studies.planted import comparisons, noise, study

GAINS = {"lines": 0.3, "trim": -0.2, "flatten": 0.0}
P = 1 - 0.05 / 3 / 2
# Student's quantile with 2 degrees of freedom, in closed form: two-sided, for three remedies together.
QUANTILE = (2 * P - 1) * math.sqrt(2 / (4 * P * (1 - P)))


def of_rank_1(seeds: int = 3) -> list[dict]:  # type: ignore[type-arg]
    return [row for row in matched(seeds=seeds) if row["method"] == "lora" and row["rank"] == 1]


def found(runs: list[dict], **tables: list[dict]) -> Finding:  # type: ignore[type-arg]
    (finding,) = analyse_all(study(runs=runs, **tables), ["remedies"])
    return finding


def test_gains_are_means_over_seeds_with_an_interval_for_all_remedies_together() -> None:
    runs = of_rank_1()
    table = found(runs, remedies=comparisons(runs, GAINS)).tables["Gain at equal task loss"]
    assert list(table["remedy"]) == ["lines", "flatten", "trim", "dg-hard"]
    rows = table.set_index("remedy")
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


def test_intervals_apply_to_the_remedies_of_all_settings_together() -> None:
    """Two settings with the same gains: six tests instead of three, and a quantile that is larger by as much."""
    runs = of_rank_1()
    alone = (
        found(runs, remedies=comparisons(runs, GAINS)).tables["Gain at equal task loss"].set_index("remedy")
    )
    others = [row for row in matched(seeds=3) if row["method"] == "lora" and row["rank"] == 2]
    both = found(runs + others, remedies=comparisons(runs + others, GAINS)).tables["Gain at equal task loss"]
    first = both[both["setting"] == both["setting"].iloc[0]].set_index("remedy")
    p = 1 - 0.05 / 6 / 2
    wider = (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p))) / QUANTILE
    for remedy in GAINS:
        before, after = (
            (rows.loc[remedy, "gain_high"] - rows.loc[remedy, "gain"]) for rows in (alone, first)
        )
        assert after == pytest.approx(wider * before)


def test_of_one_seed_the_interval_is_over_documents_and_decides_nothing() -> None:
    runs = of_rank_1(seeds=1)
    finding = found(runs, remedies=comparisons(runs, GAINS))
    rows = finding.tables["Gain at equal task loss"].set_index("remedy")
    assert rows.loc["lines", "gain_high"] - rows.loc["lines", "gain_low"] == pytest.approx(0.1)
    assert set(rows["verdict"]) == {"undecided", "not run"}
    assert rows.loc["lines", "interval_over"] == "documents and examples"
    gains = [one for one in finding.effects if "gain of lines" in one.name]
    assert gains[0].name.endswith("nats per token over documents and examples")


def test_the_claim_keeps_its_meaning_and_counts_compared_remedies_among_those_that_save() -> None:
    runs = of_rank_1()
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


def of_two_ranks(seeds: int = 3) -> tuple[list[dict], list[dict]]:  # type: ignore[type-arg]
    runs = [row for row in matched(seeds=seeds) if row["method"] == "lora" and row["rank"] in (1, 2)]
    return runs, [row for row in runs if row["rank"] == 1]


def test_a_gain_that_is_named_in_advance_decides_with_its_own_interval_and_holms_over_settings() -> None:
    runs, _ = of_two_ranks()
    results = study(runs=runs, remedies=comparisons(runs, GAINS))
    results.primary["remedies"] = "gain of lines"
    (finding,) = analyse_all(results, ["remedies"])
    assert [(answer.decision, answer.tests) for answer in finding.answers] == [(SUPPORTED, 2)] * 2
    values = [GAINS["lines"] + noise(run["run_id"], "lines", size=0.01) for run in runs if run["rank"] == 1]
    of_two_degrees = 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025))  # Student's quantile, in closed form
    half = of_two_degrees * stdev(values) / math.sqrt(3)
    assert finding.answers[0].low == pytest.approx(mean(values) - half)
    rows = finding.tables["Gain at equal task loss"]
    assert set(rows.loc[rows["remedy"] == "lines", "verdict"]) == {SUPPORTED}


def test_the_verdict_of_a_gain_named_in_advance_is_that_of_all_that_decide() -> None:
    """At rank 2 the gain is 0.03 and its three seeds lie 0.01 apart, so that p is 0.036: alone clear, of two not."""
    runs, low = of_two_ranks()
    high = [row for row in runs if row["rank"] == 2]
    points = comparisons(low, {"lines": 0.3}) + comparisons(high, {"lines": 0.0})
    apart = {row["run_id"]: gain for row, gain in zip(high, (0.02, 0.03, 0.04), strict=True)}
    for point in points:
        if point["remedy"] == "lines" and point["run_id"] in apart:
            point["gain"] = apart[point["run_id"]]
    wide = {row["run_id"]: gain for row, gain in zip(low, (0.1, 0.3, 0.2), strict=True)}  # p is 0.07
    for point in points:
        if point["remedy"] == "lines" and point["run_id"] in wide:
            point["gain"] = wide[point["run_id"]]
    results = study(runs=runs, remedies=points)
    results.primary["remedies"] = "gain of lines"
    (finding,) = analyse_all(results, ["remedies"])
    assert all(answer.decision == UNDECIDED for answer in finding.answers)
    rows = finding.tables["Gain at equal task loss"]
    assert set(rows.loc[rows["remedy"] == "lines", "verdict"]) == {UNDECIDED}


def test_without_a_baseline_the_claim_is_not_run_and_the_gains_are_there() -> None:
    runs = [row | {"intruders": 0} for row in of_rank_1()]
    finding = found(runs, remedies=comparisons(runs, GAINS))
    assert finding.decision == NOT_RUN
    assert (finding.seeds, finding.runs) == (3, 3)
    assert finding.effects[0].interval.is_clear


def test_settings_are_apart_and_each_has_a_chart() -> None:
    runs = [row for row in matched() if row["method"] == "lora" and row["rank"] in (1, 8)]
    low = [row for row in runs if row["rank"] == 1]
    high = [row for row in runs if row["rank"] == 8]
    rows = comparisons(low, {"lines": 0.3}) + comparisons(high, {"lines": -0.3})
    finding = found(runs, remedies=rows)
    table = finding.tables["Gain at equal task loss"]
    verdicts = table[table["remedy"] == "lines"].set_index("setting")["verdict"]
    assert [verdicts[name] for name in sorted(verdicts.index)] == [SUPPORTED, "contradicted"]
    drawn = [chart for chart in charts_of([finding])["remedies"] if chart.name.startswith("remedies-gain")]
    assert len(drawn) == 2
    for chart, gain in zip(drawn, (0.3, -0.3), strict=True):
        (point,) = chart.frame().to_dict("records")
        assert point["remedy"] == "lines"
        assert point["gain"] == pytest.approx(gain, abs=0.03)
        assert point["gain_low"] < point["gain"] < point["gain_high"]
