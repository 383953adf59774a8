"""Do the intruders cause the forgetting?"""

import math
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from intruders.charts.chart import Axis, Chart, Rule
from intruders.measures.intervals import Interval, mean_interval
from intruders.mitigation.remedies.remedy_table import CONTROL_NAMES, INTRUDERS
from intruders.studies.results import Results

from .shared.claim import Claim, Finding, Where
from .shared.evidence import Evidence
from .shared.pictures import Palette, Part, lines, parts, slug
from .shared.seed_tables import complete, seeds_in
from .shared.strata import MEASURED_ALIKE, finished, per_setting, strata
from .shared.words import NOT_MEASURED, said

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
    if is_top.any():  # an empty column is of numbers
        points.loc[is_top, "described"] += OF_TOP
    evidence = Evidence(CLAIM, results)
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
    return evidence.finding(points["run_id"], {TABLE: pd.DataFrame(_by_scale(points))})


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


def _add_corpus(evidence: Evidence, on: Where, changes: dict[str, Interval]) -> None:
    """Add the losses on one corpus: under scaled intruders, and under each control against that."""
    loss, resized = changes.pop(INTRUDERS), changes.pop(RESIZED)
    what = "loss change, intruders scaled down"
    phrase = f"loss change with the intruders scaled down {said(loss, 3)}"
    phrase += f" over {_over(loss)}" if _over(loss) else ""
    evidence.add(on, what, loss, expected=-1, digits=3, phrase=phrase, over=_over(loss))
    rivals = {control: change for control, change in changes.items() if not math.isnan(change.estimate)}
    for control, change in rivals.items():
        name = CONTROL_NAMES.get(control, control)
        what = f"loss under {name} minus that under the intruders"
        phrase = f"{name} minus that {said(change, 3)}"
        evidence.add(on, what, change, digits=3, phrase=phrase, over=_over(change))
    if not rivals:
        evidence.add(on, "loss under a control minus that", NOT_MEASURED, phrase="", lacking="controls")
        evidence.notes.append(f"{on.label}: no controls were measured, so that no cause can be told")
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


def _by_scale(points: pd.DataFrame) -> Iterator[dict[str, object]]:
    keys = ["measure", "on", "control", "scale"]
    # A hundred groups: with all columns of the runs, most of the time would go into copies of what is not looked at.
    runs, measured = ["seed", "setting", "run_id"], ["value", "base_value"]
    changes = [f"{name}{end}" for name in ("change", "against_intruders") for end in ("", "_low", "_high")]
    known = points[["base", "task", "described", *keys, *runs, *measured, *changes]]
    for setting, group in per_setting(known, *keys):
        yield setting | {
            "value": group["value"].mean(),
            "base_value": group["base_value"].mean(),
            **_change(group, "change").cells("change", "low", "high"),
            **_change(group, "against_intruders").cells("against_intruders", "against_low", "against_high"),
            "seeds": seeds_in(group),
        }


_NAMES = {
    "intruders": "the intruders",
    "shrink": "control: complete update, same norm",
    "shrink-output": "control: complete update, same output",
    "random": "control: random other vectors",
    "neighbours": "control: neighboring vectors",
    "update": "control: directions of the update",
    "complement": "control: rest of the update, same norm",
    "resized": "the intruders, at the update's own norm",
}

_TITLES = {
    "loss": "Pre-training loss",
    "accuracy": "Task accuracy",
    "gain": "Gain over interpolation at equal task loss",
}

_UNITS = {"loss": "loss change, nats/token", "accuracy": "accuracy change", "gain": "gain, nats/token"}

_MOST_SETTINGS = 4  # of one base and task; the table has all


def charts(finding: Finding, palette: Palette) -> Iterator[Chart]:
    """Draw the change over the scale, one line per control, for the settings that forgot most."""
    own = Palette()  # controls are no settings
    for stratum in parts(finding.tables.get(TABLE)):
        for setting in _forgot_most(stratum.rows):
            of_setting = stratum.rows[stratum.rows["setting"] == setting]
            for part in parts(of_setting.sort_values("measure", ascending=False), "measure", "on"):
                yield _chart(part, stratum, own)  # loss before accuracy


def _chart(part: Part, stratum: Part, palette: Palette) -> Chart:
    first = part.rows.iloc[0]
    measure = str(first["measure"])
    # The tuned model's value: at scale 1, or what other rows say that they changed from.
    tuned = float((part.rows["value"] - part.rows["change"]).mean())
    whole = float(first["base_value"]) - tuned
    is_loss = measure == "loss" and math.isfinite(whole)
    return Chart(
        f"intervention{stratum.slug}{slug(str(first['setting']))}-{measure}{slug(str(first['on']))}",
        stratum.titled(f"{_TITLES.get(measure, measure)} on {first['on']}, {first['setting']}"),
        Axis("scale", "scale (1: as tuned, 0: removed)"),
        Axis(f"{measure}_change", _UNITS.get(measure, measure)),
        lines(_from_tuned(part.rows), palette, "scale", "change", name="what", low="low", high="high"),
        [Rule("y", 0.0), Rule("y", whole, "as low as the base")] if is_loss else [Rule("y", 0.0)],
        caption="Against the tuned model; intervals over seeds, where there are several.",
    )


def _forgot_most(rows: pd.DataFrame) -> list[str]:
    """Return the settings with the largest rise of the loss over the base, the largest first."""
    losses = rows[rows["measure"] == "loss"]
    risen = (losses["value"] - losses["change"] - losses["base_value"]).groupby(losses["setting"]).max()
    known = list(risen.sort_values(ascending=False).index)
    return (known or list(dict.fromkeys(rows["setting"])))[:_MOST_SETTINGS]


def _from_tuned(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of every control with their common point: at scale 1 nothing is changed."""
    named = rows.assign(what=[_NAMES.get(control, control) for control in rows["control"]])
    named = named[named["scale"] != 1]
    start = pd.DataFrame(
        {"what": list(dict.fromkeys(named["what"])), "scale": 1.0, "change": 0.0, "low": 0.0, "high": 0.0}
    )
    order = {name: i for i, name in enumerate(_NAMES.values())}
    whole = pd.concat([named, start], ignore_index=True)
    return whole.sort_values("what", key=lambda names: names.map(order), kind="stable")
