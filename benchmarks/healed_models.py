"""Tables of docs/results/remedies.md: what several healed models measured, and the mean over their seeds.

    python -m benchmarks.healed_models FOLDER/heal.json ... [--csv FILE]

Models are named by the folders of the tuned ones. Those whose names differ in a last ``-s0``, ``-s1``, ... are seeds of
one setting. Of a mean the brackets hold the lowest and the highest seed, of a single model its 95 % interval.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import pandas as pd

from intruders.experiments.healing import BASE, HEALED, INTERPOLATION, INTRUDERS, TUNED, Healing
from intruders.experiments.point import TaskMeasure
from intruders.measures.intervals import Interval

from .seeds import by_setting, interval_columns, labelled, mean_of_all, over_seeds, print_head, print_row

MEAN_DOSE, SHUFFLED = (
    "mean dose",
    "shuffled doses",
)  # controls that heal measured when these models were healed


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", help="the heal.json of each healed model")
    parser.add_argument("--csv", help="also write a table of all models here, a row for each text")
    options = parser.parse_args(arguments)
    models = {Path(healing.tuned).name: healing for healing in map(Healing.load, options.files)}
    print_rows("model", {name: [healing] for name, healing in models.items()})
    print_rows(
        "mean over seeds", {name: group for name, group in by_setting(models).items() if len(group) > 1}
    )
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
            row |= interval_columns(key, interval)
        yield row | {"intruders": healing.intruders_before, "intruders_healed": healing.intruders_after}


def print_rows(title: str, groups: dict[str, list[Healing]]) -> None:
    """Print text, task and controls of each group."""
    print_head(title, "text", "forgotten", "healed", "interpolation", "gain, nats per token")
    for name, group in groups.items():
        for corpus in group[0].healed_point.corpora:
            forgotten = mean(healing.tuned_point.corpora[corpus].forgotten.estimate for healing in group)
            gains = [healing.healed_point.corpora[corpus].gain for healing in group]
            print_row(
                labelled(name, group),
                corpus,
                f"{forgotten:.3f}",
                over_seeds(_healed(group, HEALED, corpus), "{:.0%}"),
                over_seeds(_healed(group, INTERPOLATION, corpus), "{:.0%}", is_short=True),
                over_seeds(gains, "{:+.3f}"),
            )
    print_head(title, "task loss tuned, healed", "rise", "accuracy tuned, healed, interpolation")
    for name, group in groups.items():
        losses = [mean(task.loss.estimate for task in _tasks(group, point)) for point in (TUNED, HEALED)]
        accuracies = [
            mean_of_all(
                [task.accuracy.estimate if task.accuracy else None for task in _tasks(group, point)], "{:.2f}"
            )
            for point in (TUNED, HEALED, INTERPOLATION)
        ]
        print_row(
            labelled(name, group),
            ", ".join(f"{loss:.4f}" for loss in losses),
            over_seeds([task.rise for task in _tasks(group, HEALED)], "{:+.3f}"),
            ", ".join(accuracies),
        )
    print_head(title, "intruders before, after", "mean dose", "shuffled doses", "intruders scaled")
    for name, group in groups.items():
        before = mean_of_all([healing.intruders_before for healing in group], "{:.0f}")
        after = mean_of_all([healing.intruders_after for healing in group], "{:.0f}")
        controls = [
            over_seeds(_healed(group, point, group[0].corpus), "{:.0%}", is_short=True)
            for point in (MEAN_DOSE, SHUFFLED, INTRUDERS)
        ]
        print_row(labelled(name, group), f"{before}, {after}", *controls)


def _tasks(group: Sequence[Healing], point: str) -> list[TaskMeasure]:
    return [measured.tasks[healing.task] for healing in group if (measured := healing.point(point))]


def _healed(group: Sequence[Healing], point: str, corpus: str) -> list[Interval | None]:
    return [measured.corpora[corpus].healed for healing in group if (measured := healing.point(point))]


if __name__ == "__main__":
    main(sys.argv[1:])
