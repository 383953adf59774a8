"""The record ``heal.json`` of a healing: write it, read it, and find one that is finished."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import SettingError
from ...system.documents import read_document
from ...system.versions import installed_versions
from ...version import __version__
from .healing import Healing
from .work_folder import RECORD, SCHEMA, require_same


def load_healing(file: str | os.PathLike[str]) -> Healing:
    """Read the record of a healing, from its file or from the folder that it wrote.

    Raises:
      SettingError: the file does not exist or is not the record of a healing.
      ResultFileError: the file cannot be read.
    """
    path = Path(file)
    path = path / RECORD if path.is_dir() else path
    record = read_document(path, "the record of a healing", SCHEMA)
    if record is None:
        raise SettingError(f"'{file}' does not exist; expected the {RECORD} of a healing; pass its path")
    try:
        return Healing.from_dict(record["healing"])
    except (KeyError, TypeError, AssertionError) as error:
        raise SettingError(f"'{file}' is not the record of a healing; pass the {RECORD} of one") from error


def document(healing: Healing, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``heal.json``, in plain JSON values."""
    return {
        "schema": SCHEMA,
        "intruders_version": __version__,
        "of": dict(key),
        "healing": healing.to_document(),
        "versions": installed_versions(),
    }


def record_text(healing: Healing, key: Mapping[str, Any]) -> str:
    return json.dumps(document(healing, key), ensure_ascii=False, allow_nan=False) + "\n"


def finished_healing(folder: Path, key: Mapping[str, Any]) -> Healing | None:
    """Return the finished healing in the folder; None if the folder has none.

    Raises:
      SettingError: the folder has another healing.
    """
    record = read_document(folder / RECORD, "the record of a healing", SCHEMA)
    if record is None:
        return None
    require_same(record.get("of", {}), key, f"'{folder}'", folder)
    return load_healing(folder)
