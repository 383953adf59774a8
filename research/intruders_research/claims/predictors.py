"""Which number of a run predicts what it forgot?"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from intruders.charts.chart import Axis, Chart, Rule
from intruders.measures.intervals import mean_interval
from intruders.studies.results import Results

from .shared.chosen_rates import choices
from .shared.claim import Claim, Finding
from .shared.equal_score import at_equal_score
from .shared.evidence import Evidence
from .shared.pictures import LOSS_CHANGE, Palette, listed, parts, run_points
from .shared.prediction import correlation_difference, held_out_errors
from .shared.seed_tables import seeds_of_settings
from .shared.statistics import partial_spearman, spearman
from .shared.strata import LOSS_ALIKE, Stratum, by_corpus, finished, points_of, strata

CLAIM = Claim(
    name="predictors",
    title="Predictors",
    question="Which number of a run predicts what it forgot?",
    paper=(
        "Forgetting follows the KL divergence to the base on the new task, and weight norms do not explain it "
        "(RL's Razor, arXiv 2509.04259); the paper says that it follows the number of intruder dimensions."
    ),
    meaning="the KL divergence to the base on the task's prompts tells more of forgetting than their number does",
    needs=(
        "this needs five settings or more on one base and task that reached one score, with a loss on text "
        "(`loss_on`) and the KL to the base (`kl_to_base`)"
    ),
    limits=(
        "A correlation over settings is not a cause. Nothing was held fixed but what the text names.",
        (
            "Held-out errors are those of a monotone function that was fitted to the other settings. Settings of "
            "one method at several rates are similar, which makes every prediction easier than that of a new method."
        ),
    ),
)

# Title of the tables that charts draw.
CORRELATIONS, HELD_OUT, RUNS = "Correlations with the loss change", "Errors on held-out settings", "Runs"

# What is measured of a run, and how it is called.
PREDICTORS = {
    "kl_prompts": "KL on prompts",
    "kl_answers": "KL on answers",
    "intruders": "intruders",
    "intruder_energy_share": "energy share",
    "update_frobenius": "update norm",
    "update_output_energy": "output energy",
    "rotation": "rotation",
    "a_movement": "movement of A",
}
_KL, _AGAINST = "kl_prompts", ("intruders", "update_frobenius")
_FEWEST = 5  # settings


class _Comparison(Stratum):
    """The runs of one base, task and corpus that are compared."""

    @property
    def where(self) -> dict[str, Any]:
        return self.on.columns | {"part": self.on.part}

    @property
    def settings(self) -> list[str]:
        return [str(setting) for setting in self.runs["setting"]]

    def column(self, name: str) -> list[float]:
        return [float(value) for value in pd.to_numeric(self.runs[name], errors="coerce")]

    @property
    def known(self) -> list[str]:
        """The predictors that were measured on every run and differ over runs; A's movement of adapters alone."""
        return [
            name
            for name in PREDICTORS
            if self.runs[name].nunique() > 1 and (name == "a_movement" or bool(self.runs[name].notna().all()))
        ]


def analyse(results: Results) -> Finding:
    """Correlate every predictor with the loss change over runs at one score, and compare the KL with the others."""
    evidence = Evidence(CLAIM, results)
    compared: list[_Comparison] = []
    for corpus, runs in by_corpus(results):
        for stratum in strata(finished(runs), LOSS_ALIKE):
            equal = at_equal_score(stratum)
            evidence.notes += equal.notes
            for choice in choices(equal.narrowed(equal.runs.dropna(subset="loss_change")), results.select):
                evidence.notes += choice.notes
                each = _Comparison(choice.on.narrowed(corpus), choice.runs)
                if len(set(each.settings)) >= _FEWEST and _KL in each.known:
                    compared.append(each)
                    _add(evidence, each)
    tables = {}
    if compared:
        tables = {
            CORRELATIONS: pd.DataFrame([row for each in compared for row in _correlations(each)]),
            HELD_OUT: pd.DataFrame([row for each in compared for row in _held_out(each)]),
            RUNS: pd.concat([_points(each) for each in compared], ignore_index=True),
        }
    ids = [run_id for each in compared for run_id in each.runs["run_id"]]
    return evidence.finding(ids, tables)


def _add(evidence: Evidence, each: _Comparison) -> None:
    """Add how much better the KL orders the runs than the intruders and the norm, then every correlation."""
    change, seeds = each.column("loss_change"), seeds_of_settings(each.runs)
    for other in _AGAINST:
        if other not in each.known:
            continue
        difference = correlation_difference(each.column(_KL), each.column(other), change, each.settings)
        what = f"rank correlation with forgetting, {PREDICTORS[_KL]} minus that of {PREDICTORS[other]}"
        evidence.add(
            each.on, what, difference, seeds=seeds, lacking=f"more than {len(set(each.settings))} settings"
        )
    for name in each.known:
        correlation = spearman(each.column(name), change, each.settings)
        what = f"rank correlation of {PREDICTORS[name]} with the loss change"
        evidence.add(each.on, what, correlation, None, seeds=seeds, phrase="")
    # A's movement, which adapters alone have, is predicted on fewer runs: its error is of another comparison.
    on_all = [row for row in _held_out(each) if row["settings"] == len(set(each.settings))]
    best = min(on_all, key=lambda row: float(str(row["error"])), default=None)
    if best is not None:
        evidence.say(
            each.on,
            f"on held-out settings {best['predictor']} predicts best, with a mean error of {best['error']:.3f} nats "
            f"per token against {best['error_of_none']:.3f} of the mean of the others",
        )


def _correlations(each: _Comparison) -> Iterator[dict[str, object]]:
    change = each.column("loss_change")
    for name in each.known:
        plain = spearman(each.column(name), change, each.settings)
        held = partial_spearman(each.column(name), change, [each.column("update_frobenius")], each.settings)
        yield {
            **each.where,
            "predictor": PREDICTORS[name],
            **plain.cells("correlation", "low", "high"),
            **held.cells("norm_held_fixed", "fixed_low", "fixed_high"),
            "runs": int(np.isfinite(each.column(name)).sum()),
        }


def _held_out(each: _Comparison) -> Iterator[dict[str, object]]:
    """Yield the mean error of every predictor over settings, and of predicting the mean of the other settings."""
    change = each.column("loss_change")
    for name in each.known:
        column = each.column(name)
        errors = held_out_errors(column, change, each.settings)
        constant = [0.0 if math.isfinite(value) else math.nan for value in column]
        nothing = held_out_errors(constant, change, each.settings)
        is_known = np.isfinite(errors)
        by_setting = pd.DataFrame(
            {"error": errors, "gain": nothing - errors, "none": nothing, "setting": each.settings}
        )[is_known]
        means = by_setting.groupby("setting").mean()
        yield {
            **each.where,
            "predictor": PREDICTORS[name],
            "error": float(means["error"].mean()),
            "error_of_none": float(means["none"].mean()),
            **mean_interval(means["gain"]).cells("gain", "low", "high"),
            "settings": len(means),
        }


def _points(each: _Comparison) -> pd.DataFrame:
    columns = [
        "described",
        "method",
        "rank",
        "seed",
        "run_id",
        *PREDICTORS,
        "loss_change",
        "accuracy",
        "corpus",
    ]
    return points_of(each.runs, columns).assign(**each.where)


def charts(finding: Finding, palette: Palette) -> Iterator[Chart]:
    """Draw the correlations of all predictors, and the loss change over the KL, the intruders and the norm."""
    for part in parts(finding.tables.get(CORRELATIONS), "base", "task", "part"):
        yield listed(
            f"predictors-correlations{part.slug}",
            part.titled("Rank correlation with the loss change"),
            part.rows.replace([-math.inf, math.inf], math.nan),
            Palette(),
            Axis("correlation", "Spearman's correlation over runs"),
            by="predictor",
            value="correlation",
            low="low",
            high="high",
            rules=[Rule("x", 0.0)],
            caption="Each mark is a predictor, the bar its 95 % interval over settings.",
        )
    for part in parts(finding.tables.get(RUNS), "base", "task", "part"):
        for name in (_KL, *_AGAINST):
            unit = ", nats per token" if name == _KL else ""
            series, note = run_points(part.rows, palette, name, "loss_change")
            yield Chart(
                f"predictors-{name.replace('_', '-')}{part.slug}",
                part.titled(f"Forgetting over {PREDICTORS[name]}"),
                Axis(name, f"{PREDICTORS[name]}{unit}"),
                LOSS_CHANGE,
                series,
                caption=f"Each mark is a run.{note}",
            )
