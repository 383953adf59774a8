"""The report of a study: its settings compared, its failures and its runs, as one HTML file or as CSV."""

import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from ..errors import SettingError
from ..studies.compare_settings import compare_settings
from ..studies.results import Results, load_results
from ..studies.study_folder import REPORT
from ..system.files import user_path, write_atomically
from ..system.folders import make_folder
from ..system.words import number
from .html_page import check_can_write_html, render_figures

# What is said where verdicts would be.
WITHOUT_VERDICTS = "verdicts on claims come from the package intruders-research: pip install ./research"


def results_to_report(folder: str | os.PathLike[str], out: str | os.PathLike[str] | None) -> Results:
    """Return the tables of a study that has runs; what would refuse its page at `out` is found before."""
    if out is not None:
        check_can_write_html(out)
    results = load_results(Path(folder))
    if results.runs.empty:
        raise SettingError(f"the study in '{folder}' has no runs yet; run it with `intruders study`")
    return results


def settings_text(folder: Path) -> str | None:
    try:
        return (folder / "study.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def write_study_report(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    figures: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write HTML to `out`, the settings to the folder `figures`; without either, HTML to the study. Return paths."""
    if out is None and figures is None:
        out = user_path(folder) / REPORT
    results = results_to_report(folder, out)
    written = []
    if out is not None:
        write_atomically(out, render_study(results).encode())
        written.append(user_path(out))
    if figures is not None:
        written.append(user_path(figures) / "settings.csv")
        make_folder(user_path(figures), "png")
        content = compare_settings(results).to_csv(index=False)
        write_atomically(written[-1], content.encode())
    return written


def render_study(results: Results) -> str:
    name = results.name or results.folder.name
    done = int((results.runs["status"] == "finished").sum())
    frame = compare_settings(results)
    return render_figures(
        "study.html.j2",
        [],
        title=f"Study {name}: {done} of {len(results.runs)} runs finished",
        without_verdicts=WITHOUT_VERDICTS,
        failures=failures(results.runs),
        compared=page_table("Settings", frame, most=len(frame)),
        runs=run_table(results.runs),
        settings=settings_text(results.folder),
        folder=str(results.folder),
    )


MOST_ROWS = 50  # of a table in the page; the complete one is a CSV file in the folder of the figures
# What the table of runs shows, with its heading; a column without a value in any run is left out.
RUN_COLUMNS = {
    "experiment": "experiment",
    "status": "status",
    "method": "method",
    "rank": "rank",
    "alpha": "alpha",
    "lr": "rate",
    "seed": "seed",
    "trained_steps": "steps",
    "accuracy": "accuracy",
    "loss_change": "loss change, nats",
    "intruders": "intruders",
    "intruder_energy_share": "energy share",
    "relative_update": "relative update",
    "effective_rank": "effective rank, mean",
    "critical_scale": "critical scale",
    "seconds": "seconds",
    "run_id": "run",
}


@dataclass(frozen=True)
class Cell:
    text: str
    value: float | None = None  # what a number is sorted by; None for text


@dataclass(frozen=True)
class PageTable:
    title: str
    headings: list[str]
    numeric: list[bool]
    rows: list[list[Cell]]
    total: int  # rows that there are, of which `rows` may be the first
    throughout: str = ""  # columns of one value only, which are not repeated in every row


def page_table(
    title: str, frame: pd.DataFrame, most: int = MOST_ROWS, as_given: Collection[str] = ()
) -> PageTable:
    """Return the first `most` rows of a frame; a column is numeric if its values are numbers.

    Columns ``as_given`` are written as settings are: 16, 5e-05. They are sorted by their numbers; others, such as 2r,
    stay as they are and come last.
    """
    once = ("base", "task", "corpus") if len(frame) > 1 else ()
    same = [column for column in once if column in frame and frame[column].nunique() == 1]
    kept = frame.drop(columns=same)
    numeric: list[bool] = []
    columns: list[list[Cell]] = []
    for name in kept:
        kind = types.infer_dtype(kept[name], skipna=True)
        is_number = name not in as_given and kind in ("integer", "floating", "mixed-integer-float")
        cells = [_cell(str(name), value, is_number) for value in kept[name].head(most)]
        if name in as_given:
            numbers = pd.to_numeric(kept[name].head(most), errors="coerce")
            cells = [
                Cell(f"{given:g}", given) if math.isfinite(given) else cell
                for given, cell in zip(numbers.tolist(), cells, strict=True)
            ]
        numeric.append(is_number or any(cell.value is not None for cell in cells))
        columns.append(cells)
    rows = [list(row) for row in zip(*columns, strict=True)]
    throughout = ", ".join(f"{_heading(column)} {frame[column].iloc[0]}" for column in same)
    return PageTable(title, [_heading(column) for column in kept], numeric, rows, len(frame), throughout)


def run_table(runs: pd.DataFrame) -> PageTable:
    kept = [column for column in RUN_COLUMNS if column in runs and runs[column].notna().any()]
    frame = runs[kept].rename(columns=RUN_COLUMNS)
    return page_table("Runs", frame, len(frame), as_given=("alpha", "rate"))


def failures(runs: pd.DataFrame) -> Sequence[tuple[str, str]]:
    failed = runs[runs["status"] == "failed"]
    return [
        (str(run), str(error) if isinstance(error, str) else "no error was recorded")
        for run, error in zip(failed["run_id"], failed["error"], strict=True)
    ]


def _cell(column: str, value: Any, is_number: bool) -> Cell:
    if isinstance(value, list | tuple | set | np.ndarray):
        return Cell(", ".join(str(item) for item in value))
    if pd.isna(value):
        return Cell("-")
    if is_number and math.isinf(value):  # a critical scale that was not found, or an interval without ends
        return Cell("none found", float(value)) if "scale" in column else Cell("-")
    if is_number:
        text = f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e9 else number(float(value))
        return Cell(text, float(value))
    if isinstance(value, bool) or types.is_bool(value):
        return Cell("yes" if value else "no")
    return Cell(str(value))


def _heading(column: object) -> str:
    return str(column).replace("_", " ")
