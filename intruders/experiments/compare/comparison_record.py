"""A comparison of remedies as JSON and as a table of points."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...measures.intervals import Interval
from ...system.documents import json_number
from ...system.files import write_atomically
from ...version import __version__
from ..bench.point import Point
from .compared import ComparedRemedy, RemedyComparison
from .comparison_rows import INTERVALS, rows_of_document
from .comparison_verdict import command, sentence

SCHEMA = 1
# One row a point; an interval has its ends in two more columns.
COLUMNS: tuple[tuple[str, pa.DataType], ...] = (
    ("remedy", pa.string()),
    ("strength", pa.float64()),
    ("control", pa.string()),
    ("share", pa.string()),
    ("chosen", pa.bool_()),
    ("norm", pa.float64()),
    ("output", pa.float64()),
    ("accuracy", pa.float64()),
    *((f"{name}{end}", pa.float64()) for name in INTERVALS for end in ("", "_low", "_high")),
)


def document(comparison: RemedyComparison) -> dict[str, Any]:
    """Return plain JSON values: points with their intervals, refusals with their reasons, and the sentence."""
    return {
        "schema": SCHEMA,
        "intruders_version": __version__,
        "base": {"source": comparison.base, **_point(comparison.base_point)},
        "tuned": {
            "source": comparison.tuned,
            "kind": comparison.tuned_kind,
            **_point(comparison.tuned_point),
        },
        "target": comparison.target,
        "settings": dict(comparison.settings),
        "allow": comparison.allow,
        "level": comparison.level,
        "data": {name: dict(counts) for name, counts in comparison.counts.items()},
        "forgotten": _interval(comparison.forgotten),
        "curve": [_point(point) for point in comparison.curve],
        "remedies": [_remedy(remedy) for remedy in comparison.remedies],
        "tuned_tensors_not_audited": list(comparison.others),
        "better": [remedy.name for remedy in comparison.better],
        "beyond_dose": [remedy.name for remedy in comparison.beyond_dose],
        "sentence": sentence(comparison),
        "command": command(comparison),
    }


def comparison_rows(comparison: RemedyComparison) -> list[dict[str, Any]]:
    """Return one row per point: the curve, and each remedy's tried strengths, chosen strength and controls."""
    return rows_of_document(document(comparison))


def save_comparison(comparison: RemedyComparison, folder: str | os.PathLike[str]) -> None:
    """Write ``remedies.json`` and ``remedies.parquet`` to an existing folder."""
    schema = pa.schema([pa.field(name, kind) for name, kind in COLUMNS])
    content = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(comparison_rows(comparison), schema=schema), content, compression="zstd"
    )
    write_atomically(Path(folder) / "remedies.parquet", content.getvalue())
    text = json.dumps(document(comparison), allow_nan=False, ensure_ascii=False, indent=2) + "\n"
    write_atomically(Path(folder) / "remedies.json", text.encode())


def _remedy(remedy: ComparedRemedy) -> dict[str, Any]:
    return {
        "name": remedy.name,
        "source": remedy.source,
        "reason": remedy.reason,
        "chosen": None if remedy.chosen is None else _point(remedy.chosen),
        "over_allowance": remedy.is_over_allowance,
        "tried": [_point(point) for point in remedy.tried],
        "dropped_in_first_pass": list(remedy.dropped),
        "changes_nothing": list(remedy.idle),
        "controls": [_point(point) for point in remedy.controls],
        "no_control": dict(remedy.no_control),
        "parts": None
        if remedy.parts is None
        else {**remedy.parts.__dict__, "harmonic_mean": remedy.parts.harmonic_mean},
        "items": None if remedy.items is None else remedy.items.as_dict(),
    }


def _point(point: Point) -> dict[str, Any]:
    return {
        key: _interval(value)
        if isinstance(value, Interval)
        else dict(value)
        if isinstance(value, Mapping)
        else value
        for key, value in point.__dict__.items()
    }


def _interval(value: Interval) -> dict[str, float | None]:
    return {key: json_number(number) for key, number in value.as_dict().items()}
