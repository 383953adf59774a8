"""Charts of causes: settings one at a time, low-rank and dense updates at equal norm, a random rank-one term."""

from __future__ import annotations

from collections.abc import Iterator

from intruders.charts.chart import Axis, Chart, Rule, Series

from .shared.claim import Finding
from .shared.pictures import Palette, in_order, parts, values


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """Draw a row for each setting that differs alone, LoRA and full at equal norm, and the random rank-one term."""
    return [*_one_at_a_time(finding), *_by_norm(finding, palette), *_random_term(finding)]


def _one_at_a_time(finding: Finding) -> Iterator[Chart]:
    for part in parts(finding.tables.get("One setting at a time")):
        rows = part.rows
        names = [
            f"{cause}: {start} to {end}" if start not in ("lora", "random") else str(cause)
            for cause, start, end in zip(rows["cause"], rows["from"], rows["to"], strict=True)
        ]
        yield Chart(
            f"causes-settings{part.slug}",
            part.titled("One setting at a time"),
            Axis("change_per_100_vectors", "change of intruders per 100 vectors"),
            Axis("cause", "", ticks=names),
            [
                Series(
                    "change",
                    values(rows["change_per_100_vectors"]),
                    [float(at) for at in range(len(rows))],
                    x_low=values(rows["low"]),
                    x_high=values(rows["high"]),
                    in_legend=False,
                )
            ],
            [Rule("x", 0.0)],
            caption="All else equal; to the right of the line the setting raises the count. "
            "95 % intervals over seeds, where there are several.",
        )


def _by_norm(finding: Finding, palette: Palette) -> Iterator[Chart]:
    for part in parts(finding.tables.get("LoRA and full by update norm")):
        series = []
        for setting, of_setting in part.rows.groupby("setting", sort=False):
            for at, (run_id, run) in enumerate(of_setting.groupby("run_id", sort=False)):
                series.append(
                    Series(
                        str(setting),
                        values(run["update_frobenius"]),
                        values(run["intruders_per_100_vectors"]),
                        look="both",
                        tone=palette.tone(str(setting)),
                        notes=[str(run_id)] * len(run),
                        in_legend=at == 0,
                    )
                )
        yield Chart(
            f"causes-norm{part.slug}",
            part.titled("Low-rank and dense updates of one size"),
            Axis("update_frobenius", "Frobenius norm of all updates, in the course of training"),
            Axis("intruders_per_100_vectors", "intruders per 100 vectors", from_zero=True),
            in_order(series),
            caption="A line a run, a point an audit during training. At one norm, what differs is how the update was "
            "trained.",
        )


def _random_term(finding: Finding) -> Iterator[Chart]:
    table = finding.tables.get("Random rank-one term")
    for part in parts(table, "base"):
        rows = part.rows.sort_values("multiple")
        multiples = values(rows["multiple"])
        observed, predicted = values(rows["share_with_intruders"]), values(rows["predicted_share"])
        yield Chart(
            f"causes-random{part.slug}",
            part.titled("A random rank-one term, without training"),
            Axis("multiple", "its size, as a multiple of the matrix's largest singular value", log=min(multiples) > 0,
                 marks=multiples),
            Axis("share_with_intruders", "part of the matrices with an intruder", limits=(0, 1.05)),
            [
                Series("found", multiples, observed, values(rows["low"]), values(rows["high"]), look="both", tone=1),
                Series("predicted from both spectra", multiples, predicted, look="both"),
            ],
            caption="Added to real matrices of the base; 95 % intervals over seeds, where there are several.",
        )  # fmt: skip
