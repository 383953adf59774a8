"""Prints what healing gave back in every setting, from the records of benchmarks/what_heals.py.

python -m benchmarks.healed_table docs/results/data/healed

A record is TASK-RANK-SEED-ROUND.json. Of a model that several rounds healed from the tuned model on, the youngest
counts. Seeds are 30 to 35 of adapters and 21 to 26 in full; those before chose settings of heal. Percent of the added
loss that was removed, and points of accuracy, with 95 % intervals over seeds.
"""

import re
import sys
from pathlib import Path

import pandas as pd

from benchmarks.same_text import CHOSEN, REPORTED
from intruders.experiments.healing import Healing
from intruders.measures.intervals import mean_interval

OWN = "self"
ROUNDS = ("eighth", "tenth", "eleventh", "twelfth", "sixteenth")
NAME = re.compile(rf"(words|sst2|agnews)-(rank8|rank1|full)-(3[0-5]|2[1-6])-({'|'.join(ROUNDS)})\.json")


def main(folder: Path) -> None:
    names = [name for name in map(NAME.fullmatch, sorted(file.name for file in folder.iterdir())) if name]
    names.sort(key=lambda name: ROUNDS.index(name[4]))
    youngest = {name.group(1, 2, 3): name for name in names}
    rows = pd.DataFrame(
        [
            {"task": key[0], "rank": key[1], "seed": key[2], "round": name[4], **measured(folder / name[0])}
            for key, name in sorted(youngest.items())
        ]
    )
    print(rows.to_string(index=False, float_format="%.1f"))
    settings = [(" ".join(key), group) for key, group in rows.groupby(["rank", "task"])]
    full = rows["rank"] == "full"
    for name, group in [*settings, ("adapters", rows[~full]), ("in full", rows[full]), ("all", rows)]:
        print(f"{name:<14}" + "   ".join(said(group[column]) for column in (OWN, CHOSEN, REPORTED, "points")))


def measured(file: Path) -> dict[str, float]:
    """Return the percent healed of every text, and the points of accuracy, of the healed model."""
    healing = Healing.load(file)
    healed, tuned = (
        point.tasks[healing.task].accuracy for point in (healing.healed_point, healing.tuned_point)
    )
    assert healed is not None
    assert tuned is not None
    shares = {name: corpus.healed for name, corpus in healing.healed_point.corpora.items()}
    percent = {name: 100 * share.estimate for name, share in shares.items() if share}
    return percent | {"points": 100 * (healed.estimate - tuned.estimate)}


def said(values: pd.Series) -> str:
    mean = mean_interval(values.tolist())
    return f"{mean.estimate:+6.1f}{mean.ends('+.1f')}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
