"""Does the predicted critical scale separate matrices with and without intruders?"""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from intruders.charts.chart import Axis, Chart, Rule, Series
from intruders.measures.intervals import Interval, mean_interval
from intruders.studies.results import Results
from intruders.system.words import plural

from .shared.claim import Claim, Finding
from .shared.evidence import Evidence
from .shared.pictures import Palette, Part, parts, values
from .shared.seed_tables import complete, noted_complete, seed_table, seeds_in
from .shared.statistics import auc_interval, clipped, moved, spearman
from .shared.strata import MEASURED_ALIKE, Stratum, finished, points_of, strata
from .shared.words import said

CLAIM = Claim(
    name="threshold",
    title="Threshold",
    question="Does the predicted critical scale separate matrices with and without intruders?",
    paper=(
        "From the base's spectrum and the update's largest singular value the spiked-matrix "
        "threshold predicts which updates are too large for their matrix, better than chance "
        "(arXiv 2607.23711, which found its scales within a factor of two on 82 % of layers)."
    ),
    meaning=(
        "the base's spectrum and the update's largest singular value predict how far an update can be scaled before "
        "they appear"
    ),
    needs=(
        "this needs finished, audited runs with `measure: critical_scale`, where some matrices have "
        "intruders and some have none"
    ),
    limits=(
        (
            "The prediction takes the update's largest singular value and nothing of its directions; a trained "
            "update follows the base more than a random one."
        ),
        (
            "Scales within a factor of two and their rank correlation are over matrices whose scale was found "
            "by the search; it ends at 64 times the predicted one."
        ),
        "Intervals are over runs: matrices of one run are not independent.",
    ),
)


def analyse(results: Results) -> Finding:
    """Compare predicted scales with intruders (AUC) and with measured scales (factor of two, rank correlation)."""
    runs = finished(results.runs)
    known = results.matrices.drop(columns=["kind"]).merge(
        runs[["run_id", "base", "task", "described", "setting", "seed", *MEASURED_ALIKE]], on="run_id"
    )
    known = known[known["predicted_scale"].notna() & known["intruders"].notna()]
    known["ratio"] = known["predicted_scale"] / known["critical_scale"].where(
        lambda scale: np.isfinite(scale)
    )
    evidence = Evidence(CLAIM, results)
    rows = []
    for stratum in strata(known, MEASURED_ALIKE):
        evidence.notes += stratum.notes
        rows.append(_add(evidence, stratum))
    matrices = points_of(known, _OF_MATRICES).rename(columns={"name": "matrix"})
    return evidence.finding(known["run_id"], {"Agreement": pd.DataFrame(rows), "Matrices": matrices})


def _add(evidence: Evidence, stratum: Stratum) -> dict[str, object]:
    """Add how well the prediction separates a stratum's matrices and matches their scales; return it as a row."""
    matrices = stratum.runs
    has = matrices["intruders"] > 0
    # Zero and infinity, a matrix in which no scale of the update gives an intruder, are ranked like others.
    score = -np.log(matrices["predicted_scale"].clip(1e-300, 1e300))
    area = auc_interval(score, has.tolist(), matrices["run_id"].tolist())
    # The update's largest singular value over the base's: what sorts the matrices without the base's spectrum.
    baseline = auc_interval(matrices["relative_update"], has.tolist(), matrices["run_id"].tolist())
    within, correlation, left_out = _agreement(matrices, stratum.label)
    evidence.notes += left_out
    runs, seeds = matrices["run_id"].nunique(), seeds_in(matrices)
    if math.isnan(area.estimate):
        evidence.notes.append(
            f"{stratum.label}: {'all' if has.all() else 'none'} of the {len(matrices)} matrices have "
            "intruders, so that there is nothing to separate"
        )
    else:
        what = "AUC of the predicted scale, above the 0.5 of chance"
        phrase = f"AUC {said(area, signed=False)} over {plural(runs, 'run')}"
        lacking = "more runs with intruders in some matrices"
        evidence.add(stratum.on, what, moved(area, -0.5), phrase=phrase, seeds=seeds, lacking=lacking)
        what = "AUC of the relative update, above the 0.5 of chance"
        phrase = f"AUC of the relative update alone {said(baseline, signed=False)}"
        evidence.add(stratum.on, what, moved(baseline, -0.5), None, phrase=phrase)
        what = "share of matrices predicted within a factor of two"
        phrase = f"{100 * within.estimate:.0f} % within a factor of two"
        evidence.add(stratum.on, what, within, None, phrase=phrase)
        what = "rank correlation of predicted and measured scale"
        evidence.add(stratum.on, what, correlation, None, phrase=f"rank correlation {said(correlation)}")
    rule = ((matrices["predicted_scale"] <= 1) == has).groupby(matrices["run_id"]).mean()
    return stratum.on.columns | {
        **area.cells("auc"),
        **baseline.cells("auc_of_relative_update"),
        "rule_agrees": float(rule.mean()),
        "with_intruders": int(has.sum()),
        "predicted_of_these": float((matrices.loc[has, "predicted_scale"] <= 1).mean()),
        "without": int((~has).sum()),
        "predicted_none_of_these": float((matrices.loc[~has, "predicted_scale"] > 1).mean()),
        **within.cells("within_factor_two", "within_low", "within_high"),
        **correlation.cells("rank_correlation", "correlation_low", "correlation_high"),
        "runs": runs,
        "seeds": seeds,
    }


def _agreement(matrices: pd.DataFrame, label: str) -> tuple[Interval, Interval, list[str]]:
    """Return the share within a factor of two and the rank correlation, means over runs; and notes."""
    both = matrices.dropna(subset=["ratio"])
    rows = [
        {
            **group[["seed", "setting"]].iloc[0],
            "within": float(group["ratio"].between(0.5, 2).mean()),
            "correlation": spearman(
                group["predicted_scale"], group["critical_scale"], list(group.index)
            ).estimate,
        }
        for _, group in both.groupby("run_id")
    ]
    frame = pd.DataFrame(rows, columns=["seed", "setting", "within", "correlation"])
    # One matrix of one seed: a mean over settings moves by one of the seed's matrices at least.
    grain = frame["seed"].nunique() / max(1, len(both))
    table, notes = noted_complete(seed_table(frame, "within"), f"{label}, share within a factor of two")
    within = mean_interval(table.mean(axis=1), grain=grain)
    correlation = mean_interval(complete(seed_table(frame, "correlation")).mean(axis=1))
    return clipped(within, 0, 1), clipped(correlation, -1, 1), notes


_OF_MATRICES = [
    "base", "task", "described", "seed", "run_id", "name", "intruders", "predicted_scale", "critical_scale", "ratio"
]  # fmt: skip
MOST_POINTS = 1500  # of one chart; the table has all

_PREDICTED = Axis("predicted_scale", "predicted critical scale", log=True)

_GROUPS = ((False, "without intruders as tuned", 0), (True, "with intruders as tuned", 1))


def charts(finding: Finding, palette: Palette) -> Iterator[Chart]:
    """Draw predicted against measured scales, and how well the prediction separates the matrices (ROC)."""
    for part in parts(finding.tables.get("Matrices")):
        known = part.rows[part.rows["predicted_scale"] > 0]
        measured = known[np.isfinite(known["critical_scale"]) & (known["critical_scale"] > 0)]
        if len(measured):
            yield _chart_agreement(part, measured)
        yield from _sorting(part, part.rows)  # all that the AUC ranks: a predicted scale of zero among them


def _chart_agreement(part: Part, rows: pd.DataFrame) -> Chart:
    shown, what = rows, f"{len(rows):,} matrices"
    if len(rows) > MOST_POINTS:  # evenly from all
        shown = rows.iloc[np.linspace(0, len(rows) - 1, MOST_POINTS).astype(int)]
        what = f"{MOST_POINTS:,} of {what}"
    series = []
    for has, name, tone in _GROUPS:
        group = shown[(shown["intruders"] > 0) == has]
        if len(group):
            notes = [f"{run}, {matrix}" for run, matrix in zip(group["run_id"], group["matrix"], strict=True)]
            series.append(
                Series(
                    name,
                    values(group["predicted_scale"]),
                    values(group["critical_scale"]),
                    tone=tone,
                    notes=notes if len(shown) <= 500 else None,
                    faint=len(shown) > 100,
                )
            )
    return Chart(
        f"threshold-agreement{part.slug}",
        part.titled("Critical scale, predicted and measured"),
        _PREDICTED,
        Axis("critical_scale", "measured critical scale", log=True),
        series,
        [Rule("diagonal", label="equal")],
        caption=f"Multiples of the update at which the first intruder appears, {what}; equal on the dashed line.",
    )


def _sorting(part: Part, rows: pd.DataFrame) -> Iterator[Chart]:
    """Draw the true over the false positive rate as the threshold on the predicted scale rises."""
    has = (rows["intruders"] > 0).to_numpy()
    if has.all() or not has.any():
        return
    predicted = rows["predicted_scale"].to_numpy()
    steps = np.unique(predicted)
    if len(steps) > 200:
        # Scales that there are: between two infinite ones nothing can be interpolated.
        steps = np.quantile(predicted, np.linspace(0, 1, 201), method="inverted_cdf")
    hits = [0.0, *(float((predicted[has] <= step).mean()) for step in steps)]
    alarms = [0.0, *(float((predicted[~has] <= step).mean()) for step in steps)]
    yield Chart(
        f"threshold-roc{part.slug}",
        part.titled("Matrices sorted by the prediction"),
        Axis("false_positive_rate", "part of the matrices without intruders", limits=(0, 1.01)),
        Axis("true_positive_rate", "part of those with intruders", limits=(0, 1.01)),
        [
            Series("predicted scale below a threshold", alarms, hits, look="line", tone=1,
                   notes=["", *(f"threshold {step:.3g}" for step in steps)])
        ],
        [Rule("diagonal", label="chance")],
        caption="How many matrices of either kind lie below a threshold on the predicted scale, as it rises; "
        "the dashed line is chance.",
    )  # fmt: skip
