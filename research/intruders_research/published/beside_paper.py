"""The paper's own figures beside a study's: accuracy, the intervention by scale, correlations; each with its table.

``paper.json`` has the figures of arXiv 2410.21228v3 as printed, one row per figure. A row is matched by the settings
that it names: task, method, rank, alpha and learning rate.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from intruders.errors import ResultFileError
from intruders.measures.intervals import NOTHING, Interval, mean_interval
from intruders.mitigation.remedies.remedy_table import INTRUDERS
from intruders.studies.compare_settings import settings_in
from intruders.studies.results import Results

from ..claims.shared.statistics import interval_in, spearman

FILE = Path(__file__).parent / "paper.json"
_NAMED = ("task", "method", "rank", "alpha", "lr")
# Learning rates that agree to this share are equal: 1.2e-3 / 64 is written with other digits in a file than computed.
_SAME_RATE = 1e-6
# The columns of a figure of ours and of its ends.
_OURS = ("ours", "{} low", "{} high")

_Row = dict[str, Any]


@dataclass(frozen=True)
class BesidePaper:
    """One table of the paper, with this study's figures."""

    title: str
    source: str  # table or figure of the paper
    meaning: str  # of the columns
    frame: pd.DataFrame

    @property
    def known(self) -> int:
        """The number of the paper's figures with one of ours beside it."""
        return int(self.frame["ours"].notna().sum())

    def lines(self) -> list[str]:
        """Return the table as text for a terminal."""
        of = f"{self.known} of {len(self.frame)} with a run of this study"
        head = f"{self.title} (the paper's {self.source}; {of})"
        return [head, self.meaning, *self.frame.map(_cell).to_string(index=False).splitlines()]


def beside_paper(results: Results) -> list[BesidePaper]:
    """Return the paper's tables that the study's file names, with the study's own figures; none if it names none."""
    if not results.compare_with:
        return []
    studies = json.loads(FILE.read_text(encoding="utf-8"))["studies"]
    if results.compare_with not in studies:
        raise ResultFileError(
            f"'{results.folder}' is compared with {results.compare_with!r}; expected one of {', '.join(studies)}; "
            "restore its study.json"
        )
    study = studies[results.compare_with]
    runs = results.runs
    runs = runs[
        (runs["status"] == "finished") & (runs["kind"] == "finetune") & (runs["base"] == study["base"])
    ]
    tables = []
    for table in study["tables"]:
        measured, meaning = _MEASURES[table["measure"]]
        rows = [
            {name: row.get(name) for name in ("task", "method", "rank")} | cells
            for row in table["rows"]
            for cells in measured(row, _alike(runs, row), results)
        ]
        tables.append(BesidePaper(table["title"], table["source"], meaning, pd.DataFrame(rows)))
    return tables


def _accuracy(row: _Row, alike: pd.DataFrame, results: Results) -> Iterator[_Row]:
    is_single = len(alike) == 1
    ours = interval_in(alike.iloc[0], "accuracy") if is_single else _over_seeds(alike["accuracy"])
    yield {"paper": row["accuracy"]} | ours.cells(*_OURS) | {"seeds": len(alike)}


def _intervention(row: _Row, alike: pd.DataFrame, results: Results) -> Iterator[_Row]:
    points = results.interventions
    top = points[(points["which"] == "top") & (points["control"] == INTRUDERS)]
    of_runs = top[top["run_id"].isin(alike["run_id"])]
    for what, measure in (("accuracy", "accuracy"), ("forgetting", "loss")):
        ours, seeds = _changes(of_runs[of_runs["measure"] == measure], row["scale"])
        named = {"lambda": row["scale"], "change of": what, "paper": row[f"{what}_change"]}
        yield named | ours.cells(*_OURS) | {"seeds": seeds}


def _changes(points: pd.DataFrame, scale: float) -> tuple[Interval, int]:
    """Return the change at a scale in % of what the tuned model has, and the number of seeds; one corpus or task."""
    points = points[points["on"] == points["on"].iloc[0]] if len(points) else points
    changes = []
    for _, of_run in points.groupby("run_id"):
        tuned, at = (of_run[(of_run["scale"] - wanted).abs() < 1e-9] for wanted in (1.0, scale))
        if tuned.empty or at.empty:
            continue
        whole = float(tuned["value"].iloc[0])
        if tuned["measure"].iloc[0] == "loss":
            whole -= float(tuned["base_value"].iloc[0])
        if whole > 0:
            changes.append(interval_in(at.iloc[0], "change").times(100 / whole))
    if len(changes) == 1:
        return changes[0], 1
    return _over_seeds(pd.Series([change.estimate for change in changes], dtype=float)), len(changes)


def _correlation(row: _Row, alike: pd.DataFrame, results: Results) -> Iterator[_Row]:
    known = alike.dropna(subset=["intruders", row["of"]])
    settings = list(zip(known["task"], settings_in(known), strict=True))
    ours = spearman(known["intruders"], known[row["of"]], settings) if len(known) > 2 else NOTHING
    named = {"intruders with": row["of"], "paper": row["spearman"]}
    yield named | ours.cells(*_OURS) | {"runs": len(known)}


# The figures of ours for a row of the paper's, and what the columns mean.
_MEASURES = {
    "accuracy": (
        _accuracy,
        "ours: mean over seeds with its 95 % CI over seeds; with one seed the 95 % CI over examples",
    ),
    "intervention": (
        _intervention,
        (
            "change in % of the tuned model's accuracy, and of its forgetting (its loss minus the base's); ours: 95 % "
            "CI over seeds, with one seed over examples and documents"
        ),
    ),
    "correlation": (_correlation, "Spearman's correlation over runs; ours with its 95 % CI"),
}


def _alike(runs: pd.DataFrame, row: Mapping[str, Any]) -> pd.DataFrame:
    """Return the runs with every setting that the row names; each seed once, at the most epochs if a rate is named."""
    wanted = pd.Series(True, index=runs.index)
    for name in _NAMED:
        if name == "lr" and "lr" in row:
            wanted &= (runs["lr"] / row["lr"] - 1).abs() < _SAME_RATE
        elif name in row:
            wanted &= (
                runs[name].astype(str) == str(row[name]) if name != "rank" else runs["rank"] == row["rank"]
            )
    alike = runs[wanted]
    if "lr" not in row:
        return alike
    return alike.sort_values("epochs").drop_duplicates(["seed"], keep="last")


def _over_seeds(values: "pd.Series[float]") -> Interval:
    known = values.dropna()
    return mean_interval(known) if len(known) else NOTHING


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
