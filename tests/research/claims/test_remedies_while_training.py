"""Gains of replay and of lower rates over interpolation at equal task loss, on curves drawn by hand."""

from typing import Any

import pandas as pd
import pytest

from intruders.studies.tables import COLUMNS
from intruders_research.claims.every_claim import analyse_all
from tests.studies.planted import run, study

# From the base to the tuned model: task loss falls 1, 0.5, 0, the loss on text rises 3, 3.5, 5.
PLAIN = [(1.0, 3.0), (0.5, 3.5), (0.0, 5.0)]


def curve(run_id: str, points: list[tuple[float, float]]) -> list[dict[str, Any]]:
    rows = []
    for number, (task_loss, loss) in enumerate(points):
        rows.append(
            dict.fromkeys(COLUMNS["remedies"])
            | {"run_id": run_id, "remedy": "interpolate", "share": "report", "chosen": False}
            | {"strength": number / (len(points) - 1), "task_loss": task_loss, "loss": loss}
        )
    return rows


def compared(runs: list[dict[str, Any]], points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of what was gained while training."""
    (finding,) = analyse_all(study(runs=runs, remedies=points), ["remedies"])
    table = finding.tables.get("Gain while training at equal task loss", pd.DataFrame())
    return table.to_dict("records")  # type: ignore[return-value]


def test_a_gain_is_the_curves_loss_at_the_same_task_loss_minus_that_of_the_run_or_of_a_share_of_it() -> None:
    runs, points = [], []
    ends = [(0.25, 4.0), (0.1, 4.6), (0.5, 3.4)]
    shares = [(0.5, 3.4), (0.25, 3.65), (0.0, 5.3)]
    for seed, (end, share) in enumerate(zip(ends, shares, strict=True)):
        plain, other = f"plain-{seed}", f"other-{seed}"
        runs.append(run(plain, seed=seed, lr=1e-3))
        runs.append(run(other, seed=seed, lr=1e-3, replay="wikitext-2@0.25"))
        points += curve(plain, PLAIN) + curve(other, [(1.0, 3.0), end])
        points.append(curve(other, [share] * 2)[0] | {"chosen": True, "strength": 0.5})
    (row,) = compared(runs, points)
    assert (row["remedy"], row["seeds"]) == ("replay (wikitext-2@0.25) while training", 3)
    # On the line from 3.5 to 5.0: 4.25 and 4.7; and 3.5 itself.
    assert row["gain"] == pytest.approx((0.25 + 0.1 + 0.1) / 3)
    # The curve has 3.5, 4.25 and 5.0 at the task losses of the shares.
    assert row["gain_of_share"] == pytest.approx((0.1 + 0.6 - 0.3) / 3)
    deviation = 0.4509249752822894  # of 0.1, 0.6 and -0.3, over 2; t of two degrees of freedom is 4.30265
    half = 4.30265 * deviation / 3**0.5
    assert row["gain_of_share_high"] - row["gain_of_share"] == pytest.approx(half, rel=1e-5)


@pytest.mark.parametrize(
    ("base_loss", "gains"),
    [
        (3.2, []),  # other documents
        (3.0002, [1.0]),  # another machine, whose 16-bit products are rounded otherwise: rises are compared
    ],
)
def test_runs_are_compared_on_the_same_documents_alone(base_loss: float, gains: list[float]) -> None:
    runs = [run("plain", lr=1e-3), run("other", lr=1e-3, replay="wikitext-2@0.25")]
    points = curve("plain", PLAIN) + curve("other", [(1.0, base_loss), (0.0, base_loss + 1.0)])
    assert [row["gain"] for row in compared(runs, points)] == pytest.approx(gains)
