"""When in training do intruders appear, and how do their singular values grow?"""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from intruders.charts.chart import Axis, Chart, Rule
from intruders.measures.intervals import mean_interval
from intruders.studies.results import Results

from .shared.claim import Claim, Finding
from .shared.evidence import Evidence
from .shared.pictures import Palette, in_order, lines, parts
from .shared.seed_tables import complete, one_in_100, seed_table
from .shared.statistics import clipped
from .shared.strata import audits_during, finished, per_setting, points_of, strata
from .shared.words import said

CLAIM = Claim(
    name="dynamics",
    title="During training",
    question="When in training do intruders appear, and how do their singular values grow?",
    paper=(
        "Intruder dimensions appear in the course of fine-tuning, become more, and their singular values "
        "grow."
    ),
    meaning="they appear in the course of training and grow",
    needs="this needs finished runs with `audit_steps`, at least two audits of each, and intruders in some",
    limits=(
        "The singular value is that of a matrix's leading intruder; which vector that is can change between audits.",
        "Times are as fine as the audits are close; if all seeds fall on one audit, the interval is missing.",
        "Intruders that came and went between two audits are not seen.",
    ),
)


def analyse(results: Results) -> Finding:
    """Measure, for adapters, when the first intruder appears, how it grows, and how many come in the second half."""
    runs, steps = _traced(finished(results.runs), results.traces)
    evidence = Evidence(CLAIM, results)
    adapters = runs[runs["method"] != "full"]
    none = int(adapters["first_share"].isna().sum())
    if none:
        evidence.notes.append(
            f"{none} of {len(adapters)} traced runs never had an intruder and are not in these means"
        )
    for stratum in strata(adapters[adapters["first_share"].notna()]):
        first, gained, growth = (
            complete(seed_table(stratum.runs, column))
            for column in ("first_share", "gained_per_100", "growth")
        )
        share = clipped(mean_interval(first.mean(axis=1)), 0, 1)
        phrase = f"first intruder after {said(share, 2, signed=False)} of the training"
        evidence.add(
            stratum.on, "share of the training before the first intruder", share, None, phrase=phrase
        )
        more = mean_interval(gained.mean(axis=1), grain=one_in_100(stratum.runs, gained.shape[1]))
        phrase = f"intruders per 100 vectors, end minus middle of the training, {said(more)}"
        what = "intruders per 100 vectors, end of training minus its middle"
        evidence.add(stratum.on, what, more, phrase=phrase)
        if len(growth):
            what = "doublings of an intruder's singular value since it appeared"
            evidence.add(stratum.on, what, mean_interval(growth.mean(axis=1)))
    measured = ["audits", "first_share", "gained_per_100", "growth"]
    by_run = points_of(runs, ["base", "task", "described", "seed", "run_id", *measured])
    tables = {
        "By step": pd.DataFrame(_by_step(steps)),
        "By run": by_run.rename(columns={"growth": "doublings"}),
    }
    return evidence.finding(adapters["run_id"], tables)


def _traced(runs: pd.DataFrame, traces: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Summarize the traces: the runs with their summaries, and one row per run and step, summed over matrices."""
    known = traces.assign(relative=traces["largest_intruder_value"] / traces["base_largest_value"])
    steps = audits_during(traces)
    steps["relative"] = known.groupby(["run_id", "step"])["relative"].median().to_numpy()
    # Of every matrix with two audits of its leading intruder, whose value may be zero.
    values = known.dropna(subset=["relative"]).sort_values("step").groupby(["run_id", "name"])["relative"]
    first, last = values.first(), values.last()
    ratios = (last / first).where((values.size() > 1) & (first > 0) & (last > 0))
    growth = ratios.map(math.log2).groupby("run_id").mean()
    rows = []
    for run_id, trace in steps.groupby("run_id"):
        if len(trace) < 2:
            continue
        end = float(trace["step"].max())
        present = trace.loc[trace["intruders"] > 0, "step"]
        # Before the first step there is no update, and so no intruder.
        middle = float(np.interp(end / 2, [0.0, *trace["step"]], [0.0, *trace["per_100"]]))
        rows.append(
            {
                "run_id": run_id,
                "first_share": float(present.min()) / end if len(present) else math.nan,
                "gained_per_100": float(trace["per_100"].iloc[-1]) - middle,
                "growth": float(growth.get(run_id, math.nan)),
                "audits": len(trace),
            }
        )
    summary = pd.DataFrame(rows, columns=["run_id", "first_share", "gained_per_100", "growth", "audits"])
    known_runs = runs.merge(summary, on="run_id")
    columns = ["run_id", "base", "task", "described", "method", "seed"]
    steps = steps.merge(known_runs[columns], on="run_id")
    steps["share_of_training"] = steps["step"] / steps.groupby("run_id")["step"].transform("max")
    return known_runs, steps


def _by_step(steps: pd.DataFrame) -> Iterator[dict[str, object]]:
    for setting, group in per_setting(steps, "method", "step"):
        count = mean_interval(group.groupby("seed")["per_100"].mean())
        yield setting | {
            "share_of_training": group["share_of_training"].mean(),
            **count.cells("intruders_per_100_vectors", "low", "high"),
            "update_frobenius": group["update_frobenius"].mean(),
            "intruder_over_base_value": group["relative"].mean(),
            "seeds": group["seed"].nunique(),
        }


_STEPS = Axis("step", "training step")

_MEAN = "Mean over seeds"


def charts(finding: Finding, palette: Palette) -> Iterator[Chart]:
    """Draw intruders, singular values and update norm over training steps, one line per setting."""
    for part in parts(finding.tables.get("By step")):
        counts = lines(
            part.rows, palette, "step", "intruders_per_100_vectors", low="low", high="high", band=True
        )
        yield Chart(
            f"dynamics-intruders{part.slug}",
            part.titled("Intruders in the course of training"),
            _STEPS,
            Axis("intruders_per_100_vectors", "intruders per 100 vectors", from_zero=True),
            in_order(counts),
            caption=f"{_MEAN}; the band is the 95 % interval over them, where there are several.",
        )
        values = part.rows.dropna(subset=["intruder_over_base_value"])
        if len(values):
            yield Chart(
                f"dynamics-values{part.slug}",
                part.titled("Singular value of the leading intruder"),
                _STEPS,
                Axis("intruder_over_base_value", "as a part of the base's largest", from_zero=True),
                in_order(lines(values, palette, "step", "intruder_over_base_value")),
                [Rule("y", 1.0, "the base's largest")],
                caption=f"{_MEAN} of the median over the matrices that have one.",
            )
        yield Chart(
            f"dynamics-norm{part.slug}",
            part.titled("Size of the update"),
            _STEPS,
            Axis("update_frobenius", "Frobenius norm of all updates", from_zero=True),
            in_order(lines(part.rows, palette, "step", "update_frobenius")),
            caption=f"{_MEAN}.",
        )
