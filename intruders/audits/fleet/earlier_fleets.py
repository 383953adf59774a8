"""Folders of fleets that earlier versions wrote: how their documents are read, and what is left of them to remove."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...system.documents import Migrations
from ...system.parquet import document_in

# One file of all adapters, and an index of the blocks; both are in the files of single adapters now.
EARLIER_VECTORS, _EARLIER_INDEX = "vectors.parquet", "finished"
_MODELS = b"intruders.models"


def without_opinions(document: dict[str, Any]) -> dict[str, Any]:
    """Take out what the report makes of the other columns."""
    opinions = {"for_hosts", "unusual", "unusual_in"}
    rows = [
        {name: value for name, value in row.items() if name not in opinions} for row in document["adapters"]
    ]
    return {**document, "adapters": rows}


MIGRATIONS: Migrations = {1: without_opinions}


def key_of_earlier_tables(folder: Path) -> str | None:
    """Return the key of the tables of an earlier version; None without them."""
    try:
        return str(document_in(pq.read_schema(folder / EARLIER_VECTORS), _MODELS)["key"])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None


def remove_earlier_tables(folder: Path) -> None:
    """Remove the tables of an earlier version, once their models have files of their own."""
    (folder / EARLIER_VECTORS).unlink(missing_ok=True)
    shutil.rmtree(folder / _EARLIER_INDEX, ignore_errors=True)
