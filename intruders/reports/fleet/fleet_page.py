"""The report of a fleet: a table that sorts and filters, a scatter of any two columns, and each adapter's matrices.

A thousand rows stay light: each adapter's figures are packed in a few bytes per matrix, and unpacked when its row is
opened.
"""

from __future__ import annotations

import base64
import math
import os
import shlex
from typing import Any

import numpy as np
import pandas as pd

from ...audits.fleet.fleet_result import FleetAudit
from ...audits.fleet.fleet_table import as_arrow
from ...checkpoints.stored.names import module_paths
from ..audit.audit_command import options_of_audit
from ..page.html_page import render_page, write_page
from .opinions import OPINIONS, with_opinions

REPORT = "report.html"
# Key, title and kind of the numbers that the page shows: counts, shares of 1, and others; the scatter offers these too.
NUMBERS = (
    ("intruders", "intruders", "count"),
    ("intruder_share", "intruder share", "share"),
    ("energy_share", "energy share", "share"),
    ("update_relative_median", "relative update, median", "share"),
    ("update_relative_max", "relative update, largest", "share"),
    ("frobenius", "update norm", "number"),
    ("effective_rank", "effective rank, median", "number"),
    ("stable_rank", "stable rank, median", "number"),
    ("rank_max", "rank, largest", "count"),
    ("scale_max", "scale, largest", "number"),
    ("matrices", "matrices", "count"),
    ("zero_updates", "zero updates", "count"),
    ("nearest_cosine", "cosine with the nearest", "number"),
    ("unusual", "unusual", "number"),
)
TEXTS = (
    "adapter",
    "status",
    "reason",
    "duplicate_of",
    "nearest",
    "method",
    "targets",
    "named_base",
    "matched_by",
    "for_hosts",
)
_NOT_JUDGED = 65535  # in place of a count
# Of a share of 1, each 0.002 %: what is written with one decimal changes only between two of them, never inside one.
_STEPS = 50_000


def write_fleet_html(fleet: FleetAudit, path: str | os.PathLike[str]) -> None:
    """Write the report of a fleet to `path`, completely or not at all.

    Raises:
      ResultFileError: `path` cannot be written.
      MissingDependencyError: plotly or jinja2 is missing.
    """
    write_page(path, lambda: render_fleet(fleet))


def render_fleet(fleet: FleetAudit) -> str:
    """Return the HTML text of the report of a fleet."""
    return render_page(
        "fleet.html.j2",
        ["plots.js", "fleet.js"],
        fleet_payload(fleet),
        fleet=fleet,
        refused=len(fleet.refused),
        settings=fleet.settings.as_dict(),
        versions=fleet.versions,
    )


def fleet_payload(fleet: FleetAudit) -> dict[str, Any]:
    """Return plain JSON values: a list for each row of the table, and the packed matrices of each adapter."""
    opinions = with_opinions(fleet.adapters)
    rows = as_arrow(fleet.adapters).to_pylist()
    for row, *thought in zip(rows, *(opinions[name] for name in OPINIONS), strict=True):
        values = (None if pd.isna(value) else value for value in thought)
        row.update(zip(OPINIONS, values, strict=True))
    table = fleet.counted_matrices()
    matrices = {str(digest): group for digest, group in table.groupby("digest", sort=False)}
    names = list(dict.fromkeys(table["name"]))
    paths = module_paths(names)
    return {
        "base": fleet.base_source,
        "options": shlex.join(options_of_audit(fleet.settings)),
        "numbers": [list(column) for column in NUMBERS],
        "texts": list(TEXTS),
        "rows": [
            [*(_short(row[key]) for key, _, _ in NUMBERS), *(row[key] for key in TEXTS)] for row in rows
        ],
        "matrices": [
            [name, path.stack, path.layer, path.kind] for name, path in zip(names, paths, strict=True)
        ],
        "packed": [
            packed_matrices(matrices[row["digest"]], names)
            if row["status"] == "audited" and row["digest"] in matrices
            else None
            for row in rows
        ],
    }


def _short(value: float | None) -> float | None:
    """Round to six digits: a page of a thousand rows has tens of thousands of numbers."""
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def packed_matrices(group: pd.DataFrame, names: list[str]) -> list[str]:
    """Pack three numbers per matrix in base64.

    Intruders and energy share have two bytes, the relative update is in single precision. A share is 0 or the number of
    its step from 1, and behind the last step is 1.
    """
    frame = group.set_index("name").reindex(names)
    energy = frame["intruder_energy_share"].fillna(0.0).to_numpy(np.float64)
    steps = np.where(energy > 0, 1 + np.floor(_STEPS * energy.clip(max=1.0)), 0)
    return [
        _text(frame["intruders"].clip(upper=_NOT_JUDGED - 1).fillna(_NOT_JUDGED).to_numpy("<u2")),
        _text(steps.astype("<u2")),
        _text(frame["relative_update"].to_numpy("<f4")),
    ]


def _text(numbers: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(numbers.tobytes()).decode()
