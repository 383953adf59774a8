"""The folder ``vectors`` of a fleet: one Parquet file per adapter. It is a saved audit with the adapter in front.

A further adapter adds a file and rewrites none. What a table of the fleet needs besides the rows is in the metadata of
each file. Files of adapters that a call does not list, and of other settings, wait in the folder ``others``, so that
``vectors`` as a whole is the table of the call.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from ...checkpoints.stored.checkpoint import Checkpoint
from ...errors import ResultFileError
from ...system.mirrored_folder import MirroredFolder
from ...system.parquet import document_in, parquet_bytes
from ...system.plain_values import from_plain, plain
from ..result.parquet_form import METADATA_KEY, vector_schema
from .fleet_members import ModelFacts
from .kept_blocks import sketch_of_text, text_of_sketch

VECTORS, OTHERS = "vectors", "others"
_OF_FLEET = b"intruders_fleet"
_SCHEMA = 1
# The columns of a file: those of an audit, after the adapter, and the largest singular value of the base.
COLUMNS = ["adapter", *vector_schema().names, "base_value"]


@dataclass(frozen=True)
class AdapterFile:
    """What a file says of its adapter as a whole."""

    path: Path
    source: str
    digest: str
    facts: ModelFacts
    counts: Mapping[str, Any]  # columns of the table of the fleet that are counted from the rows
    refused: str | None = None  # why the model cannot be audited
    sketch: Tensor | None = None  # (SIZE), double: of all its updates

    def documents(self, key: str, header: Mapping[str, Any]) -> dict[bytes, Mapping[str, Any]]:
        """Return what is in the metadata of the file: the header of its audit, and what the fleet needs."""
        record = {
            "schema": _SCHEMA,
            "key": key,
            "source": self.source,
            "digest": self.digest,
            "facts": plain(self.facts),
            "counts": plain(self.counts),
            "refused": self.refused,
            "sketch": text_of_sketch(self.sketch),
        }
        return {METADATA_KEY: header, _OF_FLEET: record}

    @classmethod
    def read(cls, path: Path, key: str) -> AdapterFile | None:
        """Read the metadata of a file; None if it is broken or of another key."""
        try:
            record = document_in(pq.read_schema(path), _OF_FLEET)
            if (record["schema"], record["key"]) != (_SCHEMA, key):
                return None
            sketch = sketch_of_text(record["sketch"])
            facts: ModelFacts = from_plain(ModelFacts, record["facts"])
        except (pa.ArrowException, OSError, LookupError, TypeError, ValueError):
            return None
        return cls(
            path, record["source"], record["digest"], facts, record["counts"], record["refused"], sketch
        )


def file_name(key: str, source: str, digest: str) -> str:
    """Return the name of an adapter's file, by which it is known: equal names have equal content."""
    content = hashlib.sha256("\n".join((key, source, digest)).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '-', source)[-60:].strip('.-')}_{content[:12]}.parquet"


@dataclass(frozen=True)
class AdapterFiles:
    """All files under one key: of one base, by one set of settings."""

    folder: MirroredFolder
    key: str

    def each(self) -> Iterator[AdapterFile]:
        """Yield what every file of the key says, those of earlier calls too; broken ones are left out."""
        for under in (VECTORS, OTHERS):
            for name in self._names(under):
                file = AdapterFile.read(self.folder.fetched(f"{under}/{name}"), self.key)
                if file is not None:
                    yield file

    def write(self, file: AdapterFile, header: Mapping[str, Any], rows: pa.Table) -> None:
        """Write the file of an adapter, completely or not at all.

        Raises:
          ResultFileError: there is no room for it.
        """
        names = pa.array([file.source] * rows.num_rows, pa.string())
        table = rows.add_column(0, "adapter", names).select(COLUMNS)
        content = parquet_bytes(table, file.documents(self.key, header), only_texts=True)
        self._put(f"{file.path.parent.name}/{file.path.name}", content)

    def path(self, source: str, digest: str) -> Path:
        return self.folder.path / VECTORS / file_name(self.key, source, digest)

    def under_base(self, file: AdapterFile, base: Checkpoint) -> AdapterFile:
        """Return a finished file, which is written again if its audit names an equal base that is elsewhere."""
        named = document_in(pq.read_schema(file.path), METADATA_KEY)["base"]["source"]
        return file if named == base.source else self.rename(file, file.source, base)

    def rename(self, file: AdapterFile, source: str, base: Checkpoint) -> AdapterFile:
        """Write the file of an adapter of the same content with these sources of the adapter and of the base."""
        # One under its own name stays in its folder: from ``others``, the old one would replace it.
        path = file.path if source == file.source else self.path(source, file.digest)
        renamed = replace(file, path=path, source=source)
        table = pq.read_table(file.path)
        header = document_in(table.schema, METADATA_KEY)
        header["tuned"]["source"] = source
        header["base"] = {"source": base.source, "hub": [origin.as_dict() for origin in base.hub]}
        self.write(renamed, header, table.drop_columns(["adapter"]))
        return renamed

    def arrange(self, wanted: Collection[str]) -> None:
        """Leave in ``vectors`` the files of these names alone: others wait in ``others``, and come back from there."""
        for name in self._names(OTHERS):
            if name in wanted:
                self.folder.move(f"{OTHERS}/{name}", f"{VECTORS}/{name}")
        for name in self._names(VECTORS):
            if name not in wanted:
                self.folder.move(f"{VECTORS}/{name}", f"{OTHERS}/{name}")

    def _put(self, name: str, content: bytes) -> None:
        try:
            self.folder.put(name, content)
        except ResultFileError as error:
            raise ResultFileError(
                f"{error}; what is audited is kept; run the same command again when there is room"
            ) from error

    def _names(self, under: str) -> list[str]:
        return [name for name in self.folder.names(under) if name.endswith(".parquet")]
