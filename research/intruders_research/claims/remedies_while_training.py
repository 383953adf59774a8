"""Remedies while training, at equal task loss: what replay or a lower rate gains over a smaller share of the update.

The run without the remedy has a curve of interpolation, measured in its comparison of remedies. The run with it is a
point on the same documents and examples, namely the end of its own curve. Its gain is the loss on the curve at the
point's task loss, minus the point's loss, both as rises over the base's loss on the machine of the run. A run with a
remedy can be turned down as well: the same is reported of the share of its update that its comparison chose, on other
documents and examples than these.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from intruders.experiments.yardstick import loss_at_task_loss
from intruders.measures.intervals import LEVEL, mean_interval
from intruders.studies.compare_settings import settings_in, text_of
from intruders.studies.results import Results

from .remedies_at_equal_task_loss import CURVE, effect_of, reported
from .shared.evidence import Evidence
from .shared.strata import LOSS_ALIKE, SAME_DOCUMENTS, Stratum, finished, strata
from .shared.words import seeds_said

TABLE = "Gain while training at equal task loss"


def add_training_gains(evidence: Evidence, results: Results) -> list[dict[str, object]]:
    """Add what replay and lower rates gain, mean over seeds, for all of one base and task together (Bonferroni).

    They decide nothing unless the study names one in advance. Returns the rows of :data:`TABLE`.
    """
    rows: list[dict[str, object]] = []
    runs = finished(results.runs)
    for stratum in strata(runs[runs["run_id"].isin(results.remedies["run_id"])], LOSS_ALIKE):
        compared = list(_compared(stratum, results.remedies))
        level = 1 - (1 - LEVEL) / max(1, len(compared))
        for name, with_setting, by_seed in compared:
            gains, of_shares = by_seed["at_full"].dropna(), by_seed["of_share"].dropna()
            on = stratum.on.narrowed(with_setting)
            if not by_seed["is_reached"].all():
                evidence.notes.append(
                    f"{on.label}: with {name}, the task loss in {(~by_seed['is_reached']).sum()} of "
                    f"{seeds_said(len(gains))} is below all of the curve of interpolation, whose lowest task loss "
                    "counts there, so these are not at equal task loss"
                )
            what = effect_of(name)
            # The one that was named in advance is not picked from several.
            interval = mean_interval(gains, level=LEVEL if evidence.is_primary(what) else level)
            of_share = mean_interval(of_shares, level=level)
            evidence.add_if_named(on, what, interval)
            rows.append(
                stratum.on.columns
                | {"setting": with_setting, "remedy": name}
                | interval.cells("gain")
                | of_share.cells("gain_of_share")
                | {"seeds": len(gains)}
            )
    return rows


def _compared(stratum: Stratum, points: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield each remedy, the setting that it is compared with, and its gains by seed."""
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
            pairs = start.merge(others, on="seed", suffixes=("", "_after"))
            gains = {
                row.seed: gain
                for row in pairs.itertuples()
                if (gain := _gain(points, row.run_id, row.run_id_after)) is not None
            }
            if gains:
                yield name, str(start["described"].iloc[0]), pd.DataFrame.from_dict(gains, orient="index")


def _gain(points: pd.DataFrame, before: str, after: str) -> dict[str, float | bool] | None:
    """Return what one run gains over another's curve; None if they were not measured on the same documents.

    That is of the trained model and of the chosen share of its update, each NaN where it was not measured, and whether
    the curve has the trained model's task loss.
    """
    curve, other = (_curve(points, run_id) for run_id in (before, after))
    if curve.empty or other.empty:
        return None
    between_bases = float(other["loss"].iloc[0] - curve["loss"].iloc[0])  # of two machines
    if abs(between_bases) >= SAME_DOCUMENTS:
        return None
    losses, task_losses = (curve[name].to_numpy(np.float64) for name in ("loss", "task_loss"))

    def over_the_curve(point: "pd.Series[Any]") -> float:
        on_curve = loss_at_task_loss(losses, task_losses, np.array(point["task_loss"]))
        return float(on_curve - point["loss"]) + between_bases

    tuned, share = other.iloc[-1], _interpolations(points, after, is_chosen=True)
    return {
        "at_full": over_the_curve(tuned),
        "of_share": over_the_curve(share.iloc[0]) if len(share) == 1 else math.nan,
        "is_reached": bool(task_losses.min() <= tuned["task_loss"]),
    }


def _curve(points: pd.DataFrame, run_id: str) -> pd.DataFrame:
    """Return the points of interpolation on the reported documents, from the base to the tuned model."""
    curve = _interpolations(points, run_id, is_chosen=False).sort_values("strength")
    is_whole = len(curve) > 1 and curve["strength"].iloc[0] == 0 and curve["strength"].iloc[-1] == 1
    return curve if is_whole else curve.iloc[:0]


def _interpolations(points: pd.DataFrame, run_id: str, *, is_chosen: bool) -> pd.DataFrame:
    """Return a run's interpolations on the reported documents: the chosen share alone, or those of the curve."""
    own = reported(points[(points["run_id"] == run_id) & (points["remedy"] == CURVE)])
    return own[own["chosen"].fillna(False).astype(bool) == is_chosen]
