"""Labels of runs: all settings but the seed as one text, and the few that distinguish a run, in words."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pandas as pd

from ..settings import settings_of
from ..training.finetune_config import FinetuneConfig

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
# Settings that a full fine-tuning carries along without using them.
_ADAPTER_ONLY = {name for name, field in _SETTINGS.items() if field.adapter_only}


def setting_of(row: dict[str, object], without: Sequence[str] = ()) -> str:
    """Return all settings of a run but seed, base and task as one text, the same for equal settings."""
    left_out = set(without) | (_ADAPTER_ONLY if row.get("method") == "full" else set())
    chosen = {name: _plain(row.get(name)) for name in COMPARED if name not in left_out}
    return json.dumps(chosen, sort_keys=True, default=str)


def settings_in(runs: pd.DataFrame, without: Sequence[str] = ()) -> pd.Series[str]:
    """Return the :func:`setting_of` every run."""
    return pd.Series([setting_of(row, without) for row in rows_in(runs)], index=runs.index, dtype=object)


def rows_in(runs: pd.DataFrame) -> list[dict[str, object]]:
    """Return every run as a dictionary of the columns that this file reads."""
    names = [name for name in _TOLD_BY if name in runs.columns]
    # Column by column: pandas takes four times as long to go through a table of many types by rows.
    columns = [runs[name].tolist() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def label_of(row: dict[str, object]) -> str:
    """Return a run's method, rank, alpha and learning rate in words."""
    method, rank = text_of(row.get("method")), row.get("rank")
    parts = [method or "?"]
    if method != "full" and not _is_missing(rank):
        parts += [f"r={float(str(rank)):g}", f"alpha={_short(row.get('alpha'))}"]
    if not _is_missing(row.get("lr")):
        parts.append(f"lr={float(str(row['lr'])):g}")
    return " ".join(parts)


def labels_of(rows: Sequence[dict[str, object]]) -> list[str]:
    """Return a label per run, with what else separates settings of the same label, base and task.

    Values that are the defaults of fine-tuning are not said.
    """
    alike: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for row in rows:
        alike.setdefault(_known_by(row), []).append(row)
    telling = {known_by: _telling(others) for known_by, others in alike.items()}
    labels = []
    for row in rows:
        unused = _ADAPTER_ONLY if row.get("method") == "full" else set()
        told = [
            f"{name}={_short(row.get(name))}"
            for name in telling[_known_by(row)]
            if name not in unused and _plain(row.get(name)) != _plain(_default(name))
        ]
        labels.append(" ".join([label_of(row), *told]))
    return labels


def _telling(rows: Sequence[dict[str, object]]) -> list[str]:
    """Return the settings in which runs differ."""
    return [name for name in COMPARED if len({str(_plain(row.get(name))) for row in rows}) > 1]


def _default(name: str) -> object:
    return _SETTINGS[name].default if name in _SETTINGS else None


def _known_by(row: dict[str, object]) -> tuple[str, ...]:
    return text_of(row.get("base")), text_of(row.get("task")), label_of(row)


def alpha_value(alpha: object, rank: object) -> float:
    """Return alpha as a number; "2r" is twice the rank. NaN without one."""
    text = "" if _is_missing(alpha) else str(alpha).strip()
    try:
        return float(text[:-1] or 1) * float(str(rank)) if text.endswith("r") else float(text)
    except ValueError:
        return math.nan


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
