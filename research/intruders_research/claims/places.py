"""Do intruders sit in the matrices in which forgetting sits?"""

from collections.abc import Iterator

import pandas as pd

from intruders.charts.chart import Axis, Chart, Rule
from intruders.measures.intervals import mean_interval
from intruders.studies.results import Results

from .shared.claim import Claim, Finding
from .shared.equal_score import without_missed
from .shared.evidence import Evidence
from .shared.pictures import Palette, listed, parts
from .shared.seed_tables import seeds_of_settings
from .shared.statistics import ratio_interval
from .shared.strata import LOSS_ALIKE, Stratum, finished, strata
from .shared.words import said

CLAIM = Claim(
    name="places",
    title="Places",
    question="Do intruders sit in the matrices in which forgetting sits?",
    paper="Intruder dimensions cause forgetting, so the matrices that have them are those that cost the loss.",
    meaning="the matrices with intruders are those that cost the loss on text",
    needs=(
        "this needs four settings or more with intruders in some of their matrices, whose loss was split over the "
        "matrices (`measure: attribute`)"
    ),
    limits=(
        "Parts of the rise are those along the straight line from base to tuned. Another path splits it otherwise.",
        "Models without intruders have no correlation and are left out; the text says how many.",
        "Matrices of one kind may have both more intruders and larger parts for reasons of their shape.",
    ),
)

TABLE = "Correlations over matrices"
_FEWEST = 4  # settings with intruders; the interval of fewer decides nothing
# What a matrix's part of the rise is correlated with: the column, and how it is called.
_WITH = {"intruders": "intruders", "frobenius": "update norm"}


def analyse(results: Results) -> Finding:
    """Correlate the parts of a model's loss rise with intruders over its matrices; the mean is over settings."""
    evidence = Evidence(CLAIM, results)
    rows: list[dict[str, object]] = []
    runs = finished(results.runs)
    for stratum in strata(runs[runs["run_id"].isin(results.attributions["run_id"])], LOSS_ALIKE):
        reached = without_missed(stratum)
        evidence.notes += reached.notes
        of_runs = [*_rows(reached, results.attributions)]
        rows += of_runs
        if of_runs:
            _add(evidence, stratum, pd.DataFrame(of_runs))
    table = pd.DataFrame(rows)
    return evidence.finding([row["run_id"] for row in rows], {TABLE: table})


def _rows(stratum: Stratum, attributions: pd.DataFrame) -> Iterator[dict[str, object]]:
    for row in stratum.runs.itertuples():
        own = attributions[attributions["run_id"] == row.run_id]
        yield stratum.on.columns | {
            "setting": row.described,
            "seed": row.seed,
            "run_id": row.run_id,
            "corpus": own["corpus"].iloc[0],
            "rise": float(own["rise"].iloc[0]),
            "intruders": int(own["intruders"].sum()),
            **{
                f"correlation_{name}": own[["part", name]].corr("spearman").loc["part", name]
                for name in _WITH
            },
            "rise_inside": float(own["part_of_intruders"].sum(min_count=1)),
            "matrices": len(own),
        }


def _add(evidence: Evidence, stratum: Stratum, rows: pd.DataFrame) -> None:
    """Add the mean correlations over settings, each the mean of its seeds."""
    has = rows[rows["correlation_intruders"].notna()]
    evidence.notes.append(
        f"{stratum.label}: {len(has)} of {len(rows)} models have intruders in some of their matrices"
    )
    if has.empty:
        return
    seeds = seeds_of_settings(has)
    over = f"{has['setting'].nunique()} settings"
    for name, called in _WITH.items():
        # A model without intruders says nothing of them, but of the norm.
        known = has if name == "intruders" else rows[rows[f"correlation_{name}"].notna()]
        mean = mean_interval(known.groupby("setting")[f"correlation_{name}"].mean())
        if known["setting"].nunique() < _FEWEST:
            mean = mean.opened()
        evidence.add(
            stratum.on,
            f"rank correlation of forgetting and {called} over matrices",
            mean,
            1 if name == "intruders" else None,
            seeds=seeds,
            lacking="more settings with intruders",
            phrase=f"over matrices, forgetting and {called} have a rank correlation of {said(mean)}"
            + (f" (mean over {over})" if name == "intruders" else ""),
        )
    # Of sums: the share of a single model has no meaning where its loss hardly rose.
    means = has.groupby("setting")[["rise_inside", "rise"]].mean()
    share = ratio_interval(means["rise_inside"], means["rise"])
    evidence.add(
        stratum.on,
        "share of the loss rise inside the intruders' span",
        share,
        None,
        seeds=seeds,
        phrase=f"{said(share)} of the rise is inside the intruders' span",
    )


def charts(finding: Finding, palette: Palette) -> Iterator[Chart]:
    """Draw the correlation of every setting, mean over its seeds."""
    column = "correlation_intruders"
    for part in parts(finding.tables.get(TABLE)):
        rows = part.rows.groupby("setting")[column].mean().dropna().reset_index()
        if len(rows):
            yield listed(
                f"places-correlations{part.slug}",
                part.titled("Forgetting and intruders over matrices"),
                rows,
                palette,
                Axis(column, "Spearman's correlation over the matrices of a model"),
                value=column,
                rules=[Rule("x", 0.0)],
                caption="Each mark is a setting, mean over its seeds.",
            )
