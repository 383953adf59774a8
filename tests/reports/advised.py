"""Files that advice is given on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from intruders.audits.result.audit_result import Audit
from intruders.audits.scales.critical_scales_result import CriticalScales, MatrixScale
from intruders.reports.advise import advise
from intruders.studies.results import Results
from intruders.studies.tables import COLUMNS


def topics(source: str | Path, **settings: Any) -> list[str]:
    return [one.topic for one in advise(source, **settings).advice]


def write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


def scale_document(audit: Audit, largest: float | None, target: int = 0, k: int = 10) -> dict[str, Any]:
    """Scales of two matrices of the audit; ``target`` intruders at the largest."""
    first, second = (matrix.name for matrix in audit.matrices[:2])
    matrices = [MatrixScale(first, (4, 4), 0.4, 0.5, 64), MatrixScale(second, (4, 4), math.inf, math.inf, 64)]
    at = math.inf if largest is None else largest
    models = (audit.base_source, audit.tuned_source)
    return CriticalScales(*models, k, 0.5, target, at, target, matrices, 1.0).to_document()


def as_a_studys_run(folder: Path) -> None:
    """Make the folder one that a study made of a run."""
    write(folder / "run.json", {"schema": 1, "status": "finished", "stages": {}})


def write_study(folder: Path, results: Results) -> Path:
    """A study's folder as `intruders study` leaves it, from made-up tables."""
    folder.mkdir(exist_ok=True)
    write(folder / "study.json", {"schema": 1, "name": "made-up"})
    for table in COLUMNS:
        frame = getattr(results, table)
        metadata = {b"intruders_study": json.dumps({"schema": 1, "table": table}).encode()}
        arrow = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(metadata)
        pq.write_table(arrow, folder / f"{table}.parquet")
    return folder
