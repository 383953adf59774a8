"""Do intruders predict the loss on pre-training text at equal task score?"""

from __future__ import annotations

import math

import pandas as pd

from ...charts.chart import Axis, Chart, Series
from ...evaluation.intervals import Interval
from ..tables.results import Results
from .claim import Claim, Effect, Finding
from .shared.comparable_runs import LOSS_ALIKE, at_equal_score, finished, numbers, seeds_in, strata
from .shared.pictures import LOSS_CHANGE, Palette, in_order, parts, values
from .shared.statistics import partial_spearman, spearman
from .shared.words import answer, effect, said, seeds_said

CLAIM = Claim(
    name="forgetting",
    title="Forgetting",
    question="Does the number of intruders predict pre-training loss at equal task score?",
    paper=(
        "Among models with the same task score, those with more intruder dimensions model the "
        "pre-training data worse."
    ),
    meaning="the models with more of them forgot more of what they knew before",
    needs=(
        "this needs five settings or more on one base and task that reached one score, with "
        "intruders in some of them, audited and measured by `loss_on`"
    ),
    limits=(
        (
            "A correlation over settings is no cause: methods and ranks with more intruders differ in "
            "other ways too. The analysis of interventions asks for the cause."
        ),
        (
            "The interval takes the seeds of a setting for as much as they differ from one another, "
            "not for further settings."
        ),
        (
            "The update's norm is the Frobenius norm of all updates together. Where it orders the "
            "runs as the intruders do, the two cannot be told apart, and no partial correlation is "
            "given."
        ),
    ),
)


MEASURES = {"intruders": "number of intruders", "intruder_energy_share": "their energy share"}


def analyse(results: Results) -> Finding:
    """Spearman's correlation of intruders and loss change over runs, and with the update's norm held fixed."""
    verdicts: list[str] = []
    leading: list[Effect] = []
    others: list[Effect] = []
    notes: list[str] = []
    points, rows, answers = [], [], []
    seeds = 0
    for stratum in strata(finished(results.runs), LOSS_ALIKE, notes):
        equal = at_equal_score(stratum, notes)
        equal = equal[numbers(equal, "loss_change").notna() & numbers(equal, "intruders").notna()]
        settings = equal["setting"].nunique()
        found = _correlations(equal)
        plain, fixed = found["intruders"]
        if math.isnan(plain.estimate):
            if len(equal):
                notes.append(
                    f"{stratum.label}: no correlation over {len(equal)} runs, which all have the same "
                    "number of "
                    "intruders or the same loss"
                )
            continue
        points.append(equal)
        answers.append(
            answer(
                stratum.label,
                "Spearman of intruders and loss change",
                plain,
                seeds=seeds_in(equal),
                lacking=f"more than {settings} settings",
            )
        )
        seeds = max(seeds, seeds_in(equal))
        leading.append(effect(f"{stratum.label}: Spearman of intruders and loss change", plain))
        for column, name in MEASURES.items():
            rows.append(_row(stratum.base, stratum.task, name, "nothing", found[column][0], equal))
            rows.append(_row(stratum.base, stratum.task, name, "update norm", found[column][1], equal))
            if column != "intruders":
                others.append(
                    effect(f"{stratum.label}: Spearman of {name} and loss change", found[column][0])
                )
            others.append(
                effect(f"{stratum.label}: the same of {name}, update norm held fixed", found[column][1])
            )
        kept = "-" if math.isnan(fixed.estimate) else said(fixed)
        verdicts.append(
            f"{stratum.label}: rank correlation of intruders with pre-training loss {said(plain)}, {kept} "
            "with the "
            f"update's norm held fixed ({settings} settings, {seeds_said(seeds_in(equal))})"
        )
    if not leading:
        return CLAIM.missing(notes)
    together = pd.concat(points)
    return CLAIM.finding(
        verdict="; ".join(verdicts),
        answers=answers,
        effects=leading + others,
        seeds=seeds,
        runs=len(together),
        tables={"Runs": _points(together), "Rank correlations": pd.DataFrame(rows)},
        notes=notes,
    )


def _correlations(runs: pd.DataFrame) -> dict[str, tuple[Interval, Interval]]:
    """By measure of the intruders: plain, and with the update's norm held fixed."""
    change, norm = numbers(runs, "loss_change"), numbers(runs, "update_frobenius")
    groups = runs["setting"].tolist()
    return {
        column: (
            spearman(numbers(runs, column), change, groups),
            partial_spearman(numbers(runs, column), change, [norm], groups),
        )
        for column in MEASURES
    }


def _row(
    base: str, task: str, measure: str, fixed: str, found: Interval, runs: pd.DataFrame
) -> dict[str, object]:
    return {
        "base": base,
        "task": task,
        "measure": measure,
        "held_fixed": fixed,
        "correlation": found.estimate,
        "low": found.low,
        "high": found.high,
        "runs": len(runs),
        "settings": runs["setting"].nunique(),
        "seeds": seeds_in(runs),
    }


def _points(runs: pd.DataFrame) -> pd.DataFrame:
    columns = [
        "base", "task", "described", "method", "rank", "seed", "run_id", "intruders", "vectors",
        "intruder_energy_share", "update_frobenius", "loss_change", "loss_change_low", "loss_change_high",
        "accuracy", "corpus",
    ]  # fmt: skip
    return runs[columns].rename(columns={"described": "setting"}).reset_index(drop=True)


_SIDES = {
    "intruders": ("intruders", "the number of intruders", "intruders of the run"),
    "intruder_energy_share": (
        "energy",
        "their energy share",
        "part of the squared singular values of the top k",
    ),
    "update_frobenius": ("norm", "the size of the update", "Frobenius norm of all updates together"),
}


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """Against the number of intruders, their energy share, and, as the rival explanation, the update's norm."""
    made = []
    for part in parts(finding.tables.get("Runs")):
        for column, (short, what, unit) in _SIDES.items():
            series = [
                Series(
                    str(setting),
                    values(group[column]),
                    values(group["loss_change"]),
                    values(group["loss_change_low"]),
                    values(group["loss_change_high"]),
                    notes=list(group["run_id"]),
                    tone=palette.tone(str(setting)),
                )
                for setting, group in part.rows.groupby("setting", sort=False)
            ]
            made.append(
                Chart(
                    f"forgetting-{short}{part.slug}",
                    part.titled(f"Forgetting over {what}"),
                    Axis(column, unit),
                    LOSS_CHANGE,
                    in_order(series),
                    caption="A point a run, with the 95 % interval over documents.",
                )
            )
    return made
