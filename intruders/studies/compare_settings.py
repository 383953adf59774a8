"""The settings of a study side by side: a mean over seeds of each, and its paired difference from a chosen one.

Runs are of one setting if they differ in the seed alone. Settings are compared on one base and task. An interval is
Student's, over seeds; with one seed there is none.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ..measures.intervals import mean_interval
from ..settings import settings_of
from ..training.finetune_config import ADAPTER_ONLY, FinetuneConfig
from .results import Results

_SETTINGS = settings_of(FinetuneConfig)
# Runs of another base or task are not compared, and another seed repeats a run rather than changing it.
_NEVER_COMPARED = ("base", "task", "seed", "data_seed")
COMPARED = [
    *(name for name, field in _SETTINGS.items() if field.changes_weights and name not in _NEVER_COMPARED),
    "adapters",
    "retrain_heads",
]
# What a run is told by: a table of runs has a hundred columns more.
_TOLD_BY = list(dict.fromkeys(["base", "task", "method", "rank", "alpha", "lr", *COMPARED]))
# The columns of ``runs`` that are compared, with what they are called.
MEASURES: Mapping[str, str] = {
    "accuracy": "accuracy",
    "loss_change": "loss change, nats",
    "intruders": "intruders",
    "relative_update": "relative update",
}


def compare_settings(results: Results) -> pd.DataFrame:
    """Return a row for every setting of finished trainings: of every measure the mean over seeds, and its difference
    over shared seeds from full fine-tuning if it is one setting, else from the first. Both are text with an interval.
    """
    runs = results.runs
    done = runs[(runs["status"] == "finished") & runs["method"].notna()].copy()
    done["setting"] = labels_of(rows_in(done))
    done["of"] = settings_in(done)
    rows: list[dict[str, object]] = []
    for (base, task), group in done.groupby(["base", "task"], sort=False, dropna=False):
        names = group["setting"]
        full = names[group["method"] == "full"]
        chosen = full.iloc[0] if full.nunique() == 1 else names.iloc[0]
        reference = group[names == chosen]
        for _, own in group.groupby("of", sort=False):
            setting = str(own["setting"].iloc[0])
            row = {"base": text_of(base), "task": text_of(task), "setting": setting, "seeds": len(own)}
            for name, title in MEASURES.items():
                row[title] = _with_ends(own[name], ".3g")
                mine, others = (side.groupby("seed")[name].mean() for side in (own, reference))
                row[f"{title}, difference"] = "" if setting == chosen else _with_ends(mine - others, "+.3g")
            rows.append(row)
    frame = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["setting"])
    return frame[[column for column in frame if (frame[column].astype(str) != "").any()]]


def _with_ends(values: "pd.Series[Any]", form: str) -> str:
    interval = mean_interval(values.astype(float))
    return "" if math.isnan(interval.estimate) else interval.text(form)


def setting_of(row: dict[str, object], without: Sequence[str] = ()) -> str:
    """Return all settings of a run but seed, base and task as one text, the same for equal settings."""
    left_out = set(without) | (ADAPTER_ONLY if row.get("method") == "full" else set())
    chosen = {name: _plain(row.get(name)) for name in COMPARED if name not in left_out}
    return json.dumps(chosen, sort_keys=True, default=str)


def settings_in(runs: pd.DataFrame, without: Sequence[str] = ()) -> "pd.Series[str]":
    return pd.Series([setting_of(row, without) for row in rows_in(runs)], index=runs.index, dtype=object)


def rows_in(runs: pd.DataFrame) -> list[dict[str, object]]:
    """Return every run as a dictionary of the columns that this file reads."""
    rows: Any = runs[[name for name in _TOLD_BY if name in runs.columns]].to_dict("records")
    return list(rows)


def label_of(row: dict[str, object]) -> str:
    method, rank = text_of(row.get("method")), row.get("rank")
    parts = [method or "?"]
    if method != "full" and not _is_missing(rank):
        parts += [f"r={float(str(rank)):g}", f"alpha={_short(row.get('alpha'))}"]
    if not _is_missing(row.get("lr")):
        parts.append(f"lr={float(str(row['lr'])):g}")
    return " ".join(parts)


def labels_of(rows: Sequence[dict[str, object]]) -> list[str]:
    """Return a label per run, with what separates settings of the same label, base and task, but for defaults."""
    known_by = [(text_of(row.get("base")), text_of(row.get("task")), label_of(row)) for row in rows]
    alike: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for key, row in zip(known_by, rows, strict=True):
        alike.setdefault(key, []).append({name: _plain(row.get(name)) for name in COMPARED})
    defaults = {name: _plain(_SETTINGS[name].default) for name in COMPARED if name in _SETTINGS}
    telling = {
        key: [name for name in COMPARED if len({str(other[name]) for other in others}) > 1]
        for key, others in alike.items()
    }
    labels = []
    for key, row in zip(known_by, rows, strict=True):
        is_full = row.get("method") == "full"
        told = [
            f"{name}={_short(row.get(name))}"
            for name in telling[key]
            if not (is_full and name in ADAPTER_ONLY) and _plain(row.get(name)) != defaults.get(name)
        ]
        labels.append(" ".join([key[-1], *told]))
    return labels


def _plain(value: object) -> object:
    if _is_missing(value):
        return None
    try:
        return float(str(value))
    except ValueError:
        return str(value)


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def text_of(value: object) -> str:
    return "" if _is_missing(value) else str(value)


def _short(value: object) -> str:
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return text_of(value)
