"""What predicts forgetting, on made-up studies in which one number does; against scipy and a fit by hand."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from intruders_research.claims.every_claim import analyse_all, charts_of
from intruders_research.claims.shared.claim import SUPPORTED, Finding
from intruders_research.claims.shared.prediction import correlation_difference, held_out_errors
from tests.studies.planted import noise, run, study

METHODS = 6
RATES = (1e-4, 1e-3, 1e-2)


def runs(of: str, seeds: int = 3) -> list[dict[str, Any]]:
    """Eighteen settings whose loss change follows the predictor ``of``; the others are noise."""
    rows = []
    for seed in range(seeds):
        for rank in range(1, METHODS + 1):
            for lr in RATES:
                key = (rank, lr)
                values = {
                    "kl_prompts": abs(noise("kl", *key)) + 0.01 * abs(noise("kl", seed, *key)),
                    "kl_answers": abs(noise("answers", *key)),
                    "intruders": round(20 + 5 * noise("count", *key) + noise("count", seed, *key)),
                    "update_frobenius": 5 + noise("norm", *key) + 0.05 * noise("norm", seed, *key),
                    "rotation": 0.1 + 0.01 * noise("rotation", *key),
                }
                change = 0.1 + 0.02 * float(values[of]) + 1e-4 * noise("loss", seed, *key)
                rows.append(
                    run(f"{rank}-{lr:g}-{seed}", rank=rank, lr=lr, seed=seed, loss_change=change, **values)
                )
    return rows


def finding(of: str, seeds: int = 3, primary: str = "KL on prompts minus that of intruders") -> Finding:
    results = study(runs=runs(of, seeds))
    results.primary["predictors"] = primary
    (only,) = analyse_all(results, ["predictors"])
    return only


def test_the_kl_is_supported_where_forgetting_follows_it_alone() -> None:
    found = finding("kl_prompts")
    (answer,) = found.answers
    assert answer.what == "rank correlation with forgetting, KL on prompts minus that of intruders"
    assert answer.decision == SUPPORTED
    rows = found.tables["Correlations with the loss change"].set_index("predictor")
    table = study(runs=runs("kl_prompts")).runs
    for name, column in (
        ("KL on prompts", "kl_prompts"),
        ("intruders", "intruders"),
        ("rotation", "rotation"),
    ):
        expected = stats.spearmanr(table[column], table["loss_change"]).statistic
        assert rows.loc[name, "correlation"] == pytest.approx(expected)
    assert math.isnan(rows.loc["update norm", "norm_held_fixed"])
    errors = found.tables["Errors on held-out settings"].set_index("predictor")
    assert errors["error"].idxmin() == "KL on prompts"
    assert errors.loc["KL on prompts", "low"] > 0
    names = [chart.name for chart in charts_of([found])["predictors"]]
    assert names[0] == "predictors-correlations"
    assert "predictors-intruders" in names


def test_it_is_contradicted_where_forgetting_follows_the_intruders() -> None:
    (answer,) = finding("intruders").answers
    assert answer.estimate < 0
    assert answer.decision == "contradicted"


def test_of_two_effects_without_a_primary_one_both_are_tested_together() -> None:
    found = finding("kl_prompts", primary="")
    assert [answer.tests for answer in found.answers] == [2, 2]


def test_a_difference_of_correlations_is_that_of_scipy_with_the_ends_of_resampled_settings() -> None:
    generator = np.random.default_rng(1)
    y = generator.normal(size=30)
    first, second = y + 0.3 * generator.normal(size=30), generator.normal(size=30)
    interval = correlation_difference(list(first), list(second), list(y), list(range(30)))
    expected = stats.spearmanr(first, y).statistic - stats.spearmanr(second, y).statistic
    assert interval.estimate == pytest.approx(expected)
    # The same settings twice say nothing more: the interval stays as wide as that of half as many runs.
    twice = correlation_difference([*first, *first], [*second, *second], [*y, *y], [*range(30), *range(30)])
    width = interval.high - interval.low
    assert twice.estimate == pytest.approx(expected)
    assert (twice.high - twice.low) == pytest.approx(width, rel=0.1)  # 2,000 resamples
    assert interval.p is not None
    assert (interval.p < 0.05) == interval.is_clear
    assert not correlation_difference(list(first[:3]), list(second[:3]), list(y[:3]), [0, 1, 2]).has_ends
    assert correlation_difference(list(first), list(first), list(y), list(range(30))).estimate == 0


def test_a_difference_of_nothing_is_found_in_about_one_study_of_twenty() -> None:
    clear, studies = 0, 60
    for number in range(studies):
        generator = np.random.default_rng(number)
        x, z, y = generator.normal(size=(3, 20))
        clear += correlation_difference(list(x), list(z), list(y), list(range(20))).is_clear
    # 60 studies at 5 % have more than 8 in one case of 250.
    assert clear <= 8


def test_held_out_errors_by_hand() -> None:
    """Left out of 0, 1, 2, 4 at x = 1, 2, 3, 4: the others are straight lines, the ends are flat."""
    errors = held_out_errors([1, 2, 3, 4], [0, 1, 2, 4], ["a", "b", "c", "d"])
    assert list(errors) == pytest.approx([1, 0, 0.5, 2])
    # Falling, with two runs of a setting left out together, and an unknown value.
    errors = held_out_errors([1, 1, 2, 3, math.nan], [4, 6, 3, 1, 9], ["a", "a", "b", "c", "d"])
    assert list(errors[:2]) == pytest.approx([1, 3])
    assert errors[2] == pytest.approx(0)
    assert errors[3] == pytest.approx(2)
    assert math.isnan(errors[4])
    # What differs in nothing predicts the mean of the others.
    assert list(held_out_errors([0, 0, 0], [1, 2, 6], ["a", "b", "c"])) == pytest.approx([3, 1.5, 4.5])


def test_a_predictor_of_some_runs_alone_is_held_against_the_mean_of_these_and_is_not_the_best() -> None:
    """Movement of A is known of LoRA alone, whose losses hardly differ; those of full fine-tuning do."""
    rows = []
    for seed in range(3):
        for rank in (1, 2, 4, 8, 16, 32):
            own = {
                "kl_prompts": 1 + 0.01 * rank,
                "a_movement": abs(noise("a", rank, seed)),
                "intruders": 40 - rank,
            }
            rows.append(
                run(
                    f"{rank}-{seed}", rank=rank, seed=seed, loss_change=0.1 + 1e-3 * rank + 1e-4 * seed, **own
                )
            )
        for lr, change in ((1e-5, 0.2), (5e-5, 1.0), (2e-4, 3.0)):
            own = {"kl_prompts": 2 + change, "a_movement": None, "intruders": 0}
            rows.append(
                run(f"full-{lr}-{seed}", method="full", rank=None, alpha=None, lr=lr, seed=seed)
                | {"loss_change": change + 0.01 * seed}
                | own
            )
    (found,) = analyse_all(study(runs=rows), ["predictors"])
    assert "movement of A predicts best" not in found.verdict
    errors = found.tables["Errors on held-out settings"].set_index("predictor")
    of_lora = errors.loc["movement of A"]
    # Losses of LoRA lie within 0.033 nats, so none is farther from the mean of the others.
    assert of_lora["error_of_none"] < 0.033
    assert errors.loc["KL on prompts", "error_of_none"] > 0.3
    assert (of_lora["settings"], errors.loc["KL on prompts", "settings"]) == (6, 9)
