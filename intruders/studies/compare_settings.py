"""The settings of a study side by side: a mean over seeds of each, and its paired difference from a chosen one.

Runs are of one setting if they differ in the seed alone. Settings are compared on one base and task. An interval is
Student's, over seeds; with one seed there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from ..errors import SettingError
from ..measures.intervals import Interval, mean_interval
from .results import Results
from .run_labels import labels_of, rows_in, settings_in, text_of

# The columns of ``runs`` that are compared, with what they are called.
MEASURES: Mapping[str, str] = {
    "accuracy": "accuracy",
    "loss_change": "loss change, nats",
    "intruders": "intruders",
    "relative_update": "relative update",
}


@dataclass(frozen=True)
class ComparedSetting:
    """One setting on one base and task.

    Attributes:
      base: the model.
      task: what was trained; of a sequence all tasks.
      setting: method, rank, alpha, learning rate, and what else differs, in words.
      seeds: number of its finished runs.
      means: by measure, the mean over seeds.
      differences: by measure, the mean over shared seeds of this setting minus the chosen one; empty for that one.
    """

    base: str
    task: str
    setting: str
    seeds: int
    means: Mapping[str, Interval]
    differences: Mapping[str, Interval]


def compare_settings(results: Results, against: str | None = None) -> list[ComparedSetting]:
    """Return every setting of the finished trainings, in the order of the runs.

    Args:
      results: The tables of a study.
      against: The setting, in words, that others are compared with (default: full fine-tuning if there is one of it,
        else the first setting of each base and task).

    Raises:
      SettingError: no setting is called ``against``.
    """
    runs = results.runs
    done = runs[(runs["status"] == "finished") & runs["method"].notna()].copy()
    done["setting"] = labels_of(rows_in(done))
    if against is not None and against not in set(done["setting"]):
        names = ", ".join(dict.fromkeys(done["setting"])) or "none, since no run is finished"
        raise SettingError(f"against is {against!r}; expected a setting of the study: {names}")
    done["of"] = settings_in(done)
    places = done.groupby(["base", "task"], sort=False, dropna=False)
    return [compared for (base, task), group in places for compared in _in_place(base, task, group, against)]


def _in_place(
    base: object, task: object, runs: pd.DataFrame, against: str | None
) -> Iterator[ComparedSetting]:
    """Compare the settings of one base and task."""
    names = runs["setting"]
    full = names[runs["method"] == "full"]
    chosen = against if against is not None else (full.iloc[0] if full.nunique() == 1 else names.iloc[0])
    reference = runs[names == chosen]
    for _, own in runs.groupby("of", sort=False):
        is_chosen = own["setting"].iloc[0] == chosen
        measured = [name for name in MEASURES if own[name].notna().any()]
        yield ComparedSetting(
            text_of(base),
            text_of(task),
            str(own["setting"].iloc[0]),
            len(own),
            {name: mean_interval(own[name].astype(float)) for name in measured},
            {} if is_chosen else {name: _difference(own, reference, name) for name in measured},
        )


def _difference(own: pd.DataFrame, reference: pd.DataFrame, name: str) -> Interval:
    """Return the mean over the seeds that both have; NaN for none."""
    sides = [runs.groupby("seed")[name].mean() for runs in (own, reference)]
    return mean_interval((sides[0] - sides[1]).astype(float))


def settings_frame(compared: list[ComparedSetting]) -> pd.DataFrame:
    """Return the settings as a table: one row each, and of every measure a mean and a difference, each as text."""
    rows = []
    for setting in compared:
        row = {"base": setting.base, "task": setting.task, "setting": setting.setting, "seeds": setting.seeds}
        for name, title in MEASURES.items():
            row[title] = _text(setting.means.get(name))
            row[f"{title}, difference"] = _text(setting.differences.get(name), signed=True)
        rows.append(row)
    frame = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["setting"])
    return frame[[column for column in frame if (frame[column].astype(str) != "").any()]]


def _text(interval: Interval | None, signed: bool = False) -> str:
    if interval is None or interval.estimate != interval.estimate:
        return ""
    sign = "+" if signed else ""
    shown = f"{interval.estimate:{sign}.3g}"
    return f"{shown} [{interval.low:{sign}.3g}, {interval.high:{sign}.3g}]" if interval.has_ends else shown
