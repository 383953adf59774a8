"""The claim on the threshold of a random term."""

import math
from typing import Any

import numpy as np
import pytest

from intruders_research.claims.every_claim import analyse_all, charts_of
from tests.research.planted import matched, scales
from tests.studies.planted import run, study


def test_threshold_without_intruders_has_nothing_to_separate() -> None:
    rows = matched(seeds=2)
    matrices = [row | {"intruders": 0} for of in rows for row in scales(of["run_id"])]
    (finding,) = analyse_all(study(runs=rows, matrices=matrices), ["threshold"])
    assert finding.shown is None
    assert any("nothing to separate" in note for note in finding.notes)


def agreement(*matrices: tuple[int, float, float]) -> dict[str, Any]:
    """What the table says of matrices with these counts, relative updates and predicted scales, in both of two runs."""
    runs = [run(f"run-{seed}", seed=seed) for seed in range(2)]
    rows = [
        {"run_id": of["run_id"], "name": f"layer.{at}", "intruders": count, "relative_update": relative}
        | {"predicted_scale": predicted, "critical_scale": 1.0}
        for of in runs
        for at, (count, relative, predicted) in enumerate(matrices)
    ]
    (finding,) = analyse_all(study(runs=runs, matrices=rows), ["threshold"])
    (row,) = finding.tables["Agreement"].to_dict("records")
    return dict(row)


def test_the_threshold_is_beside_the_relative_update_that_knows_no_spectrum() -> None:
    """Of 2 matrices with intruders and 2 without, the relative update orders three of the four pairs: AUC 3/4."""
    row = agreement((1, 0.9, 0.5), (2, 0.3, 0.6), (0, 0.5, 2.0), (0, 0.1, 3.0))
    assert (row["auc"], row["auc_of_relative_update"]) == (1.0, 0.75)


def test_a_matrix_that_is_predicted_never_to_have_intruders_counts_as_such() -> None:
    """One of the two with intruders is predicted never to have any: it orders both of its pairs wrongly, AUC 2/4."""
    row = agreement((1, 0.5, 0.5), (2, 0.5, math.inf), (0, 0.5, 2.0), (0, 0.5, 3.0))
    assert (row["auc"], row["predicted_of_these"]) == (0.5, 0.5)


@pytest.mark.parametrize("count", [12, 600])
def test_the_area_under_the_curve_is_the_auc_beside_it(count: int) -> None:
    """Scales of zero and infinity are ranked in both; the curve of 600 matrices has 200 steps."""
    rng = np.random.default_rng(0)
    scales_of = [0.0, 0.0, *rng.lognormal(size=count - 5), math.inf, math.inf, math.inf]
    has = rng.random(count) < np.where(np.array(scales_of) < 1, 0.8, 0.2)
    has[:3], has[-3:] = [True, False, True], [False, True, False]
    matrices = [
        {"run_id": "run", "name": f"layer.{at}", "intruders": int(own), "relative_update": 0.5}
        | {"predicted_scale": scale, "critical_scale": math.nan}
        for at, (own, scale) in enumerate(zip(has, scales_of, strict=True))
    ]
    (finding,) = analyse_all(study(runs=[run("run")], matrices=matrices), ["threshold"])
    (chart,) = charts_of([finding])["threshold"]
    (curve,) = chart.series
    assert (curve.x[0], curve.y[0], curve.x[-1], curve.y[-1]) == (0, 0, 1, 1)
    with_them, without = np.array(scales_of)[has], np.array(scales_of)[~has]
    pairs = (with_them[:, None] < without) + 0.5 * (with_them[:, None] == without)
    (row,) = finding.tables["Agreement"].to_dict("records")
    assert row["auc"] == pytest.approx(pairs.mean())
    area = np.diff(curve.x) @ (np.array(curve.y[1:]) + np.array(curve.y[:-1])) / 2
    assert area == pytest.approx(pairs.mean(), abs=1e-9 if count <= 200 else 0.005)
