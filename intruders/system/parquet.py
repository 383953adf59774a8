"""Tables as Parquet files, with JSON documents in the metadata of their schema."""

import io
import json
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_HARDER = 12  # of zstd's 22 levels; beyond it a table of vectors takes seconds


def parquet_bytes(
    table: "pa.Table",
    documents: Mapping[bytes, object] | None = None,
    *,
    only_texts: bool = False,
    is_small: bool = False,
) -> bytes:
    """Return the table as the content of a Parquet file, with JSON ``documents``, if any, in place of its own metadata.

    With ``only_texts`` only columns of text have dictionaries: names repeat, and a dictionary of them saves most of a
    file; one of numbers, which differ, adds to it. With ``is_small``, which needs ``only_texts``, the size counts more
    than the time to write: fractions are split into their bytes, and compressed harder.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if documents:
        dump = partial(json.dumps, allow_nan=False, ensure_ascii=False)
        table = table.replace_schema_metadata({key: dump(document) for key, document in documents.items()})
    texts = [column.name for column in table.schema if pa.types.is_string(column.type)]
    fractions = [column.name for column in table.schema if pa.types.is_floating(column.type)]
    content = io.BytesIO()
    pq.write_table(
        table,
        content,
        compression="zstd",
        compression_level=_HARDER if is_small else None,
        use_dictionary=texts if only_texts else True,
        use_byte_stream_split=(fractions if is_small else []) or False,
    )
    return content.getvalue()


def document_in(schema: "pa.Schema", key: bytes) -> Any:
    """Return the JSON document under a key of a schema's metadata; KeyError if there is none."""
    return json.loads((schema.metadata or {})[key])
