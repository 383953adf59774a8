"""Tasks from local files: JSON lines, JSON, CSV, TSV or Parquet, with the columns that the user names."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import SettingError
from .columns import Columns
from .task import Example, Kind, Task

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

_HELD_OUT = 0.1


def local_task(path: Path, columns: Columns, seed: int = 0) -> Task:
    """The rows of ``path`` as a task; a tenth, chosen by seed, is for validation if no file is given.

    Raises SettingError for a file that cannot be read, a column that is not there, and a row without a value.
    """
    kind = _kind(path, columns)
    train = _examples(path, columns, kind)
    random.Random(f"rows {seed}").shuffle(train)
    if columns.validation_file is not None:
        validation = _examples(Path(columns.validation_file), columns, kind)
        random.Random(f"rows {seed}").shuffle(validation)
    else:
        held_out = max(1, round(_HELD_OUT * len(train))) if train else 0
        train, validation = train[held_out:], train[:held_out]
    test = _examples(Path(columns.test_file), columns, kind) if columns.test_file is not None else []
    score: Any = "class" if kind == "classification" else columns.score or "exact"
    is_held_out = columns.validation_file is None
    return Task(path.name, kind, score, train, validation, test, is_held_out=is_held_out)


def examples_of(rows: Sequence[dict[str, Any]], columns: Columns, kind: Kind, where: str) -> list[Example]:
    """Rows as examples. SettingError names the row and column of a value that is missing."""
    wanted = [columns.prompt, columns.completion] if kind == "causal" else [*columns.text, columns.label]
    names = [name for name in wanted if name is not None]
    if rows:
        _require_columns(names, rows[0].keys(), where)
    examples = []
    for number, row in enumerate(rows, start=1):
        values = [_text(row, name, f"row {number} of {where}") for name in names]
        pair = values[1] if kind == "classification" and len(columns.text) == 2 else None
        examples.append(Example(text=values[0], target=values[-1], pair=pair))
    return examples


def read_rows(path: Path, *, no_header: bool = False) -> list[dict[str, Any]]:
    """The rows of a data file by column. SettingError when it cannot be read as what its ending says."""
    if not path.is_file():
        raise SettingError(f"data file {str(path)!r} does not exist")
    suffix = path.suffix.lower()
    header: int | None = None if no_header else 0
    try:
        if suffix in (".jsonl", ".ndjson"):
            frame = pd.DataFrame(_json_lines(path))
        elif suffix == ".json":
            frame = _json(path)
        elif suffix == ".csv":
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, header=header)
        elif suffix == ".tsv":
            # Tab-separated files of the field do not quote; a stray quotation mark is text.
            frame = pd.read_csv(path, sep="\t", quoting=3, dtype=str, keep_default_na=False, header=header)
        elif suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            raise SettingError(
                f"data file {str(path)!r} has an unknown ending; expected one of {', '.join(SUFFIXES)}"
            )
    except pd.errors.EmptyDataError:
        return []
    except (ValueError, OSError) as error:
        raise SettingError(
            f"data file {str(path)!r} cannot be read as {suffix[1:]}: {_one_line(error)}"
        ) from error
    frame.columns = [str(name) for name in frame.columns]
    return [dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False)]


def _kind(path: Path, columns: Columns) -> Kind:
    if columns.text and columns.label and not (columns.prompt or columns.completion):
        if len(columns.text) > 2:
            raise SettingError(f"text names {len(columns.text)} columns; expected one, or two for a pair")
        if columns.score is not None:
            raise SettingError(
                f"score is {columns.score!r}, which is for completions; labels are scored by class"
            )
        return "classification"
    if columns.prompt and columns.completion and not (columns.text or columns.label):
        return "causal"
    raise SettingError(
        f"data file {path.name!r} needs its columns named: text and label for classification, "
        "or prompt and completion for a causal model"
    )


def _examples(path: Path, columns: Columns, kind: Kind) -> list[Example]:
    return examples_of(read_rows(path, no_header=columns.no_header), columns, kind, path.name)


def _require_columns(names: Sequence[str], present: Iterable[str], where: str) -> None:
    present = list(present)
    for name in names:
        if name not in present:
            raise SettingError(f"column {name!r} is not in {where}; it has {', '.join(map(repr, present))}")


def _text(row: dict[str, Any], name: str, where: str) -> str:
    value = row[name]
    if value is None or value != value:
        raise SettingError(f"column {name!r} of {where} is empty; expected a value in every row")
    return str(value)


def _json_lines(path: Path) -> list[dict[str, Any]]:
    import json

    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not an object")
            rows.append(row)
    return rows


def _json(path: Path) -> pd.DataFrame:
    import json

    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("it is not a list of objects")
    return pd.DataFrame(rows)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
