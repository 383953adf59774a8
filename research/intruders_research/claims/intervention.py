"""Do the intruders cause the forgetting?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from intruders.measures.intervals import Interval, mean_interval
from intruders.mitigation.remedies.remedy_table import CONTROL_NAMES, INTRUDERS
from intruders.studies.results import Results

from .intervention_charts import charts
from .shared.claim import Claim, Finding, Where
from .shared.evidence import Evidence
from .shared.seed_tables import complete, seeds_in
from .shared.strata import MEASURED_ALIKE, finished, strata
from .shared.words import NOT_MEASURED, said

__all__ = ["CLAIM", "analyse", "charts"]

CLAIM = Claim(
    name="intervention",
    title="Intervention",
    question="Do intruders cause the forgetting?",
    paper=(
        "Scaling the intruder dimensions down lowers the pre-training loss, and by more than the same "
        "done to anything else; its cost in task accuracy is listed with it."
    ),
    meaning=(
        "scaling the intruders down reduced forgetting more than every control did, at the accuracy cost listed below"
    ),
    needs="this needs finished runs with intruders and `measure: intervene` with `loss_on`",
    limits=(
        "Changes are means over all scales below 1 that were measured, so that no scale is chosen after looking.",
        "A control that does as well leaves open whether it is the intruders or the size of the change that matters.",
    ),
)


# Title of a table that others read.
TABLE = "By scale"
# The intruders scaled and the update brought back to its norm: no rival, but the intervention without the shrinking.
RESIZED = "resized"
# What is added to a setting of which only the strongest intruder of each matrix was scaled.
OF_TOP = ", top intruders"


def analyse(results: Results) -> Finding:
    """Measure the loss change with scaled intruders, and how much higher the loss is under each control."""
    runs = finished(results.runs)
    columns = ["run_id", "base", "task", "seed", "setting", "described"]
    points = results.interventions.merge(runs[columns + list(MEASURED_ALIKE)], on="run_id")
    points["which"] = points["which"].fillna("all")
    is_top = points["which"] == "top"
    if is_top.any():
        points.loc[is_top, "described"] += OF_TOP
    evidence = Evidence(results.primary.get(CLAIM.name, ""))
    for stratum in strata(points, (*MEASURED_ALIKE, "which")):
        evidence.notes += stratum.notes
        below = stratum.runs[stratum.runs["scale"] < 1]
        losses = below[below["measure"] == "loss"]
        is_known = False
        for corpus in losses["on"].dropna().unique():
            changes = _on_corpus(losses, corpus)
            if not math.isnan(changes[INTRUDERS].estimate):
                is_known = True
                _add_corpus(evidence, stratum.on.narrowed(str(corpus)), changes)
        if is_known:  # the task is the same for all corpora
            _add_task(evidence, stratum.on, below[below["control"] == INTRUDERS])
    scaled = runs["run_id"].isin(results.interventions["run_id"])
    without = int(((runs["intruders"] == 0) & ~scaled).sum())
    if without:
        evidence.notes.append(
            f"{without} finished runs have no intruders, so that there was nothing to scale"
        )
    return evidence.finding(CLAIM, runs=points["run_id"], tables={TABLE: _by_scale(points)})


def _on_corpus(losses: pd.DataFrame, corpus: str) -> dict[str, Interval]:
    """Return the loss change of the intruders and the resized ones, and each control's loss minus the intruders'."""
    of_corpus = losses[losses["on"] == corpus]
    known = sorted(of_corpus["control"].dropna().unique())
    columns = dict.fromkeys([INTRUDERS, *CONTROL_NAMES, *known], "against_intruders")
    columns |= {INTRUDERS: "change", RESIZED: "change"}
    return {
        control: _change(of_corpus[of_corpus["control"] == control], column)
        for control, column in columns.items()
    }


def _add_corpus(evidence: Evidence, on: Where, changes: Mapping[str, Interval]) -> None:
    """Add the losses on one corpus: under scaled intruders, and under each control against that."""
    loss = changes[INTRUDERS]
    what = "loss change, intruders scaled down"
    phrase = f"loss change with the intruders scaled down {said(loss, 3)}{_said_over(loss)}"
    evidence.add(on, what, loss, expected=-1, digits=3, phrase=phrase, over=_over(loss))
    rivals = [control for control in changes if control not in (INTRUDERS, RESIZED)]
    measured = [control for control in rivals if not math.isnan(changes[control].estimate)]
    for control in measured:
        name, change = CONTROL_NAMES.get(control, control), changes[control]
        what = f"loss under {name} minus that under the intruders"
        phrase = f"{name} minus that {said(change, 3)}"
        evidence.add(on, what, change, digits=3, phrase=phrase, over=_over(change))
    if not measured:
        evidence.add(on, "loss under a control minus that", NOT_MEASURED, phrase="", lacking="controls")
        evidence.notes.append(f"{on.label}: no controls were measured, so that no cause can be told")
    resized = changes[RESIZED]
    if not math.isnan(resized.estimate):
        what = "loss change, intruders scaled down at the update's norm"
        phrase = f"at the update's own norm {said(resized, 3)}"
        evidence.add(on, what, resized, expected=-1, digits=3, phrase=phrase, over=_over(resized))


def _add_task(evidence: Evidence, on: Where, points: pd.DataFrame) -> None:
    """Add the accuracy, and the gain of scaled intruders over scaling the complete update by one factor."""
    points_lost = _change(points[points["measure"] == "accuracy"], "change").times(100)
    if not math.isnan(points_lost.estimate):
        what = "accuracy change in points, intruders scaled down"
        phrase = f"task accuracy {said(points_lost, 1)} points"
        evidence.add(on, what, points_lost, None, digits=1, phrase=phrase)
    gain = _change(points[points["measure"] == "gain"], "change")
    if not math.isnan(gain.estimate):
        what = "gain over interpolation at equal task loss"
        phrase = f"{what} {said(gain, 3)}"
        evidence.add(on, f"{what}, intruders scaled down", gain, None, 3, phrase=phrase, over=_over(gain))


def _over(change: Interval) -> str:
    """Return what an interval of :func:`_change` is over, if not seeds; else an empty text."""
    return "documents" if change.n == 1 and change.has_ends else ""


def _said_over(change: Interval) -> str:
    return f" over {_over(change)}" if _over(change) else ""


def _change(points: pd.DataFrame, column: str) -> Interval:
    """Average over scales, then settings, then seeds, with an interval over seeds.

    With one seed, the interval is over documents: the mean of the ends at each scale, as if all scales erred together,
    since all use the same documents.
    """
    known = points[points[column].notna()]
    if known.empty:
        return NOT_MEASURED
    per_run = known.groupby(["seed", "setting", "run_id"])[column].mean()
    table = complete(per_run.groupby(["seed", "setting"]).mean().unstack("setting"))
    over_seeds = mean_interval(table.mean(axis=1))
    if len(table) != 1:
        return over_seeds
    kept = known[known["setting"].isin(table.columns) & known["seed"].isin(table.index)]
    over_documents = replace(
        over_seeds, low=float(kept[f"{column}_low"].mean()), high=float(kept[f"{column}_high"].mean())
    )
    return over_documents if over_documents.has_ends else over_seeds


def _by_scale(points: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    keys = ["base", "task", "described", "measure", "on", "control", "scale"]
    # A hundred groups: with all columns of the runs, most of the time would go into copies of what is not looked at.
    runs, measured = ["seed", "setting", "run_id"], ["value", "base_value"]
    changes = [f"{name}{end}" for name in ("change", "against_intruders") for end in ("", "_low", "_high")]
    for values, group in points[[*keys, *runs, *measured, *changes]].groupby(keys):
        change = _change(group, "change")
        against = _change(group, "against_intruders")
        rows.append(
            {
                **dict(zip(["base", "task", "setting", *keys[3:]], values, strict=True)),
                "value": group["value"].mean(),
                "base_value": group["base_value"].mean(),
                **change.columns("change"),
                **against.columns("against_intruders", "against_"),
                "seeds": seeds_in(group),
            }
        )
    return pd.DataFrame(rows)
