"""vectors.parquet of a fleet: a row per vector and adapter, of which a further adapter only adds its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import ResultFileError, first_line
from ..result.parquet_form import vector_schema
from .kept_blocks import rows_of

# Of each vector, after the adapter's name.
VECTOR_COLUMNS = [
    name for name in vector_schema().names if name not in ("similarity", "base_singular_values")
]
_BATCH_ROWS = 200_000
_HOLDS = b"intruders.models"

Models = Sequence[tuple[str, str]]  # source and digest
RowsOf = Callable[[set[str]], Iterable[pa.Table]]  # the rows of the models with these digests


def vector_tables(models: Models, rows_of_models: RowsOf) -> Iterator[pa.Table]:
    """Yield the rows of the models in tables; a model that is in the fleet twice comes twice."""
    sources: dict[str, list[str]] = {}
    for source, digest in models:
        sources.setdefault(digest, []).append(source)
    if sources:
        for rows in in_batches(rows_of_models(set(sources))):
            yield _with_adapter(rows, sources)


def write_vectors(
    path: Path, key: str, models: Models, rows_of_models: RowsOf, metadata: Mapping[bytes, bytes]
) -> None:
    """Write the file of these models, completely or not at all.

    Where the file that is there holds some of them and no others, and was made under the same key, its rows are
    copied, and the blocks are asked for the rest alone.
    """
    held = _held(path, key)
    if not held <= set(models):
        held = set()
    part = path.with_name(f".{path.name}.part")
    try:
        try:
            _write(path, part, key, models, held, rows_of_models, metadata)
        except (pa.ArrowException, OSError):
            if not held:
                raise
            # The file that was there is broken.
            _write(path, part, key, models, set(), rows_of_models, metadata)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def _cannot_write(path: Path, error: OSError) -> ResultFileError:
    """Return the error in one line, such as that of a full disk; Arrow's own text has several."""
    reason = os.strerror(error.errno).lower() if error.errno else first_line(error)
    return ResultFileError(
        f"cannot write '{path}': {reason}; what is audited is kept; run the same command again when there is room"
    )


def _held(path: Path, key: str) -> set[tuple[str, str]]:
    """Return the models of the existing file; none if it is broken or was made under another key."""
    contents = _what_it_holds(path)
    if contents is None or contents["key"] != key:
        return set()
    return {(source, digest) for source, digest in contents["models"]}


def key_of_vectors(path: Path) -> str | None:
    """Return the key of the existing file; None if the file is missing or broken."""
    contents = _what_it_holds(path)
    return None if contents is None else str(contents["key"])


def _what_it_holds(path: Path) -> dict[str, Any] | None:
    try:
        contents: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[_HOLDS])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    return contents


def _write(
    path: Path,
    part: Path,
    key: str,
    models: Models,
    held: set[tuple[str, str]],
    rows_of_models: RowsOf,
    metadata: Mapping[bytes, bytes],
) -> None:
    holds = json.dumps({"key": key, "models": list(models)}).encode()
    schema = _with_adapter(rows_of([], []), {}).schema.with_metadata({**metadata, _HOLDS: holds})
    texts = [column.name for column in schema if column.type == pa.string()]
    with pq.ParquetWriter(part, schema, compression="zstd", use_dictionary=texts) as writer:

        def tables() -> Iterator[pa.Table]:
            if held:
                with pq.ParquetFile(path) as file:
                    for group in range(file.num_row_groups):
                        yield file.read_row_group(group)
            yield from vector_tables([model for model in models if model not in held], rows_of_models)

        for table in in_batches(tables()):
            writer.write_table(table.replace_schema_metadata(schema.metadata))
    part.replace(path)


def in_batches(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join tables of a few rows: a hundred small ones cost as many calls as a hundred large ones."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table.replace_schema_metadata(None))
        if sum(rows.num_rows for rows in waiting) >= _BATCH_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _with_adapter(rows: pa.Table, sources: Mapping[str, list[str]]) -> pa.Table:
    """Return the columns of vectors.parquet; a model that is in the fleet twice comes twice."""
    digests = rows["digest"].to_pylist()
    most = max((len(sources[digest]) for digest in set(digests)), default=1)
    parts = []
    for turn in range(most):
        here = [row for row, digest in enumerate(digests) if len(sources[digest]) > turn]
        names = pa.array([sources[digests[row]][turn] for row in here], pa.string())
        chosen = rows.take(pa.array(here, pa.int64())) if len(here) < len(digests) else rows
        parts.append(chosen.select(VECTOR_COLUMNS).add_column(0, "adapter", names))
    return pa.concat_tables(parts)
