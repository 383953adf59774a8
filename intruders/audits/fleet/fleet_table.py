"""The table of a fleet: one row per model, from what its config says and what the audit found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from ...checkpoints.pairing.pairing import SkipKind
from ...linalg.sketch import normalized
from .finished_models import FinishedModel
from .fleet_members import Member, ModelFacts

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
    ("for_hosts", "string"),  # what hosts of many adapters refuse or ignore
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
    ("unusual", "float64"),
    ("unusual_in", "string"),
    ("digest", "string"),
)
_IN_PANDAS = {"string": "string", "int64": "Int64", "float64": "float64", "bool": "boolean"}
# Columns of kept rows that the table is counted from.
COUNTED = [
    "digest", "name", "index", "singular_value", "intruder", "ambiguous", "frobenius", "spectral", "effective_rank",
    "stable_rank", "base_value",
]  # fmt: skip
# Columns in which a model may be unusual, and whether their logarithm is compared.
_COMPARED = {
    "intruder_share": False,
    "energy_share": False,
    "update_relative_median": True,
    "update_relative_max": True,
    "frobenius": True,
    "effective_rank": True,
    "stable_rank": True,
}
# Of a normal distribution the median absolute deviation times this is the standard deviation.
_MAD = 1.4826
_LEAST_TO_COMPARE = 5
# Models of which the cosines with all others are computed at a time.
_TOGETHER = 1000


def matrices_of_rows(rows: pa.Table) -> pd.DataFrame:
    """One row per matrix and model from rows of vectors: counts, squares of singular values, and update sizes."""
    frame = rows.select(COUNTED).to_pandas()
    first = frame[frame["index"] == 0].set_index(["digest", "name"])
    sums = first[["frobenius", "effective_rank", "stable_rank"]].copy()
    sums["relative"] = np.where(first["base_value"] > 0, first["spectral"] / first["base_value"], np.nan)
    sums["largest"] = first["singular_value"]
    groups = frame.groupby(["digest", "name"], sort=False)
    scaled = frame["singular_value"] / groups["singular_value"].transform("max").replace(0.0, 1.0)
    frame["energy"] = scaled**2  # over that of the matrix's largest vector: squares of 1e200 overflow
    frame["intruder_energy"] = frame["energy"] * frame["intruder"]
    groups = frame.groupby(["digest", "name"], sort=False)
    sums["vectors"] = groups.size()
    for name in ("intruder", "ambiguous", "energy", "intruder_energy"):
        sums[name] = groups[name].sum()
    table: pd.DataFrame = sums.reset_index()
    return table


def adapter_table(
    members: Sequence[Member],
    matrices: pd.DataFrame,
    models: Mapping[str, FinishedModel],
    base: str,
) -> pd.DataFrame:
    """One row per model, in the order of ``members``.

    Args:
      members: the fleet.
      matrices: the rows of :func:`matrices_of_rows` of all blocks.
      models: by digest, what was found of each as a whole.
      base: the source of the base.
    """
    columns = {str(name): matrices[name].to_numpy() for name in matrices}
    places = matrices.groupby("digest", sort=False).indices
    # Arrays, since a thousand small frames would take longer than what is computed of them.
    numbers = {
        str(digest): _numbers({name: column[rows] for name, column in columns.items()})
        for digest, rows in places.items()
    }
    first_of: dict[str, str] = {}
    rows = []
    for member in members:
        model = models.get(member.digest)
        reason = member.reason or (None if model is None else model.refused)
        row: dict[str, Any] = {
            "adapter": member.source,
            "status": "audited" if reason is None else "refused",
            "reason": reason,
            "duplicate_of": first_of.get(member.digest),
            "digest": member.digest,
            **_of_config(member.facts, base),
        }
        first_of.setdefault(member.digest, member.source)
        if reason is None:
            kinds = [] if model is None else [skipped.kind for skipped in model.skipped.values()]
            row |= {
                "zero_updates": kinds.count(SkipKind.UNCHANGED),
                "non_finite": kinds.count(SkipKind.NOT_FINITE),
                **numbers.get(member.digest, _NOTHING),
            }
        rows.append(row)
    table = pd.DataFrame(rows, columns=[name for name, _ in COLUMNS])
    table = table.astype({name: _IN_PANDAS[kind] for name, kind in COLUMNS})
    sketches = {digest: finished.sketch for digest, finished in models.items() if finished.sketch is not None}
    return _with_unusual(_with_nearest(table, sketches))


def as_arrow(adapters: pd.DataFrame) -> pa.Table:
    """The table with the types of its columns, whatever is missing in it."""
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS])
    columns = [
        [None if pd.isna(value) else value for value in adapters[name].tolist()] for name in schema.names
    ]
    return pa.table([pa.array(c, t) for c, t in zip(columns, schema.types, strict=True)], schema=schema)


_NOTHING: Mapping[str, Any] = {"matrices": 0, "vectors": 0, "intruders": 0, "ambiguous": 0}


def _numbers(matrices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the totals of one model; the columns have one entry per matrix."""
    weights = (matrices["largest"] / (matrices["largest"].max() or 1.0)) ** 2
    total = float((weights * matrices["energy"]).sum())
    relative = matrices["relative"]
    known = relative[~np.isnan(relative)]
    intruders, vectors = int(matrices["intruder"].sum()), int(matrices["vectors"].sum())
    return {
        "matrices": len(relative),
        "vectors": vectors,
        "intruders": intruders,
        "intruder_share": intruders / vectors,
        "energy_share": float((weights * matrices["intruder_energy"]).sum()) / total if total > 0 else 0.0,
        "ambiguous": int(matrices["ambiguous"].sum()),
        "update_relative_median": float(np.median(known)) if len(known) else math.nan,
        "update_relative_max": float(known.max()) if len(known) else math.nan,
        "update_relative_where": str(matrices["name"][np.nanargmax(relative)]) if len(known) else None,
        "frobenius": math.hypot(*matrices["frobenius"]),
        "effective_rank": float(np.median(matrices["effective_rank"])),
        "stable_rank": float(np.median(matrices["stable_rank"])),
    }


def _of_config(facts: ModelFacts, base: str) -> dict[str, Any]:
    return {
        "method": facts.method,
        "rank_min": facts.ranks[0] if facts.ranks else None,
        "rank_max": facts.ranks[-1] if facts.ranks else None,
        "scale_min": facts.scales[0] if facts.scales else None,
        "scale_max": facts.scales[-1] if facts.scales else None,
        "targets": ", ".join(facts.targets) or None,
        "named_base": facts.named_base,
        "names_this_base": None if facts.named_base is None else _is_named(facts.named_base, base),
        "matched_by": "; ".join(facts.matched_by) or None,
        "saved_in_full": facts.saved_in_full,
        "for_hosts": "; ".join(_for_hosts(facts)) or None,
    }


def _is_named(named: str, base: str) -> bool:
    """Return whether two names or their last parts are equal, as in `org/model` and `/models/model`."""
    return named == base or named.rstrip("/").rpartition("/")[2] == base.rstrip("/").rpartition("/")[2]


def _for_hosts(facts: ModelFacts) -> list[str]:
    """Return what servers of many adapters refuse or ignore; see docs/reference/fleet.md."""
    reasons = []
    if facts.method not in ("lora", None):
        reasons.append(f"no plain LoRA ({facts.method})")
    if facts.saved_in_full:
        reasons.append("modules saved in full")
    if len(facts.ranks) > 1 or len(facts.scales) > 1:
        reasons.append("ranks or scales that differ by module")
    return reasons


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


def _with_unusual(table: pd.DataFrame) -> pd.DataFrame:
    """Add the largest robust distance from the fleet's median, ``|x - median| / (1.4826 MAD)``, and its column."""
    judged = table["status"].eq("audited") & table["matrices"].fillna(0).gt(0)
    if judged.sum() < _LEAST_TO_COMPARE:
        return table
    distances = {}
    for name, by_logarithm in _COMPARED.items():
        values = table.loc[judged, name].astype(float)
        if by_logarithm:
            values = pd.Series(np.log(values.where(values > 0)), values.index)
        deviation = (values - values.median()).abs()
        spread = _MAD * deviation.median()
        if spread > 0:
            distances[name] = deviation / spread
    if not distances:
        return table
    frame = pd.DataFrame(distances).fillna(0.0)
    table["unusual"] = frame.max(axis=1).reindex(table.index)
    table["unusual_in"] = frame.idxmax(axis=1).astype("string").reindex(table.index)
    return table
