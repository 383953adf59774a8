"""What is finished of a fleet, model by model, in one file: a further model need not ask for the blocks of the others.

Blocks stay the truth. The file says which of them it was made from, and counts for nothing where one of these has
another size or is gone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from ...checkpoints.pairing.pairing import Skipped
from ...system.files import write_atomically
from ..result.parquet_form import METADATA_KEY
from .fleet_members import Known, ModelFacts
from .kept_blocks import KeptBlocks, bytes_of_sketch, sketch_of_bytes

FOLDER = "finished"
_SCHEMA = 2
_SKETCH = "sketch"


@dataclass
class FinishedModel:
    """A model as its blocks describe it."""

    known: Known
    skipped: dict[str, Skipped] = field(default_factory=dict)  # matrices that were not judged, by name
    refused: str | None = None  # why it cannot be judged
    sketch: Tensor | None = None  # (SIZE), double: of all its updates


@dataclass(frozen=True)
class BlockFile:
    """A file of blocks when it was read."""

    size: int
    has_unfinished: bool  # rows of models that are not finished


@dataclass(frozen=True)
class FinishedModels:
    """All of them, by digest, with one row per matrix of each."""

    models: Mapping[str, FinishedModel] = field(default_factory=dict)
    matrices: pd.DataFrame | None = None  # as `fleet_table.matrices_of_rows` gives them
    files: Mapping[str, BlockFile] = field(default_factory=dict)  # what this was made from

    @property
    def known(self) -> dict[str, Known]:
        return {digest: model.known for digest, model in self.models.items()}

    @property
    def closed_files(self) -> set[str]:
        """Block files whose models are all finished."""
        return {name for name, file in self.files.items() if not file.has_unfinished}

    @classmethod
    def read(cls, blocks: KeptBlocks) -> FinishedModels:
        """Read what an earlier call kept; nothing if the file is broken or its blocks have changed."""
        content = blocks.beside(_name(blocks))
        if content is None:
            return cls()
        try:
            table = pq.read_table(io.BytesIO(content))
            header = json.loads((table.schema.metadata or {})[METADATA_KEY])
        except (pa.ArrowException, OSError, KeyError, ValueError):
            return cls()
        if (header.get("schema"), header.get("key")) != (_SCHEMA, blocks.key):
            return cls()
        files = {name: BlockFile(*record) for name, record in header["files"].items()}
        if not blocks.hold({name: file.size for name, file in files.items()}):
            return cls()
        lists = [tuple(names) for names in header["names"]]
        models = {digest: _model(record, lists) for digest, record in header["models"].items()}
        for digest, content in zip(table["digest"].to_pylist(), table[_SKETCH].to_pylist(), strict=True):
            if content is not None:
                models[digest].sketch = sketch_of_bytes(content)
        matrices = table.drop_columns([_SKETCH]).replace_schema_metadata(None).to_pandas()
        return cls(models, matrices, files)

    def write(self, blocks: KeptBlocks) -> None:
        """Write the file next to the blocks, completely or not at all."""
        lists: dict[tuple[str, ...], int] = {}
        models = {digest: _record(model, lists) for digest, model in self.models.items()}
        header = {
            "schema": _SCHEMA,
            "key": blocks.key,
            "models": models,
            "names": list(lists),
            "files": {name: [file.size, file.has_unfinished] for name, file in self.files.items()},
        }
        table = self._table()
        table = table.replace_schema_metadata({METADATA_KEY: json.dumps(header).encode()})
        content = io.BytesIO()
        pq.write_table(table, content, compression="zstd", use_dictionary=["digest", "name"])
        target = blocks.folder / _name(blocks)
        target.parent.mkdir(exist_ok=True)
        write_atomically(target, content.getvalue())
        blocks.put(_name(blocks))

    def _table(self) -> pa.Table:
        """One row per matrix. The first of a model has its sketch: in the header they would be held several times."""
        matrices = self.matrices
        assert matrices is not None
        sketches = [
            None if is_later else bytes_of_sketch(self.models[digest].sketch)
            for digest, is_later in zip(matrices["digest"], matrices["digest"].duplicated(), strict=True)
        ]
        table = pa.Table.from_pandas(matrices, preserve_index=False)
        return table.append_column(_SKETCH, pa.array(sketches, pa.binary()))


def _name(blocks: KeptBlocks) -> str:
    return f"{FOLDER}/{blocks.key[:12]}.parquet"


def _record(model: FinishedModel, lists: dict[tuple[str, ...], int]) -> dict[str, Any]:
    """Return plain values; names are stored as the index of a list that many models share."""
    return {
        "facts": asdict(model.known.facts),
        "names": lists.setdefault(model.known.names, len(lists)),
        "skipped": {name: [skipped.reason, skipped.kind] for name, skipped in model.skipped.items()},
        "refused": model.refused,
    }


def _model(record: Mapping[str, Any], lists: Sequence[tuple[str, ...]]) -> FinishedModel:
    facts: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record["facts"].items()
    }
    return FinishedModel(
        Known(ModelFacts(**facts), lists[record["names"]]),
        {
            # An earlier version wrote the reason alone.
            name: Skipped.from_stored(name, *([stored] if isinstance(stored, str) else stored))
            for name, stored in record["skipped"].items()
        },
        record["refused"],
    )
