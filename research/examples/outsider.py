"""What a reader can check of a published study from its folder alone, with pandas and nothing of this package.

python research/examples/outsider.py docs/results/data/which-remedy-again
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd


def main(folder: Path) -> None:
    """Print five answers: documents, gains, paired accuracy, environment, missed scores."""
    published = json.loads((folder / "published.json").read_text("utf-8"))
    runs = pd.read_parquet(folder / "runs.parquet")
    runs = runs[runs["status"] == "finished"].set_index("run_id")
    measured = [run["stages"].get("evaluate", {}).get("settings", {}) for run in published["runs"]]
    asked = {(tuple(of.get("loss_on", ())), of.get("max_documents"), of.get("max_tokens")) for of in measured}
    print(f"documents behind a loss, at most (texts, documents, tokens of each): {sorted(asked, key=str)}")

    points = pd.read_parquet(folder / "remedies.parquet")
    points = points[(points["share"] == "report") & points["control"].isna()]
    chosen = points["chosen"].eq(True)
    curves = points[(points["remedy"] == "interpolate") & ~chosen]
    tuned = curves[curves["strength"] == 1].set_index("run_id")
    for row in points[chosen & (points["remedy"] != "interpolate")].to_dict("records"):
        curve = curves[curves["run_id"] == row["run_id"]].sort_values("strength")
        at_least = curve.iloc[
            int(np.argmin(curve["task_loss"])) :: -1
        ]  # from the least task loss down to the base
        again = float(np.interp(row["task_loss"], at_least["task_loss"], at_least["loss"])) - row["loss"]
        accuracy = row["accuracy"] - tuned.loc[row["run_id"], "accuracy"]
        print(
            f"{row['run_id']}: {row['remedy']}: gain {row['gain']:+.3f}, again {again:+.3f}; accuracy {accuracy:+.3f}"
        )
    print(
        "paired accuracy: differences of two shares, as above; an interval needs the answers to single examples"
    )

    stages = [run["stages"].get("train", {}) for run in published["runs"]]
    bases = sorted({digest for stage in stages for digest in stage.get("inputs", {}).values()})
    print(
        f"environment: package {published['intruders']}, digests of the base and data {bases}; no machine, no torch"
    )

    missed = runs[runs["match"].notna() & (runs["stopped_by"] != "match")] if "match" in runs else runs[:0]
    print(f"missed scores: {len(missed)} of {len(runs)} runs")
    for run_id, row in missed.iterrows():
        print(f"  {run_id}: {row['validation_accuracy']:.3f} of {row['match']}")  # nan of a sequence


if __name__ == "__main__":
    main(Path(sys.argv[1]))
