"""Documents of ours as JSON, read by their schema."""

import json
from pathlib import Path
from typing import Any

from ..errors import NewerVersionError, ResultFileError


def read_document(file: Path, what: str, schema: int) -> dict[str, Any] | None:
    """Read a JSON file of ours, ``what`` it is for people, with the number ``schema``; None if it does not exist.

    ResultFileError if it is damaged, something else or of another schema: NewerVersionError for a newer one.
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
    return of_schema(document, str(file), what, schema)


def of_schema(document: dict[str, Any], file: str, what: str, schema: int) -> dict[str, Any]:
    """Return a document that has this number of a schema, or refuse it as :func:`read_document` does."""
    own = document.get("schema", 1)
    if not isinstance(own, int) or isinstance(own, bool):
        raise ResultFileError(f"'{file}' is not {what}; move it away, or choose another folder")
    if own > schema:
        raise NewerVersionError(
            f"'{file}' was written by a newer version of intruders (schema {own}, this one reads {schema}); "
            "update intruders, or pass another path"
        )
    if own < schema:
        raise ResultFileError(
            f"'{file}' has schema {own}; expected {schema}; write it again with this version"
        )
    return document
