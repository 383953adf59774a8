"""The points of runs in a chart, by the names that a legend can tell apart."""

import pandas as pd

from intruders_research.claims.shared.pictures import Palette, by_method_and_rank, run_points

METHODS = ("full", "lora r=8 alpha=16")


def runs_at(rates: int) -> pd.DataFrame:
    """A run of each method at each learning rate, with the loss change as its number."""
    rows = [
        {
            "setting": f"{method} lr={1e-4 * (rate + 1):g}",
            "run_id": f"{method}-{rate}",
            "norm": float(rate),
            "loss_change": float(10 * at + rate),
        }
        for at, method in enumerate(METHODS)
        for rate in range(rates)
    ]
    return pd.DataFrame(rows)


def test_few_settings_have_a_name_each() -> None:
    series, note = run_points(runs_at(4), Palette(), "norm", "loss_change")
    assert [each.name for each in series] == [
        *(f"lora r=8 alpha=16 lr={rate}" for rate in ("0.0001", "0.0002", "0.0003", "0.0004")),
        *(f"full lr={rate}" for rate in ("0.0001", "0.0002", "0.0003", "0.0004")),
    ]
    assert note == ""


def test_of_many_settings_those_of_one_method_share_a_name_and_no_point_is_lost() -> None:
    series, note = run_points(runs_at(5), Palette(), "norm", "loss_change")
    assert {each.name: list(zip(each.x, each.y, each.notes or (), strict=True)) for each in series} == {
        "lora r=8 alpha=16": [(float(i), 10.0 + i, f"lora r=8 alpha=16-{i}") for i in range(5)],
        "full": [(float(i), float(i), f"full-{i}") for i in range(5)],
    }
    assert note == " Runs of one name may differ in the learning rate."


def test_settings_have_one_order_where_numbers_are_nan_too() -> None:
    numbers = ("1", "2", "8", "nan")
    ordered = [f"lora r={rank} alpha={alpha}" for rank in numbers for alpha in numbers]
    ordered = ["b-only r=8", *ordered, "full lr=2e-05", "full lr=1", "full lr=nan"]
    assert by_method_and_rank(reversed(ordered)) == ordered
