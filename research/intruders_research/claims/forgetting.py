"""Do intruders predict the loss on pre-training text at equal task score?"""

import math
from collections.abc import Iterator

import pandas as pd

from intruders.charts.chart import Axis, Chart
from intruders.measures.intervals import Interval
from intruders.studies.results import Results

from .shared.chosen_rates import Choice, choices
from .shared.claim import Claim, Finding, Where
from .shared.equal_score import at_equal_score
from .shared.evidence import Evidence
from .shared.pictures import LOSS_CHANGE, Palette, parts, run_points
from .shared.seed_tables import seeds_of_settings
from .shared.statistics import partial_spearman, spearman
from .shared.strata import LOSS_ALIKE, by_corpus, finished, points_of, strata
from .shared.words import said

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
        "this needs five settings or more on one base and task that reached one score, with intruders in "
        "some of them, audited and measured by `loss_on`"
    ),
    limits=(
        (
            "A correlation over settings does not prove a cause: methods and ranks with more intruders differ "
            "in other ways too. The analysis of interventions asks for the cause."
        ),
        (
            "The interval takes the seeds of a setting for as much as they differ from one another, not for "
            "further settings."
        ),
        (
            "The update's norm is the Frobenius norm of all updates together, its output energy the mean of "
            "||D h||^2 / ||W0 h||^2 over matrices and base inputs h. Where one orders the runs as the intruders do, "
            "the two cannot be told apart, and no partial correlation is given."
        ),
    ),
)


MEASURES = {"intruders": "number of intruders", "intruder_energy_share": "their energy share"}
# What else could explain the loss, held fixed one at a time and together.
CONTROLS = {
    "update norm": ("update_frobenius",),
    "output energy": ("update_output_energy",),
    "update norm and output energy": ("update_frobenius", "update_output_energy"),
}


def analyse(results: Results) -> Finding:
    """Correlate intruders with the loss change over runs (Spearman), also with the update's size held fixed."""
    evidence = Evidence(CLAIM, results)
    points, rows = [finished(results.runs).iloc[:0]], []
    for corpus, runs in by_corpus(results):
        for stratum in strata(finished(runs), LOSS_ALIKE):
            equal = at_equal_score(stratum)
            evidence.notes += equal.notes
            measured = equal.runs.dropna(subset=["loss_change", "intruders"])
            for choice in choices(equal.narrowed(measured), results.select):
                evidence.notes += choice.notes
                on = choice.on.narrowed(corpus)
                correlations = {column: _correlations(choice.runs, column) for column in MEASURES}
                if not math.isnan(correlations["intruders"]["nothing"].estimate):
                    points.append(choice.runs)
                    rows += _rows(choice, correlations)
                    _add(evidence, on, choice.runs, correlations)
                elif len(choice.runs):
                    evidence.notes.append(
                        f"{on.label}: no correlation over {len(choice.runs)} runs, which all have the "
                        "same number of intruders or the same loss"
                    )
    together = pd.concat(points)
    tables = {"Runs": _points(together), "Rank correlations": pd.DataFrame(rows)}
    return evidence.finding(together["run_id"], tables)


def _add(
    evidence: Evidence, on: Where, runs: pd.DataFrame, correlations: dict[str, dict[str, Interval]]
) -> None:
    """Add the correlation that the claim speaks of, then those with a control held fixed."""
    settings, seeds = runs["setting"].nunique(), seeds_of_settings(runs)
    of_count = dict(correlations["intruders"])
    plain = of_count.pop("nothing")
    text = f"rank correlation of intruders with pre-training loss {said(plain)} over {settings} settings"
    for fixed, correlation in of_count.items():
        text += f", {said(correlation)} with the {_THE.get(fixed, fixed)} held fixed"
    lacking = f"more than {settings} settings"
    what = "Spearman of intruders and loss change"
    evidence.add(on, what, plain, seeds=seeds, lacking=lacking, phrase=text)
    others = correlations | {"intruders": of_count}
    for column, name in MEASURES.items():
        for fixed, correlation in others[column].items():
            what = f"Spearman of {name} and loss change"
            what += "" if fixed == "nothing" else f", {fixed} held fixed"
            evidence.add(on, what, correlation, None, phrase="", seeds=seeds)


_THE = {"update norm": "update's norm", "output energy": "update's output energy"}


def _correlations(runs: pd.DataFrame, column: str) -> dict[str, Interval]:
    """Return the correlations by what is held fixed: nothing, and every control that was measured."""
    change, groups = runs["loss_change"], runs["setting"].tolist()
    correlations = {"nothing": spearman(runs[column], change, groups)}
    for name, columns in CONTROLS.items():
        controls = [runs[control] for control in columns]
        if name == "update norm" or all(bool(control.notna().any()) for control in controls):
            correlations[name] = partial_spearman(runs[column], change, controls, groups)
    return correlations


def _rows(choice: Choice, correlations: dict[str, dict[str, Interval]]) -> list[dict[str, object]]:
    runs = choice.runs
    return [
        {
            **choice.on.columns,
            "corpus": runs["corpus"].iloc[0],
            "rates": choice.name or "all",
            "measure": measure,
            "held_fixed": fixed,
            **correlation.cells("correlation", "low", "high"),
            "runs": len(runs),
            "settings": runs["setting"].nunique(),
            "seeds": seeds_of_settings(runs),
        }
        for column, measure in MEASURES.items()
        for fixed, correlation in correlations[column].items()
    ]


def _points(runs: pd.DataFrame) -> pd.DataFrame:
    columns = [
        "base", "task", "described", "method", "rank", "seed", "run_id", "intruders", "vectors",
        "intruder_energy_share", "update_frobenius", "update_output_energy", "loss_change", "loss_change_low",
        "loss_change_high", "accuracy", "corpus",
    ]  # fmt: skip
    return points_of(runs.drop_duplicates(["run_id", "corpus"]), columns)


_SIDES = {
    "intruders": ("intruders", "the number of intruders", "intruders of the run"),
    "intruder_energy_share": (
        "energy",
        "their energy share",
        "part of the squared singular values of the top k",
    ),
    "update_frobenius": ("norm", "the size of the update", "Frobenius norm of all updates together"),
    "update_output_energy": (
        "output",
        "the output energy of the update",
        "mean squared output of the update over that of the base",
    ),
}


def charts(finding: Finding, palette: Palette) -> Iterator[Chart]:
    """Draw the loss change over the intruder count, their energy share, and the update's norm and output energy."""
    table = finding.tables.get("Runs")
    several = table is not None and table["corpus"].nunique() > 1
    for part in parts(table, "base", "task", *["corpus"] * several):
        for column, (short, what, unit) in _SIDES.items():
            if not bool(part.rows[column].notna().any()):
                continue
            series, note = run_points(
                part.rows, palette, column, "loss_change", low="loss_change_low", high="loss_change_high"
            )
            yield Chart(
                f"forgetting-{short}{part.slug}",
                part.titled(f"Forgetting over {what}"),
                Axis(column, unit),
                LOSS_CHANGE,
                series,
                caption=f"A point a run, with the 95 % interval over documents.{note}",
            )
