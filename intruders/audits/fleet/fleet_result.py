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

from ...checkpoints.stored.selection import Selection
from ...errors import SettingError
from ...system.files import write_atomically
from ...system.versions import installed_versions
from ..audit_settings import AuditSettings, base_dtype_of, shown_settings
from ..result.audit_result import Audit
from ..result.parquet_form import METADATA_KEY, matrices_from_rows
from ..result.records import AuditedMatrix, matrix_from_record
from .finished_models import BlockFile, FinishedModel, FinishedModels
from .fleet_members import Known, Member
from .fleet_table import COUNTED, adapter_table, as_arrow, matrices_of_rows
from .fleet_vectors import VECTOR_COLUMNS, in_batches, vector_tables, write_vectors
from .kept_blocks import KeptBlock, KeptBlocks, rows_of

if TYPE_CHECKING:
    from tempfile import TemporaryDirectory

ADAPTERS = "adapters.parquet"
VECTORS = "vectors.parquet"
SCHEMA = 1


@dataclass(frozen=True)
class FleetAudit:
    """The audits of many adapters of one base, which :func:`intruders.audit_fleet` returns."""

    base_source: str
    settings: AuditSettings
    seconds: float
    members: list[Member] = field(repr=False)
    blocks: KeptBlocks = field(repr=False)
    # The directory of the blocks, if it is temporary.
    temporary: TemporaryDirectory[str] | None = field(default=None, repr=False)
    finished: FinishedModels = field(default_factory=FinishedModels, repr=False)  # by earlier calls
    # Entries of folders of adapters that are none, with what they are.
    passed_over: Mapping[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    def adapters(self) -> pd.DataFrame:
        """One row per adapter, in the order given; docs/reference/fleet.md lists the columns."""
        return adapter_table(self.members, self.matrices, self._models, self.base_source)

    @cached_property
    def matrices(self) -> pd.DataFrame:
        """One row per adapter and matrix: counts and the size of the update."""
        digests = self._judged
        parts = [
            matrices_of_rows(rows)
            for rows in in_batches(self._rows(digests - self.finished.models.keys(), COUNTED))
        ]
        if (earlier := self.finished.matrices) is not None:
            parts.insert(0, earlier[earlier["digest"].isin(digests)])
        return pd.concat(parts, ignore_index=True) if parts else matrices_of_rows(rows_of([], []))

    @property
    def vectors(self) -> pd.DataFrame:
        """One row per examined vector of each audited adapter: the columns of vectors.parquet."""
        parts = list(vector_tables(self._sources_and_digests, self._vector_rows))
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

    @property
    def nothing_audited(self) -> bool:
        """Whether every adapter was refused, so that the counts of 0 are no answer."""
        return not self.adapters["status"].eq("audited").any()

    def above(self, intruders: int) -> list[str]:
        """Return the adapters with more intruders than this."""
        table = self.adapters
        return [str(adapter) for adapter in table.loc[table["intruders"].fillna(0) > intruders, "adapter"]]

    def records(self) -> list[dict[str, Any]]:
        """Return the rows of :attr:`adapters` as plain JSON values."""
        rows: list[dict[str, Any]] = as_arrow(self.adapters).to_pylist()
        return rows

    def audit(self, adapter: str | int) -> Audit:
        """Return the audit of one adapter, by its source or its position in the list.

        Raises:
          SettingError: there is none of that name, or it was refused.
        """
        member = self._member(adapter)
        model = self._models.get(member.digest)
        reason = member.reason or (None if model is None else model.refused)
        if reason is not None or member.pairing is None:
            raise SettingError(
                f"the adapter '{member.source}' was refused: {reason}; fix it, and audit it again"
            )
        matrices: dict[str, AuditedMatrix] = {}
        for rows in self._rows({member.digest}):
            for document in matrices_from_rows(rows.to_pylist()):
                matrix = matrix_from_record(document)
                matrices[matrix.name] = matrix
        pairing = member.pairing
        skipped = {} if model is None else model.skipped
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
            matrices=[matrices[matrix.name] for matrix in pairing.pairs if matrix.name in matrices],
            skipped=[
                *pairing.skipped,
                *(skipped[pair.name] for pair in pairing.pairs if pair.name in skipped),
            ],
            settings={
                **self.settings.part(Selection).as_dict(),
                "skip_non_finite": self.settings.skip_non_finite,
                "matched": list(pairing.matched),
                **base_dtype_of(self.settings),
            },
        )

    def header(self) -> dict[str, Any]:
        """Return the metadata of the tables."""
        return {
            "schema": SCHEMA,
            "base": {"source": self.base_source},
            "settings": shown_settings(self.settings),
            "totals": {
                "adapters": len(self.members),
                "refused": len(self.refused),
                "intruders": self.intruders,
            },
            "passed_over": dict(self.passed_over),
            "versions": installed_versions(),
        }

    def write_tables(self, folder: Path) -> list[Path]:
        """Write adapters.parquet and vectors.parquet, each completely or not at all."""
        metadata = {METADATA_KEY: json.dumps(self.header(), default=list).encode()}
        sink = pa.BufferOutputStream()
        pq.write_table(as_arrow(self.adapters).replace_schema_metadata(metadata), sink, compression="zstd")
        write_atomically(folder / ADAPTERS, sink.getvalue().to_pybytes())
        models = self._sources_and_digests
        write_vectors(folder / VECTORS, self.blocks.key, models, self._vector_rows, metadata)
        return [folder / ADAPTERS, folder / VECTORS]

    def all_finished(self) -> FinishedModels:
        """Return all finished models, of earlier calls and of this one, for the next call with the same blocks."""
        models = {**self.finished.models, **self._models}
        new = self.matrices[~self.matrices["digest"].isin(self.finished.models.keys())]
        earlier = self.finished.matrices
        matrices = new if earlier is None else pd.concat([earlier, new], ignore_index=True)
        has_unfinished = {}
        for kept in self._open_blocks:
            has_unfinished[kept.file.name] = not kept.units.keys() <= models.keys()
        files = {name: self.finished.files[name] for name in self.finished.closed_files}
        for name in self.blocks.names():
            if name not in files:
                files[name] = BlockFile(self.blocks.size(name) or 0, has_unfinished.get(name, True))
        return FinishedModels(models, matrices, files)

    def _member(self, adapter: str | int) -> Member:
        if isinstance(adapter, int):
            return self.members[adapter]
        for member in self.members:
            if member.source == adapter:
                return member
        raise SettingError(
            f"'{adapter}' is not in this fleet of {len(self.members)}; expected a source as it was given"
        )

    @cached_property
    def _judged(self) -> set[str]:
        """The digests of the models that have rows."""
        refused = {digest for digest, model in self._models.items() if model.refused is not None}
        return {member.digest for member in self.members if member.reason is None} - refused

    @property
    def _sources_and_digests(self) -> list[tuple[str, str]]:
        return [(member.source, member.digest) for member in self.members if member.digest in self._judged]

    def _vector_rows(self, digests: set[str]) -> Iterator[pa.Table]:
        return self._rows(digests, ["digest", *VECTOR_COLUMNS])

    def _rows(
        self,
        digests: set[str],
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """File after file the rows of these models alone, each once."""
        are_new = digests.isdisjoint(self.finished.models)
        seen: set[tuple[str, str]] = set()
        for kept in self._open_blocks if are_new else self.blocks.each():
            new = [digest for digest in kept.units if digest in digests and (kept.block, digest) not in seen]
            seen |= {(kept.block, digest) for digest in new}
            if new:
                rows = kept.rows(columns)
                yield rows.filter(pc.is_in(rows["digest"], pa.array(new, pa.string())))

    @property
    def _open_blocks(self) -> Iterator[KeptBlock]:
        """Blocks with unfinished models, one after the other: all together would fill the memory."""
        return self.blocks.each(self.finished.closed_files)

    @cached_property
    def _models(self) -> Mapping[str, FinishedModel]:
        """The fleet's models by digest, as their blocks describe them."""
        models: dict[str, FinishedModel] = {}
        new: set[str] = set()
        for member in self.members:
            if member.digest in self.finished.models:
                models[member.digest] = self.finished.models[member.digest]
            elif member.reason is None:
                new.add(member.digest)
                models.setdefault(member.digest, FinishedModel(Known(member.facts, member.names)))
        seen: set[tuple[str, str]] = set()
        for kept in self._open_blocks:
            for digest in kept.units.keys() & new:
                unit, model = kept.units[digest], models[digest]
                if model.refused is None:
                    model.refused = unit.refused
                model.skipped.update({skipped.name: skipped for skipped in unit.skipped})
                if unit.sketch is not None and (kept.block, digest) not in seen:
                    seen.add((kept.block, digest))
                    model.sketch = unit.sketch if model.sketch is None else model.sketch + unit.sketch
        return models
