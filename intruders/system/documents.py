"""Documents of ours as JSON: read field by field, and null for what is no number."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import BrokenDocumentError, NewerVersionError, ResultFileError

# From the schema of its key to the next one. Its name says what it changes: ``losses_by_corpus``.
Migrations = Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]
NO_MIGRATIONS: Migrations = {}


def read_document(file: Path, what: str, newest: int) -> dict[str, Any] | None:
    """A JSON file of ours, ``what`` it is for people, as a document of schema ``newest``; None if it does not exist.

    Raises:
      ResultFileError: it cannot be read, is something else, or has another schema: NewerVersionError for a newer one.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ResultFileError(
            f"'{file}' cannot be read as {what}: {error}; restore it, or remove it"
        ) from error
    if not isinstance(document, dict):
        raise ResultFileError(f"'{file}' is not {what}; move it away, or choose another folder")
    return migrated(document, str(file), what, newest)


def migrated(
    document: dict[str, Any], file: str, what: str, newest: int, migrations: Migrations = NO_MIGRATIONS
) -> dict[str, Any]:
    """The document as one of schema ``newest``, by one migration after the other.

    Raises:
      NewerVersionError: its schema is above ``newest``.
      ResultFileError: it is below with no migration from there, or is no number.
    """
    schema = document.get("schema", 1)
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise ResultFileError(f"'{file}' is not {what}; move it away, or choose another folder")
    if schema > newest:
        raise NewerVersionError(
            f"'{file}' was written by a newer version of intruders (schema {schema}, this one reads {newest}); "
            "update intruders, or pass another path"
        )
    while schema < newest:
        if schema not in migrations:
            raise ResultFileError(
                f"'{file}' has schema {schema}; expected {newest}, or an older one that this version converts; "
                "write it again with this version"
            )
        schema += 1
        document = {**migrations[schema - 1](document), "schema": schema}
    return document


def json_number(value: float | None) -> float | None:
    """JSON has no NaN and no infinity: both are written as null, and read as NaN."""
    return float(value) if value is not None and math.isfinite(value) else None


def get_field(record: object, key: str, where: str, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise BrokenDocumentError(f"'{where}' has no '{key}'")
    return is_of_kind(record[key], f"{where}.{key}", kind)


def is_of_kind(value: object, where: str, kind: type | tuple[type, ...]) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    # bool is an int to isinstance, and True is no matrix size.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise BrokenDocumentError(f"'{where}' is {str(value)[:40]!r}; expected {expected}")
    return value
