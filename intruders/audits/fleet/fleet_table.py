"""The table of a fleet: one row per model, from what its config says and what the audit found."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from ...linalg.random_directions import normalized
from ..result.forgetting import Forgetting
from ..result.records import energy_share_of
from ..result.vector_table import relative_updates
from .fleet_files import AdapterFile, sketch_of_text
from .fleet_members import Member

# Name and Arrow type of every column of adapters.parquet.
COLUMNS: tuple[tuple[str, str], ...] = (
    ("adapter", "string"),
    ("status", "string"),  # "audited" or "refused"
    ("reason", "string"),  # of a refusal
    ("duplicate_of", "string"),  # the first model of the list whose files have the same content
    ("method", "string"),
    ("rank_min", "int64"),
    ("rank_max", "int64"),
    ("scale_min", "float64"),
    ("scale_max", "float64"),
    ("targets", "string"),
    ("named_base", "string"),
    ("names_this_base", "bool"),
    ("matched_by", "string"),
    ("saved_in_full", "int64"),
    ("matrices", "int64"),
    ("zero_updates", "int64"),
    ("non_finite", "int64"),
    ("vectors", "int64"),
    ("intruders", "int64"),
    ("intruder_share", "float64"),
    ("energy_share", "float64"),
    ("ambiguous", "int64"),
    ("update_relative_median", "float64"),
    ("update_relative_max", "float64"),
    ("update_relative_where", "string"),
    ("frobenius", "float64"),
    ("effective_rank", "float64"),
    ("stable_rank", "float64"),
    ("nearest", "string"),  # the other model whose update points most nearly the same way
    ("nearest_cosine", "float64"),  # estimated, between the two updates
    ("nats", "float64"),  # predicted to be forgotten per token, with the ends of the 95 % interval
    ("nats_low", "float64"),
    ("nats_high", "float64"),
    ("nats_in_affected", "float64"),  # the share of it that lies in matrices with intruders
    ("nats_on", "string"),  # the text
    ("digest", "string"),
)
_IN_PANDAS = {"string": "string", "int64": "Int64", "float64": "float64", "bool": "boolean"}
# Models of which the cosines with all others are computed at a time.
_TOGETHER = 1000


def counts_of_model(rows: pa.Table) -> dict[str, Any]:
    """Return the totals of one model, as columns of the table, from its rows of vectors."""
    if rows.num_rows == 0:
        return {"matrices": 0, "vectors": 0, "intruders": 0, "ambiguous": 0}
    values, intruder = _column(rows, "singular_value"), _column(rows, "intruder")
    intruders, vectors = int(intruder.sum()), len(values)
    of_matrices = rows.filter(pc.equal(rows["index"], 0))
    relative = relative_updates(_column(of_matrices, "spectral"), _column(of_matrices, "base_value"))
    known = relative[~np.isnan(relative)]
    return {
        "matrices": len(relative),
        "vectors": vectors,
        "intruders": intruders,
        "intruder_share": intruders / vectors,
        "energy_share": energy_share_of(values.tolist(), intruder.tolist()),
        "ambiguous": int(_column(rows, "ambiguous").sum()),
        "update_relative_median": float(np.median(known)) if len(known) else math.nan,
        "update_relative_max": float(known.max()) if len(known) else math.nan,
        "update_relative_where": of_matrices["name"][np.nanargmax(relative)].as_py() if len(known) else None,
        "frobenius": math.hypot(*_column(of_matrices, "frobenius")),
        "effective_rank": float(np.median(_column(of_matrices, "effective_rank"))),
        "stable_rank": float(np.median(_column(of_matrices, "stable_rank"))),
    }


def nats_of(forgetting: Forgetting) -> dict[str, Any]:
    kl = forgetting.kl
    return {
        "nats": kl.estimate,
        "nats_low": kl.low,
        "nats_high": kl.high,
        "nats_in_affected": forgetting.affected_share,
        "nats_on": forgetting.text,
    }


def adapter_table(
    members: Sequence[Member], files: Mapping[tuple[str, str], AdapterFile], base: str
) -> pd.DataFrame:
    """Return one row per model, in the order of ``members``; files are by source and digest of the model."""
    first_of: dict[str, str] = {}
    rows = []
    for member in members:
        file = files.get((member.source, member.digest))
        row: dict[str, Any] = {
            "adapter": member.source,
            "status": "audited" if member.reason is None else "refused",
            "reason": member.reason,
            "duplicate_of": first_of.get(member.digest),
            "digest": member.digest,
            "saved_in_full": 0,
            **(member.facts if file is None else file.facts),
        }
        if (named := row.get("named_base")) is not None:
            row["names_this_base"] = _last_part(named) == _last_part(base)
        first_of.setdefault(member.digest, member.source)
        if file is not None:
            row |= file.counts
        rows.append(row)
    # An update whose numbers are too large for any product has no direction that could be compared.
    sketches = {
        file.digest: sketch
        for file in files.values()
        if file.sketch is not None and bool((sketch := sketch_of_text(file.sketch)).isfinite().all())
    }
    return _with_nearest(as_frame(rows), sketches)


def as_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=[name for name, _ in COLUMNS])
    return table.astype({name: _IN_PANDAS[kind] for name, kind in COLUMNS})


def as_arrow(adapters: pd.DataFrame) -> pa.Table:
    """The table with the types of its columns, whatever is missing in it."""
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS])
    table = pa.Table.from_pandas(adapters, schema, preserve_index=False)
    return table.replace_schema_metadata(None)


def _column(rows: pa.Table, name: str) -> np.ndarray[Any, Any]:
    """Return a column as an array; one data frame per model would take ten times as long."""
    return np.asarray(rows[name].to_numpy())


def _last_part(base: str) -> str:
    """Return what `org/model` and `/models/model` have in common."""
    return base.rstrip("/").rpartition("/")[2]


def _with_nearest(table: pd.DataFrame, sketches: Mapping[str, Tensor]) -> pd.DataFrame:
    """Add the model with other files whose update has the largest cosine with this one's, by their sketches."""
    judged = table[table["status"].eq("audited") & table["digest"].isin(sketches.keys())]
    first = judged.drop_duplicates("digest")
    digests, sources = list(first["digest"]), list(first["adapter"])
    if len(digests) < 2:
        return table
    rows = normalized([sketches[digest] for digest in digests])
    nearest: dict[str, tuple[str, float]] = {}
    for start in range(0, len(digests), _TOGETHER):
        cosines = rows[start : start + _TOGETHER] @ rows.mT
        own = torch.arange(len(cosines))
        cosines[own, start + own] = -torch.inf
        for digest, cosine, position in zip(
            digests[start:], *(tensor.tolist() for tensor in cosines.max(-1)), strict=False
        ):
            nearest[digest] = sources[position], cosine
    nearest_of_rows = judged["digest"].map(nearest)
    table.loc[judged.index, "nearest"] = nearest_of_rows.map(lambda pair: pair[0]).astype("string")
    table.loc[judged.index, "nearest_cosine"] = nearest_of_rows.map(lambda pair: pair[1])
    return table
