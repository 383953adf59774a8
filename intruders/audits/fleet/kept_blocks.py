"""What is done of a fleet that is not finished, block by block: what one layer's matrices are in each of the models.

A file holds the rows of some models in one block, as an audit's Parquet has them, and says in its metadata which models
these are. The unit that is kept is thus a block of one model, named by the digest of the model's files: a further model
costs only itself.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ...checkpoints.pairing.pairing import Skipped
from ...system.mirrored_folder import MirroredFolder
from ...system.parquet import document_in, parquet_bytes
from ..result.parquet_form import METADATA_KEY, vector_schema, vector_table
from ..result.records import AuditedMatrix

FOLDER = "blocks"
SCHEMA = 3


@dataclass
class Unit:
    """One block of one model."""

    skipped: list[Skipped] = field(default_factory=list)  # of the block's matrices, with reasons
    refused: str | None = None  # why the model as a whole cannot be judged
    sketch: Tensor | None = None  # (SIZE), double: of its updates in this block; None where there are none


@dataclass(frozen=True)
class KeptBlock:
    """One file; its rows are read when they are asked for."""

    block: str
    units: Mapping[str, Unit]  # by the model's digest
    file: Path

    def rows(self) -> pa.Table:
        """Read its vectors, with their model's digest as the column ``digest``."""
        wanted = _schema().names
        with pq.ParquetFile(self.file) as file:
            there = set(file.schema_arrow.names)
            table = file.read(columns=[name for name in wanted if name in there])
        for name in wanted:
            if name not in there:  # of a block that an older version kept
                kind = _schema().field(name).type
                table = table.append_column(name, pa.nulls(table.num_rows, kind))
        return table.select(wanted).replace_schema_metadata(None)


@dataclass(frozen=True)
class KeptBlocks:
    """All blocks that are kept under one key: of one base, by one set of settings. A value that can be sent away."""

    folder: MirroredFolder
    key: str

    def each(self) -> Iterator[KeptBlock]:
        """Yield file after file; skip a broken one and one of another key, whose units are made again."""
        for name in self._names():
            file = self.folder.fetched(f"{FOLDER}/{name}")
            try:
                header = document_in(pq.read_schema(file), METADATA_KEY)
            except (pa.ArrowException, OSError, KeyError, ValueError):
                continue
            if (header.get("schema"), header.get("key")) == (SCHEMA, self.key):
                units = {
                    digest: Unit(
                        [Skipped.from_stored(*stored) for stored in unit["skipped"]],
                        unit["refused"],
                        sketch_of_text(unit["sketch"]),
                    )
                    for digest, unit in header["units"].items()
                }
                yield KeptBlock(header["block"], units, file)

    def keep(
        self,
        block: str,
        units: Mapping[str, Unit],
        rows: Sequence[pa.Table],
    ) -> None:
        """Keep the units of a block, all or none; ``rows`` are theirs, from :func:`rows_of`."""
        header = {
            "schema": SCHEMA,
            "key": self.key,
            "block": block,
            "units": {
                digest: {
                    "skipped": [[skipped.name, skipped.reason, skipped.kind] for skipped in unit.skipped],
                    "refused": unit.refused,
                    "sketch": text_of_sketch(unit.sketch),
                }
                for digest, unit in units.items()
            },
        }
        table = pa.concat_tables(rows) if rows else _schema().empty_table()
        content = parquet_bytes(table, {METADATA_KEY: header})
        self.folder.put(f"{FOLDER}/{self._name(block, units)}", content)

    def forget(self, finished: Collection[str]) -> None:
        """Remove the files whose models are all finished, by their digests."""
        for kept in list(self.each()):
            if kept.units.keys() <= set(finished):
                self.folder.remove(f"{FOLDER}/{kept.file.name}")

    def _name(self, block: str, units: Mapping[str, Unit]) -> str:
        content = hashlib.sha256(" ".join(sorted(units)).encode()).hexdigest()
        plain = re.sub(r"[^\w.-]+", "-", block)[:60]
        block_hash = hashlib.sha256(block.encode()).hexdigest()[:6]
        return f"{self.key[:12]}_{plain}_{block_hash}_{content[:12]}.parquet"

    def _names(self) -> list[str]:
        """Return the names of this key's files."""
        names = self.folder.names(FOLDER)
        return [name for name in names if name.startswith(self.key[:12]) and name.endswith(".parquet")]


def text_of_sketch(sketch: Tensor | None) -> str | None:
    return None if sketch is None else base64.b64encode(sketch.numpy().astype("<f8").tobytes()).decode()


def sketch_of_text(text: str | None) -> Tensor | None:
    return None if text is None else torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f8").copy())


def rows_of(digests: Sequence[str], matrices: Sequence[AuditedMatrix]) -> pa.Table:
    """Return the rows of matrices, each with the digest of its model."""
    owners = list(zip(digests, matrices, strict=True))
    table = vector_table(matrices)
    for name, values in {
        "digest": [digest for digest, matrix in owners for _ in matrix.vectors],
        "base_value": [
            next(iter(matrix.base_singular_values), 0.0) for matrix in matrices for _ in matrix.vectors
        ],
    }.items():
        table = table.append_column(_schema().field(name), pa.array(values, _schema().field(name).type))
    return table


def _schema() -> pa.Schema:
    own = [
        pa.field("digest", pa.string()),
        pa.field("base_value", pa.float64()),  # the base's largest singular value
    ]
    return pa.schema([*vector_schema(), *own])
