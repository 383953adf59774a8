"""Gains of replay and of lower rates over interpolation at equal task loss, on curves drawn by hand."""

from typing import Any

import pytest

from intruders.studies.tables import COLUMNS
from intruders_research.claims.every_claim import analyse_all
from intruders_research.claims.shared.claim import Finding
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


def found(with_it: dict[str, Any], ends: list[tuple[float, float]]) -> Finding:
    """Three seeds of a run without and one with the remedy, whose models end at ``ends`` (task loss, loss)."""
    runs, points = [], []
    for seed, end in enumerate(ends):
        runs += [
            run(f"plain-{seed}", seed=seed, lr=1e-3),
            run(f"other-{seed}", seed=seed, **({"lr": 1e-3} | with_it)),
        ]
        points += curve(f"plain-{seed}", PLAIN) + curve(f"other-{seed}", [(1.0, 3.0), end])
    (finding,) = analyse_all(study(runs=runs, remedies=points), ["remedies"])
    return finding


def test_a_gain_is_the_curves_loss_at_the_same_task_loss_minus_the_runs() -> None:
    finding = found({"replay": "wikitext-2@0.25"}, [(0.25, 4.0), (0.1, 4.6), (0.5, 3.4)])
    (row,) = finding.tables["Gain while training at equal task loss"].to_dict("records")
    # On the line from 3.5 to 5.0: 4.25 and 4.7; and 3.5 itself.
    assert row["gain"] == pytest.approx((0.25 + 0.1 + 0.1) / 3)
    assert row["remedy"] == "replay (wikitext-2@0.25) while training"
    assert row["seeds"] == 3


def test_runs_on_other_documents_are_not_compared() -> None:
    runs = [run("plain", lr=1e-3), run("other", lr=1e-3, replay="wikitext-2@0.25")]
    points = curve("plain", PLAIN) + curve("other", [(1.0, 3.2), (0.0, 4.0)])
    (finding,) = analyse_all(study(runs=runs, remedies=points), ["remedies"])
    assert "Gain while training at equal task loss" not in finding.tables


def test_runs_of_two_machines_are_compared_by_their_rises() -> None:
    """The base's loss is 3.0 on one machine and 3.0002 on the other, as 16-bit products round there."""
    runs = [run("plain", lr=1e-3), run("other", lr=1e-3, replay="wikitext-2@0.25")]
    points = curve("plain", PLAIN) + curve("other", [(1.0, 3.0002), (0.0, 4.0002)])
    (finding,) = analyse_all(study(runs=runs, remedies=points), ["remedies"])
    (row,) = finding.tables["Gain while training at equal task loss"].to_dict("records")
    assert row["gain"] == pytest.approx(2.0 - 1.0)


def test_a_chosen_share_of_the_run_with_the_remedy_is_compared_as_well() -> None:
    """Of shares at (0.5, 3.4), (0.25, 3.65) and (0.0, 5.3); the curve has 3.5, 4.25 and 5.0 there."""
    runs, points = [], []
    for seed, (task_loss, loss) in enumerate([(0.5, 3.4), (0.25, 3.65), (0.0, 5.3)]):
        runs += [
            run(f"plain-{seed}", seed=seed, lr=1e-3),
            run(f"other-{seed}", seed=seed, lr=1e-3, replay="wikitext-2@0.25"),
        ]
        share = curve(f"other-{seed}", [(task_loss, loss)] * 2)[0] | {"chosen": True, "strength": 0.5}
        points += curve(f"plain-{seed}", PLAIN) + curve(f"other-{seed}", [(1.0, 3.0), (0.0, 6.0)]) + [share]
    (finding,) = analyse_all(study(runs=runs, remedies=points), ["remedies"])
    (row,) = finding.tables["Gain while training at equal task loss"].to_dict("records")
    assert row["gain"] == pytest.approx(-1.0)
    assert row["gain_of_share"] == pytest.approx((0.1 + 0.6 - 0.3) / 3)
    deviation = 0.4509249752822894  # of 0.1, 0.6 and -0.3, over 2; t of two degrees of freedom is 4.30265
    assert row["gain_of_share_high"] - row["gain_of_share"] == pytest.approx(
        4.30265 * deviation / 3**0.5, rel=1e-5
    )
