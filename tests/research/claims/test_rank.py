"""The claim on rank: a valley of the loss, whatever the rule of alpha."""

import math

import pandas as pd
import pytest
from scipy import stats

from intruders_research.claims.every_claim import analyse_all
from intruders_research.claims.rank import TRENDS, VALLEYS
from intruders_research.claims.rank_series import valley
from tests.research import coverage
from tests.research.planted import holds, matched
from tests.studies.planted import noise, study


def test_a_valley_is_found_where_it_is() -> None:
    rows = []
    for row in matched(effect=1.0):
        if row["method"] == "lora":
            away = abs(math.log2(row["rank"]) - 2)
            rows.append(row | {"loss_change": 0.1 + 0.1 * away + noise("v", row["run_id"], size=0.002)})
    (finding,) = analyse_all(study(runs=rows), ["rank"])
    assert finding.shown is True
    assert finding.tables["Rank of least loss"]["rank"].tolist() == [4]
    depth = next(effect for effect in finding.effects if "depth" in effect.name)
    assert holds(depth, 0.2)


def test_without_a_valley_none_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise alone puts the least loss at an inner rank three times of five; the interval must not fall for it."""
    monkeypatch.setattr(coverage, "STUDIES", 500)
    assert coverage.false_valleys(5) <= 0.05


def test_without_losses_the_depth_of_their_valley_has_no_number() -> None:
    rows = [row | {"loss_change": None} for row in matched(effect=1.0)]
    (finding,) = analyse_all(study(runs=rows), ["rank"])
    [depth] = [one for one in finding.answers if "valley" in one.what]
    assert math.isnan(depth.estimate)
    assert (depth.decision, depth.lacking) == ("undecided", "three ranks or more with a loss")


def test_explicit_alphas_make_the_same_series_as_the_rule() -> None:
    by_rule = matched(effect=1.0)
    by_number = [
        row | {"alpha": None if row["rank"] is None else f"{2 * row['rank']}"} for row in matched(effect=1.0)
    ]
    first, second = (analyse_all(study(runs=rows), ["rank"])[0] for rows in (by_rule, by_number))
    assert first.effects[0].estimate == pytest.approx(second.effects[0].estimate)
    assert {answer.on.part for answer in second.answers} == {"alpha = 2r"}


def test_the_p_value_of_a_valley_is_that_of_the_end_that_is_near() -> None:
    """Rank 4 is clearly below rank 1 and as high as rank 16: the small p of the first end tells nothing of a valley."""
    table = pd.DataFrame(
        [[1.00, 0.50, 0.48], [1.02, 0.53, 0.55], [0.99, 0.49, 0.43], [1.01, 0.52, 0.55]],
        columns=[1.0, 4.0, 16.0],
    )
    deepest = valley(table)
    assert deepest is not None
    near = stats.ttest_1samp(table[16.0] - table[4.0], 0)
    assert deepest.depth.estimate == pytest.approx((table[16.0] - table[4.0]).mean())
    assert deepest.depth.estimate < 0
    assert deepest.depth.p == pytest.approx(near.pvalue)
    assert not deepest.depth.is_clear
    assert near.pvalue > 0.05


def test_series_under_one_rule_are_told_apart_by_their_rate() -> None:
    """A grid of ranks and rates has a series for each rate, and advice joins a valley to the trends of its own."""
    rows = [
        row | {"run_id": f"{row['run_id']} at {lr}", "lr": lr}
        for lr in (1e-4, 1e-3)
        for row in matched(effect=1.0)
        if row["method"] == "lora"
    ]
    (finding,) = analyse_all(study(runs=rows), ["rank"])
    valleys, trends = finding.tables[VALLEYS], finding.tables[TRENDS]
    assert [name for name in valleys["rule"] if "2r" in name] == [
        "alpha = 2r, lr=0.0001",
        "alpha = 2r, lr=0.001",
    ]
    assert not trends.duplicated(["base", "task", "rule", "measure"]).any()
