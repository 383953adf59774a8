"""The folder of a fleet: what is done of it, block by block, and a Parquet file per finished adapter.

A block is what one layer's matrices are in each of the models. A file in ``blocks`` holds the rows of some models in
one block, by the digests of the models' files: a further model costs only itself. A file in ``vectors`` is a saved
audit with the adapter in front, and what a table of the fleet needs besides the rows in its metadata. Files of
adapters that a call does not list, and of other settings, wait in the folder ``others``, so that ``vectors`` as a
whole is the table of the call.
"""

import base64
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ...checkpoints.pairing.pairing import Skipped
from ...checkpoints.stored.checkpoint import Checkpoint
from ...errors import ResultFileError
from ...system.parquet import document_in, parquet_bytes
from ...system.plain_values import from_plain, plain
from ...system.store import Store
from ..judge import Judged
from ..kept_nats import to_bytes
from ..result.vector_table import METADATA_KEY, WITH_BASE_VALUE, rows_of_matrix

BLOCKS, VECTORS, OTHERS = "blocks", "vectors", "others"
_OF_FLEET = b"intruders_fleet"
_SCHEMA = 3
_SCHEMA_OF_BLOCKS = 6
_UNREADABLE = (pa.ArrowException, OSError, LookupError, TypeError, ValueError)
# Of a matrix, in its first row in a block: what it adds to the nats that are predicted of its model.
RESPONSES = "responses"
_ROWS = WITH_BASE_VALUE.insert(0, pa.field("adapter", pa.string()))


@dataclass
class Unit:
    """One block of one model."""

    skipped: list[Skipped]  # of the block's matrices, with reasons
    sketch: str | None  # of its updates in this block, by :func:`sketch_text`; None where there are none


@dataclass(frozen=True)
class KeptBlock:
    """One file of a block, whose rows are the vectors with their model's digest as the adapter."""

    block: str
    units: Mapping[str, Unit]  # by the model's digest
    file: Path


@dataclass(frozen=True)
class AdapterFile:
    """What a file says of its adapter as a whole."""

    path: Path
    source: str
    digest: str
    facts: Mapping[str, Any]  # columns of the table of the fleet that are known from config and headers
    counts: Mapping[str, Any]  # those that are counted from the rows
    sketch: str | None = None  # of all its updates, by :func:`sketch_text`


@dataclass(frozen=True)
class FleetFiles:
    """All files under one key: of one base, by one set of settings. A value that can be sent away."""

    folder: Store
    key: str

    def blocks(self) -> Iterator[KeptBlock]:
        """Yield block after block; skip a broken file and one of another key, whose units are made again."""
        for name in self._names(BLOCKS):
            if not name.startswith(self.key[:12]):
                continue
            file = self.folder.fetched(f"{BLOCKS}/{name}")
            with suppress(*_UNREADABLE):
                header = document_in(pq.read_schema(file), METADATA_KEY)
                if (header["schema"], header["key"]) == (_SCHEMA_OF_BLOCKS, self.key):
                    units = from_plain(dict[str, Unit], header["units"])
                    yield KeptBlock(header["block"], units, file)

    def keep(self, block: str, units: Mapping[str, Unit], rows: pa.Table) -> None:
        """Keep the units of a block, all or none; ``rows`` are theirs, from :func:`rows_of`."""
        header = {"schema": _SCHEMA_OF_BLOCKS, "key": self.key, "block": block, "units": plain(units)}
        readable = re.sub(r"[^\w.-]+", "-", block)[:60]
        name = f"{self.key[:12]}_{readable}_{_hash(block)[:6]}_{_hash(' '.join(sorted(units)))[:12]}.parquet"
        self.folder.put(f"{BLOCKS}/{name}", parquet_bytes(rows, {METADATA_KEY: header}))

    def forget(self, finished: Collection[str]) -> None:
        """Remove the blocks whose models are all finished, by their digests."""
        for kept in list(self.blocks()):
            if kept.units.keys() <= set(finished):
                self.folder.remove(f"{BLOCKS}/{kept.file.name}")

    def adapters(self) -> Iterator[AdapterFile]:
        """Yield what the file of every adapter says, those of earlier calls too; skip as :meth:`blocks` does."""
        for name in [f"{under}/{name}" for under in (VECTORS, OTHERS) for name in self._names(under)]:
            path = self.folder.fetched(name)
            with suppress(*_UNREADABLE):
                record = document_in(pq.read_schema(path), _OF_FLEET)
                if (record["schema"], record["key"]) == (_SCHEMA, self.key):
                    yield from_plain(AdapterFile, record | {"path": str(path)})

    def write(self, file: AdapterFile, header: Mapping[str, Any], rows: pa.Table) -> None:
        """Write the file of an adapter, completely or not at all: the header of its audit, and its rows."""
        names = pa.array([file.source] * rows.num_rows, pa.string())
        record = plain(file) | {"schema": _SCHEMA, "key": self.key, "path": file.path.name}
        documents = {METADATA_KEY: header, _OF_FLEET: record}
        content = parquet_bytes(rows.set_column(0, "adapter", names), documents, only_texts=True)
        try:
            self.folder.put(f"{file.path.parent.name}/{file.path.name}", content)
        except ResultFileError as error:
            raise ResultFileError(
                f"{error}; what is audited is kept; run the same command again when there is room"
            ) from error

    def path(self, source: str, digest: str) -> Path:
        """Return the file of an adapter, by whose name it is known: equal names have equal content."""
        content = _hash("\n".join((self.key, source, digest)))
        readable = re.sub(r"[^A-Za-z0-9.-]+", "-", source)[-60:].strip(".-")
        return self.folder.path / VECTORS / f"{readable}_{content[:12]}.parquet"

    def named(self, file: AdapterFile, source: str, base: Checkpoint) -> AdapterFile:
        """Return a file with these sources of the adapter and of the base, written anew where one of them is another's.

        The contents are equal: of an adapter that is in the fleet twice, and of a model that was moved.
        """
        header = document_in(pq.read_schema(file.path), METADATA_KEY)
        if (file.source, header["base"]["source"]) == (source, base.source):
            return file
        # One under its own name stays in its folder: from ``others``, the old one would replace it.
        path = file.path if source == file.source else self.path(source, file.digest)
        renamed = replace(file, path=path, source=source)
        header["tuned"]["source"] = source
        header["base"] = {"source": base.source, "hub": plain(base.hub)}
        self.write(renamed, header, pq.read_table(file.path))
        return renamed

    def arrange(self, wanted: Collection[str]) -> None:
        """Leave in ``vectors`` the files of these names alone: others wait in ``others``, and come back from there."""
        for name in self._names(OTHERS):
            if name in wanted:
                self.folder.move(f"{OTHERS}/{name}", f"{VECTORS}/{name}")
        for name in self._names(VECTORS):
            if name not in wanted:
                self.folder.move(f"{VECTORS}/{name}", f"{OTHERS}/{name}")

    def _names(self, under: str) -> list[str]:
        return [name for name in self.folder.names(under) if name.endswith(".parquet")]


def rows_of(digests: Sequence[str], judged: Sequence[Judged]) -> pa.Table:
    """Return the rows of matrices, each with the digest of its model as the adapter."""
    owned = zip(digests, judged, strict=True)
    rows = [{"adapter": digest, **row} for digest, own in owned for row in rows_of_matrix(own.matrix)]
    responses = [
        None if vector.index or own.responses is None else to_bytes(own.responses)
        for own in judged
        for vector in own.matrix.vectors
    ]
    # As a column of their own: one key more would double each of the rows in memory.
    return pa.Table.from_pylist(rows, _ROWS).append_column(RESPONSES, pa.array(responses, pa.binary()))


def sketch_text(sketch: Tensor) -> str:
    """Return a sketch (SIZE) as text: of thousands of models, numbers of Python would take four times the memory."""
    return base64.b64encode(sketch.cpu().numpy().astype("<f8").tobytes()).decode()


def sketch_of_text(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f8").copy())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
