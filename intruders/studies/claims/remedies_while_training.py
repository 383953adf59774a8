"""Remedies while training, at equal task loss: what replay or a lower rate gains over a smaller share of the update.

The run without the remedy has a curve of interpolation, measured in its comparison of remedies. The run with it is a
point on the same documents and examples, namely the end of its own curve. Its gain is the loss on the curve at the
point's task loss, minus the point's loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from ...experiments.bench.interpolation_curve import loss_at_task_loss
from ..tables.results import Results
from .shared.evidence import Evidence
from .shared.run_labels import settings_in, text_of
from .shared.statistics import LEVEL, mean_interval
from .shared.strata import LOSS_ALIKE, Stratum, finished, strata
from .shared.words import seeds_said

TABLE = "Gain while training at equal task loss"
_CURVE = "interpolate"
_SAME_BASE = 1e-6  # nats: losses of one base on the same documents


def add_training_gains(evidence: Evidence, results: Results) -> list[dict[str, object]]:
    """Add what replay and lower rates gain, mean over seeds, for all of one base and task together (Bonferroni).

    They decide nothing unless the study names one in advance. Returns the rows of :data:`TABLE`.
    """
    rows: list[dict[str, object]] = []
    runs = finished(results.runs)
    for stratum in strata(runs[runs["run_id"].isin(results.remedies["run_id"])], LOSS_ALIKE):
        gains = list(_gains(stratum, results.remedies))
        level = 1 - (1 - LEVEL) / max(1, len(gains))
        for name, described, by_seed, unreached in gains:
            if unreached:
                evidence.notes.append(
                    f"{stratum.on.narrowed(described).label}: with {name}, the task loss in {unreached} of "
                    f"{seeds_said(len(by_seed))} is below all of the curve of interpolation, whose lowest task loss "
                    "counts there, so these are not at equal task loss"
                )
            what = f"gain of {name} over interpolation at equal task loss, nats per token"
            is_primary = evidence.is_primary(what)
            # The one that was named in advance is not picked from several.
            interval = mean_interval(by_seed, level=LEVEL if is_primary else level)
            evidence.add(
                stratum.on.narrowed(described),
                what,
                interval,
                1 if is_primary else None,
                digits=3,
                phrase=None if is_primary else "",
            )
            rows.append(
                {
                    "base": stratum.on.base,
                    "task": stratum.on.task,
                    "setting": described,
                    "remedy": name,
                    **interval.columns("gain", "gain_"),
                    "seeds": len(by_seed),
                }
            )
    return rows


def _gains(stratum: Stratum, points: pd.DataFrame) -> Iterator[tuple[str, str, pd.Series[float], int]]:
    """Yield each remedy, the setting that it is compared with, its gains by seed, and how many the curve misses."""
    runs = stratum.runs.assign(family=settings_in(stratum.runs, ["lr", "replay"]))
    for _, group in runs.groupby("family", sort=False):
        plain = group[group["replay"].map(text_of) == ""]
        if plain.empty:
            continue
        start = plain[plain["lr"] == plain["lr"].max()]
        for _, others in group.groupby("setting", sort=False):
            first = others.iloc[0]
            replay = text_of(first["replay"])
            if replay and first["lr"] == start["lr"].iloc[0]:
                name = f"replay ({replay}) while training"
            elif not replay and first["lr"] < start["lr"].iloc[0]:
                name = f"a learning rate of {first['lr']:g} instead of {start['lr'].iloc[0]:g}"
            else:
                continue
            gains = {
                seed: _gain(points, str(before["run_id"]), str(after["run_id"]))
                for seed, before in start.set_index("seed").iterrows()
                for _, after in others[others["seed"] == seed].iterrows()
            }
            by_seed = pd.Series({seed: gain for seed, (gain, _) in gains.items()}, dtype=float).dropna()
            if len(by_seed):
                unreached = sum(not is_reached for _, is_reached in gains.values())
                yield name, str(start["described"].iloc[0]), by_seed, unreached


def _gain(points: pd.DataFrame, before: str, after: str) -> tuple[float, bool]:
    """Return the gain of one run over another's curve, and whether the curve reaches the run's task loss.

    The gain is NaN if they were not measured on the same documents.
    """
    curve, other = (_curve(points, run_id) for run_id in (before, after))
    if curve.empty or other.empty or abs(curve["loss"].iloc[0] - other["loss"].iloc[0]) > _SAME_BASE:
        return math.nan, True
    losses, task_losses = (curve[name].to_numpy(np.float64) for name in ("loss", "task_loss"))
    tuned = other.iloc[-1]
    wanted = np.array(tuned["task_loss"])
    gain = float(loss_at_task_loss(losses, task_losses, wanted) - tuned["loss"])
    return gain, bool(task_losses.min() <= wanted)


def _curve(points: pd.DataFrame, run_id: str) -> pd.DataFrame:
    """Return the points of interpolation on the reported documents, from the base to the tuned model."""
    own = points[
        (points["run_id"] == run_id)
        & (points["remedy"] == _CURVE)
        & (points["share"] == "report")
        & points["control"].isna()
        & ~points["chosen"].fillna(False).astype(bool)
    ]
    curve = own.sort_values("strength")
    is_whole = len(curve) > 1 and curve["strength"].iloc[0] == 0 and curve["strength"].iloc[-1] == 1
    return curve if is_whole else curve.iloc[:0]
