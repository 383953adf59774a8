"""Answer five questions on a published study from its folder alone, with pandas: python outsider.py FOLDER"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

folder = Path(sys.argv[1])
published = json.loads((folder / "published.json").read_text("utf-8"))
runs = pd.read_parquet(folder / "runs.parquet").query("status == 'finished'").set_index("run_id")
evaluations = [run.get("evaluation") or {} for run in published["runs"]]

losses = [loss for of in evaluations for loss in of.get("losses", ())]
kept = sorted({(of["corpus"], of["documents"], of["tokens"], *of["digests"]) for of in losses})
print(f"documents behind a loss (text, documents, tokens, digests): {kept or 'not kept'}")

points = pd.read_parquet(folder / "remedies.parquet").query("share == 'report' and control.isna()")
for run_id, of in points.groupby("run_id"):
    curve = of[(of["remedy"] == "interpolate") & ~of["chosen"].eq(True)].sort_values("strength")
    down = curve.iloc[int(np.argmin(curve["task_loss"])) :: -1]  # from the least task loss to the base
    for row in of[of["chosen"].eq(True) & (of["remedy"] != "interpolate")].itertuples():
        again = np.interp(row.task_loss, down["task_loss"], down["loss"]) - row.loss
        print(f"gain over interpolation: {run_id}: {row.remedy}: {row.gain:+.4f}, again {again:+.4f}")

file = folder / "examples.parquet"
examples = pd.read_parquet(file).astype({"right": float}) if file.is_file() else None
for _, of in () if examples is None else runs.groupby(["base", "task", "seed"]):
    right = examples.pivot_table(index=["task", "example"], columns="run_id", values="right").filter(of.index)
    for one, other in itertools.combinations(right, 2):
        apart = (right[one] - right[other]).dropna()
        print(f"paired accuracy: {one} - {other}: {apart.mean():+.3f} +-{1.96 * apart.sem():.3f}")

machines = {json.dumps([of["machine"], of["versions"]]) for of in evaluations if "machine" in of}
print(f"environment: {sorted(machines) or 'not kept: package ' + published['intruders']}")

missed = runs[runs["match"].notna() & (runs["stopped_by"] != "match")] if "match" in runs else runs[:0]
print(f"missed scores: {len(missed)} of {len(runs)} runs: {missed['validation_accuracy'].to_dict()}")
