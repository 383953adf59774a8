"""Files of JSON Lines, as people keep their texts and their tasks."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_rows(file: Path, rows: Iterable[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
