"""The result of a fleet's audit: its tables, and the audit of each of its models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch import Tensor

from ..checkpoints.pairing.pairing import Skipped
from ..checkpoints.selection import Selection
from ..errors import SettingError
from ..system.files import write_atomically
from ..system.versions import installed_versions
from .audit_result import Audit
from .audit_settings import AuditSettings
from .fleet_members import Member
from .fleet_table import COUNTED, adapter_table, as_arrow, matrices_of_rows
from .kept_blocks import KeptBlocks, rows_of
from .parquet_form import METADATA_KEY, matrices_from_rows, vector_schema
from .records import AuditedMatrix, matrix_from_record

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

# Of each vector in vectors.parquet, after the adapter's name.
VECTOR_COLUMNS = [
    name for name in vector_schema().names if name not in ("similarity", "base_singular_values")
]
_BATCH_ROWS = 200_000
ADAPTERS = "adapters.parquet"
VECTORS = "vectors.parquet"
SCHEMA = 1


@dataclass(frozen=True)
class FleetAudit:
    """What many adapters did to one base."""

    base_source: str
    settings: AuditSettings
    seconds: float
    members: list[Member] = field(repr=False)
    blocks: KeptBlocks = field(repr=False)
    temporary: TemporaryDirectory[str] | None = field(
        default=None, repr=False
    )  # that holds the blocks, if any

    @cached_property
    def adapters(self) -> pd.DataFrame:
        """One row per adapter, in the order given; docs/reference/fleet.md lists the columns."""
        return adapter_table(
            self.members, self.matrices, self._skipped, self._refused, self._sketches, self.base_source
        )

    @cached_property
    def matrices(self) -> pd.DataFrame:
        """One row per adapter and matrix: counts and the size of the update."""
        parts = [matrices_of_rows(rows) for rows in _in_batches(self._rows(COUNTED))]
        return pd.concat(parts, ignore_index=True) if parts else matrices_of_rows(_nothing())

    @property
    def vectors(self) -> pd.DataFrame:
        """One row per examined vector of each audited adapter: the columns of vectors.parquet."""
        parts = list(self._vector_tables())
        return pa.concat_tables(parts).to_pandas() if parts else pd.DataFrame()

    @property
    def intruders(self) -> int:
        """Number of intruder dimensions over all adapters."""
        return int(self.adapters["intruders"].fillna(0).sum())

    @property
    def refused(self) -> dict[str, str]:
        """The adapters that could not be audited, with reasons."""
        table = self.adapters
        wanted = table[table["status"] == "refused"]
        return dict(zip(wanted["adapter"], wanted["reason"], strict=True))

    def above(self, intruders: int) -> list[str]:
        """The adapters with more intruders than this."""
        table = self.adapters
        return [str(one) for one in table.loc[table["intruders"].fillna(0) > intruders, "adapter"]]

    def records(self) -> list[dict[str, Any]]:
        """The rows of :attr:`adapters` as plain JSON values."""
        rows: list[dict[str, Any]] = as_arrow(self.adapters).to_pylist()
        return rows

    def audit(self, adapter: str | int) -> Audit:
        """The audit of one adapter, by its source or its place in the list.

        Raises:
          SettingError: there is none of that name, or it was refused.
        """
        member = self._member(adapter)
        reason = member.reason or self._refused.get(member.digest)
        if reason is not None or member.pairing is None:
            raise SettingError(
                f"the adapter '{member.source}' was refused: {reason}; fix it, and audit it again"
            )
        found: dict[str, AuditedMatrix] = {}
        for rows in self._rows():
            mine = rows.filter(pc.equal(rows["digest"], member.digest))
            for document in matrices_from_rows(mine.to_pylist()):
                matrix = matrix_from_record(document)
                found[matrix.name] = matrix
        pairing = member.pairing
        skipped = self._skipped.get(member.digest, {})
        return Audit(
            base_source=self.base_source,
            tuned_source=pairing.tuned_source,
            tuned_kind=pairing.tuned_kind,
            base_hub=pairing.base_hub,
            tuned_hub=pairing.tuned_hub,
            k=self.settings.k,
            epsilon=self.settings.epsilon,
            exact=self.settings.exact,
            seconds=self.seconds / max(1, len(self.members)),
            matrices=[found[matrix.name] for matrix in pairing.pairs if matrix.name in found],
            skipped=[
                *pairing.skipped,
                *(Skipped(one.name, skipped[one.name]) for one in pairing.pairs if one.name in skipped),
            ],
            settings={
                **self.settings.part(Selection).as_dict(),
                "skip_non_finite": self.settings.skip_non_finite,
                "matched": list(pairing.matched),
            },
        )

    def header(self) -> dict[str, Any]:
        """What the tables' metadata say."""
        return {
            "schema": SCHEMA,
            "base": {"source": self.base_source},
            "settings": {**self.settings.as_dict()},
            "totals": {
                "adapters": len(self.members),
                "refused": len(self.refused),
                "intruders": self.intruders,
            },
            "versions": installed_versions(),
        }

    def write_tables(self, folder: Path) -> list[Path]:
        """Write adapters.parquet and vectors.parquet, each completely or not at all."""
        metadata = {METADATA_KEY: json.dumps(self.header(), default=list).encode()}
        sink = pa.BufferOutputStream()
        pq.write_table(as_arrow(self.adapters).replace_schema_metadata(metadata), sink, compression="zstd")
        write_atomically(folder / ADAPTERS, sink.getvalue().to_pybytes())
        part = folder / f".{VECTORS}.part"
        schema = _vector_columns(_nothing(), {}).schema.with_metadata(metadata)
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for table in self._vector_tables():
                writer.write_table(table.replace_schema_metadata(metadata))
        part.replace(folder / VECTORS)
        return [folder / ADAPTERS, folder / VECTORS]

    def _member(self, adapter: str | int) -> Member:
        if isinstance(adapter, int):
            return self.members[adapter]
        for member in self.members:
            if member.source == adapter:
                return member
        raise SettingError(
            f"'{adapter}' is not in this fleet of {len(self.members)}; expected a source as it was given"
        )

    def _rows(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """File after file the rows of this fleet's models alone, each once."""
        wanted = {member.digest for member in self.members if member.pairing is not None}
        wanted -= self._refused.keys()
        seen: set[tuple[str, str]] = set()
        for kept in self.blocks.each():
            new = [one for one in kept.units if one in wanted and (kept.block, one) not in seen]
            seen |= {(kept.block, digest) for digest in new}
            if new:
                rows = kept.rows(columns)
                yield rows.filter(pc.is_in(rows["digest"], pa.array(new, pa.string())))

    def _vector_tables(self) -> Iterator[pa.Table]:
        sources: dict[str, list[str]] = {}
        for member in self.members:
            sources.setdefault(member.digest, []).append(member.source)
        for rows in _in_batches(self._rows(["digest", *VECTOR_COLUMNS])):
            yield _vector_columns(rows, sources)

    @cached_property
    def _refused(self) -> dict[str, str]:
        """Models with a matrix that cannot be judged, with the first one's reason."""
        found: dict[str, str] = {}
        for block in self.blocks.each():
            for digest, unit in block.units.items():
                if unit.refused is not None:
                    found.setdefault(digest, unit.refused)
        return found

    @cached_property
    def _sketches(self) -> Mapping[str, Tensor]:
        """By digest, the sketch of a model's updates over all blocks."""
        found: dict[str, Tensor] = {}
        seen: set[tuple[str, str]] = set()
        for block in self.blocks.each():
            for digest, unit in block.units.items():
                if unit.sketch is not None and (block.block, digest) not in seen:
                    seen.add((block.block, digest))
                    found[digest] = found.get(digest, 0) + unit.sketch
        return found

    @cached_property
    def _skipped(self) -> Mapping[str, Mapping[str, str]]:
        """By digest, matrices that were not judged, with reasons."""
        found: dict[str, dict[str, str]] = {}
        for block in self.blocks.each():
            for digest, unit in block.units.items():
                found.setdefault(digest, {}).update({one.name: one.reason for one in unit.skipped})
        return found


def _nothing() -> pa.Table:
    return rows_of([], [])


def _in_batches(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Tables of some rows joined: a hundred small ones cost as many calls as a large one."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(one.num_rows for one in waiting) >= _BATCH_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _vector_columns(rows: pa.Table, sources: Mapping[str, list[str]]) -> pa.Table:
    """The columns of vectors.parquet; the rows of a model that is in the fleet twice come twice."""
    digests = rows["digest"].to_pylist()
    most = max((len(sources[digest]) for digest in set(digests)), default=1)
    parts = []
    for turn in range(most):
        here = [place for place, digest in enumerate(digests) if len(sources[digest]) > turn]
        names = pa.array([sources[digests[place]][turn] for place in here], pa.string())
        chosen = rows.take(pa.array(here, pa.int64())) if len(here) < len(digests) else rows
        parts.append(chosen.select(VECTOR_COLUMNS).add_column(0, "adapter", names))
    return pa.concat_tables(parts)
