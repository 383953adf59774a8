"""Whether intruders sit where forgetting sits, on made-up models in which they do, do not, or are not there."""

import math
from statistics import mean, stdev
from typing import Any

import pytest
from scipy import stats

from intruders_research.claims.every_claim import analyse_all, charts_of
from intruders_research.claims.shared.claim import NOT_RUN, SUPPORTED, UNDECIDED, Finding
from tests.research.planted import attributed
from tests.studies.planted import run, study


def found(weight: float, settings: int = 5, seeds: int = 2, **changes: Any) -> Finding:
    runs, parts = [], []
    for rank in range(1, settings + 1):
        for seed in range(seeds):
            run_id = f"{rank}-{seed}"
            runs.append(run(run_id, rank=rank, seed=seed))
            parts += attributed(run_id, weight, **changes)
    (finding,) = analyse_all(study(runs=runs, attributions=parts), ["places"])
    return finding


def test_where_parts_follow_the_intruders_it_is_supported() -> None:
    finding = found(1.0)
    (answer,) = finding.answers
    assert (answer.decision, answer.seeds) == (SUPPORTED, 2)
    by_setting = []
    for rank in range(1, 6):
        correlations = []
        for seed in range(2):
            rows = attributed(f"{rank}-{seed}", 1.0)
            correlations.append(
                stats.spearmanr([row["part"] for row in rows], [row["intruders"] for row in rows]).statistic
            )
        by_setting.append(mean(correlations))
    half = stats.t.ppf(0.975, 4) * stdev(by_setting) / math.sqrt(5)
    assert answer.estimate == pytest.approx(mean(by_setting))
    assert answer.interval.low == pytest.approx(mean(by_setting) - half)
    # 24 of 30 matrices have 0.25 of 30 nats inside the span: 6 / 30.
    share = next(effect for effect in finding.effects if effect.what.startswith("share of the loss rise"))
    assert share.estimate == pytest.approx(0.2)
    assert charts_of([finding])["places"]


def test_models_without_intruders_are_left_out_and_counted() -> None:
    assert found(1.0, inside=None).decision == NOT_RUN


@pytest.mark.parametrize("settings", [2, 3])
def test_fewer_settings_than_the_claim_needs_are_shown_and_decide_nothing(settings: int) -> None:
    finding = found(1.0, settings=settings)
    (answer,) = finding.answers
    assert answer.estimate > 0.5
    assert (answer.decision, answer.interval.has_ends) == (UNDECIDED, False)
    assert answer.needed == "more settings with intruders"
    assert found(1.0, settings=4).decision == SUPPORTED
