"""The folder of a study from made-up tables."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from intruders.studies.results import Results
from intruders.studies.tables import COLUMNS


def write_study(folder: Path, results: Results) -> Path:
    """Write the folder as `intruders study` leaves it."""
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps({"schema": 1, "name": "made-up"}))
    for table in COLUMNS:
        frame = getattr(results, table)
        metadata = {b"intruders_study": json.dumps({"schema": 1, "table": table}).encode()}
        arrow = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(metadata)
        pq.write_table(arrow, folder / f"{table}.parquet")
    return folder
