"""Table of docs/results/remedies.md: what published remedies did to several models, as means over seeds.

    python -m benchmarks.compared_remedies FOLDER/remedies.json ... [--healed FILE] [--csv FILE]

Models are named by the folders of the tuned ones. Of a mean the brackets hold the lowest and the highest seed, of a
single model its interval. ``--healed`` adds the doses that were learned of models of the same names, from the table of
``benchmarks.healed_models``: means over their texts, as the others are.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from intruders.experiments.point import Point
from intruders.experiments.remedy_comparison import ComparedRemedy, RemedyComparison
from intruders.measures.intervals import Interval

from .seeds import (
    by_setting,
    interval_columns,
    labelled,
    mean_of_all,
    over_seeds,
    print_head,
    print_row,
    spread,
)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", help="the remedies.json of each model")
    parser.add_argument(
        "--healed", help="the table of healed models, to print their doses beside the remedies"
    )
    parser.add_argument("--csv", help="also write a table of all models here, a row for each remedy")
    options = parser.parse_args(arguments)
    models = {Path(compared.tuned).name: compared for compared in map(RemedyComparison.load, options.files)}
    print_head(
        "model",
        "remedy, strengths",
        "healed",
        "task loss tuned, then",
        "accuracy tuned, then",
        "gain, nats per token",
    )
    healed = {} if options.healed is None else healed_of_models(options.healed)
    for name, group in by_setting(models).items():
        for remedy in group[0].remedies:
            _print_remedy(name, group, remedy.name)
        seeds = [Path(compared.tuned).name for compared in group]
        doses = [healed[seed] for seed in seeds if seed in healed]
        if doses:
            _print_doses(name, doses)
    if options.csv:
        rows = [
            table_row(name, compared, remedy, point)
            for name, compared in models.items()
            for remedy, point in measured(compared)
        ]
        pd.DataFrame(rows).to_csv(options.csv, index=False, float_format="%.5g")


def measured(compared: RemedyComparison) -> list[tuple[ComparedRemedy, Point]]:
    """Return the remedies that were measured to the end, each with the point of its chosen strength."""
    return [(remedy, remedy.chosen) for remedy in compared.remedies if remedy.chosen is not None]


def table_row(
    name: str, compared: RemedyComparison, remedy: ComparedRemedy, point: Point
) -> dict[str, object]:
    """Return what one model measured of a remedy at its chosen strength, with the intervals."""
    row: dict[str, object] = {
        "model": name,
        "task": compared.target,
        "remedy": remedy.name,
        "strength": point.strength,
        "over_allowance": remedy.over_allowance,
        **compared.counts["report"],
        "base_loss": compared.base_point.loss.estimate,
        "tuned_loss": compared.tuned_point.loss.estimate,
        "loss": point.loss.estimate,
        "tuned_task_loss": compared.tuned_point.task_loss.estimate,
        "task_loss": point.task_loss.estimate,
        "tuned_accuracy": compared.tuned_point.accuracies[compared.target],
        "accuracy": point.accuracies[compared.target],
    }
    return row | interval_columns("healed", point.healed) | interval_columns("gain", point.gain)


@dataclass(frozen=True)
class HealedModel:
    """What learned doses did to one model."""

    healed: float | None  # share; None where nothing was clearly forgotten on a text
    gain: float  # nats per token, over interpolation at equal task loss
    tuned_task_loss: float
    task_loss: float


def healed_of_models(file: str) -> dict[str, HealedModel]:
    """Read the table of healed models, and return the means over the texts of each."""
    models = {}
    for name, rows in pd.read_csv(file).groupby("model"):
        forgotten = (rows["tuned_loss"] - rows["base_loss"]).sum()
        recovered = (rows["tuned_loss"] - rows["healed_loss"]).sum()
        is_known = bool(rows["healed"].notna().all())
        models[str(name)] = HealedModel(
            float(recovered / forgotten) if is_known else None,
            float(rows["gain"].mean()),
            float(rows["tuned_task_loss"].iloc[0]),
            float(rows["healed_task_loss"].iloc[0]),
        )
    return models


def _print_doses(name: str, models: Sequence[HealedModel]) -> None:
    losses = [
        mean_of_all([getattr(model, field) for model in models], "{:.4f}")
        for field in ("tuned_task_loss", "task_loss")
    ]
    print_row(
        labelled(name, models),
        "doses",
        spread([model.healed for model in models], "{:.0%}"),
        ", ".join(losses),
        "-",
        spread([model.gain for model in models], "{:+.3f}"),
    )


def _print_remedy(name: str, group: Sequence[RemedyComparison], remedy: str) -> None:
    """Print one remedy over the models of a setting in which it was measured."""
    models = [
        (compared, point) for compared in group for row, point in measured(compared) if row.name == remedy
    ]
    if not models:
        return
    points = [point for _, point in models]
    strengths = sorted({f"{point.strength:g}" for point in points if point.strength is not None})
    losses, accuracies = [], []
    for chosen in ([compared.tuned_point for compared, _ in models], points):
        losses.append(mean_of_all([point.task_loss.estimate for point in chosen], "{:.4f}"))
        accuracies.append(
            mean_of_all(
                [
                    point.accuracies[compared.target]
                    for (compared, _), point in zip(models, chosen, strict=True)
                ],
                "{:.2f}",
            )
        )
    healed: list[Interval | None] = [point.healed for point in points]
    print_row(
        labelled(name, models),
        f"{remedy} {', '.join(strengths)}",
        over_seeds(healed, "{:.0%}"),
        ", ".join(losses),
        ", ".join(accuracies),
        over_seeds([point.gain for point in points], "{:+.3f}"),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
