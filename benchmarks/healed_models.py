"""Tables of docs/results/healing.md: what several healed models measured, and the mean over their seeds.

    python -m benchmarks.healed_models FOLDER/heal.json ... [--csv FILE]

Models are named by the folders of the tuned ones. Those whose names differ in a last ``-s0``, ``-s1``, ... are seeds of
one setting. Of a mean the brackets hold the lowest and the highest seed, of a single model its 95 % interval.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import pandas as pd

from intruders.experiments.heal.healing import (
    BASE,
    HEALED,
    INTERPOLATION,
    INTRUDERS,
    MEAN_DOSE,
    SHUFFLED,
    TUNED,
    Healing,
    TaskMeasure,
)
from intruders.measures.intervals import Interval


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", help="the heal.json of each healed model")
    parser.add_argument("--csv", help="also write a table of all models here, a row for each text")
    options = parser.parse_args(arguments)
    models = {Path(healing.tuned).name: healing for healing in map(Healing.load, options.files)}
    settings: dict[str, list[Healing]] = {}
    for name, healing in models.items():
        settings.setdefault(re.sub(r"-s\d+$", "", name), []).append(healing)
    print_rows("model", {name: [healing] for name, healing in models.items()})
    print_rows("mean over seeds", {name: group for name, group in settings.items() if len(group) > 1})
    if options.csv:
        pd.DataFrame([row for name, healing in models.items() for row in table_rows(name, healing)]).to_csv(
            options.csv, index=False, float_format="%.5g"
        )


def table_rows(name: str, healing: Healing) -> Iterator[dict[str, object]]:
    """Yield a row for every text: what each measured point lost there and on the task, with intervals of the healed."""
    for corpus in healing.healed_point.corpora:
        row: dict[str, object] = {"model": name, "task": healing.task, "text": corpus}
        row["documents"], row["examples"] = healing.documents[corpus], healing.examples[healing.task]
        for point in (BASE, TUNED, HEALED, INTERPOLATION, MEAN_DOSE, SHUFFLED, INTRUDERS):
            measured, key = healing.point(point), point.replace(" ", "_")
            row[f"{key}_loss"] = None if measured is None else measured.corpora[corpus].loss.estimate
            row[f"{key}_task_loss"] = None if measured is None else measured.tasks[healing.task].loss.estimate
        measure, task = healing.healed_point.corpora[corpus], healing.healed_point.tasks[healing.task]
        for key, interval in (("healed", measure.healed), ("gain", measure.gain), ("task_rise", task.rise)):
            row |= {
                key: interval and interval.estimate,
                f"{key}_low": interval and interval.low,
                f"{key}_high": interval and interval.high,
            }
        yield row | {"intruders": healing.intruders_before, "intruders_healed": healing.intruders_after}


def print_rows(title: str, groups: dict[str, list[Healing]]) -> None:
    """Print text, task and controls of each group."""
    _print_head(title, "text", "forgotten", "healed", "interpolation", "gain, nats per token")
    for name, group in groups.items():
        for corpus in group[0].healed_point.corpora:
            forgotten = mean(healing.tuned_point.corpora[corpus].forgotten.estimate for healing in group)
            gains = [healing.healed_point.corpora[corpus].gain for healing in group]
            _print_row(
                _labelled(name, group),
                corpus,
                f"{forgotten:.3f}",
                _over(_healed(group, HEALED, corpus), "{:.0%}"),
                _over(_healed(group, INTERPOLATION, corpus), "{:.0%}", is_short=True),
                _over(gains, "{:+.3f}"),
            )
    _print_head(title, "task loss tuned, healed", "rise", "accuracy tuned, healed, interpolation")
    for name, group in groups.items():
        losses = [mean(task.loss.estimate for task in _tasks(group, point)) for point in (TUNED, HEALED)]
        accuracies = [
            _mean(
                [task.accuracy.estimate if task.accuracy else None for task in _tasks(group, point)], "{:.2f}"
            )
            for point in (TUNED, HEALED, INTERPOLATION)
        ]
        _print_row(
            _labelled(name, group),
            ", ".join(f"{loss:.4f}" for loss in losses),
            _over([task.rise for task in _tasks(group, HEALED)], "{:+.3f}"),
            ", ".join(accuracies),
        )
    _print_head(title, "intruders before, after", "mean dose", "shuffled doses", "intruders scaled")
    for name, group in groups.items():
        before = _mean([healing.intruders_before for healing in group], "{:.0f}")
        after = _mean([healing.intruders_after for healing in group], "{:.0f}")
        controls = [
            _over(_healed(group, point, group[0].corpus), "{:.0%}", is_short=True)
            for point in (MEAN_DOSE, SHUFFLED, INTRUDERS)
        ]
        _print_row(_labelled(name, group), f"{before}, {after}", *controls)


def _print_head(*cells: str) -> None:
    print()
    _print_row(*cells)
    print("|" + "---|" * len(cells))


def _print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def _labelled(name: str, group: Sequence[Healing]) -> str:
    return name if len(group) == 1 else f"{name}, {len(group)} seeds"


def _tasks(group: Sequence[Healing], point: str) -> list[TaskMeasure]:
    return [measured.tasks[healing.task] for healing in group if (measured := healing.point(point))]


def _healed(group: Sequence[Healing], point: str, corpus: str) -> list[Interval | None]:
    return [measured.corpora[corpus].healed for healing in group if (measured := healing.point(point))]


def _mean(values: Sequence[float | None], form: str) -> str:
    """Say the mean, or nothing where a model has no such number."""
    known = [value for value in values if value is not None]
    return form.format(mean(known)) if len(known) == len(values) else "-"


def _over(intervals: Sequence[Interval | None], form: str, *, is_short: bool = False) -> str:
    """Say the mean with its lowest and highest seed; of one model its interval, unless it is to be short."""
    values = [interval for interval in intervals if interval is not None]
    if not values:
        return "-"
    estimates = [interval.estimate for interval in values]
    said = form.format(mean(estimates))
    # A share is not known where tuning forgot nothing clearly.
    count = f" ({len(values)} of {len(intervals)})" if len(values) < len(intervals) else ""
    if len(values) > 1:
        return f"{said} [{form.format(min(estimates))}, {form.format(max(estimates))}]{count}"
    return (
        f"{said}{count}"
        if is_short
        else f"{said} [{form.format(values[0].low)}, {form.format(values[0].high)}]{count}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
