"""The result of a fleet's audit: its tables, and the audit of each of its models."""

import operator
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, SupportsIndex

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ...checkpoints.opening.many_sources import DEEPER, MODEL, NO_CONFIG
from ...checkpoints.pairing.pairing import Skipped
from ...errors import ResultFileError, SettingError, os_reason
from ...system.documents import of_schema
from ...system.files import user_path, write_atomically
from ...system.parquet import document_in, parquet_bytes
from ...system.plain_values import from_plain
from ...system.result_protocol import refuse_others
from ...system.store import Store
from ...system.versions import installed_versions
from ..audit_settings import AuditSettings, shown_settings
from ..gated import Gated
from ..result.audit_result import Audit
from ..result.forgetting import Forgetting
from ..result.summary import matrices_on_one_side, not_compared
from ..result.vector_table import COUNTED, MATRIX_COLUMNS, METADATA_KEY, VECTOR_COLUMNS, matrices_of_rows
from .fleet_files import VECTORS, FleetFiles, rows_of
from .fleet_table import as_arrow, as_frame

ADAPTERS = "adapters.parquet"
SCHEMA = 2


@dataclass(frozen=True)
class FleetAudit:
    """The audits of many adapters of one base, which :func:`intruders.audit_fleet` returns.

    Attributes:
      base_source: the base.
      settings: the settings of the audits.
      seconds: the time that the call took.
      adapters: one row per adapter, in the order given; docs/how-to/fleet.md lists the columns.
      folder: the folder of the files, one per audited adapter in ``vectors``.
      key: a hash of what the audits depend on besides the adapters.
      passed_over: entries of folders that are not audited, with what they are.
      versions: the versions that the audits depend on.
      temporary: the directory of the files, if they are kept only as long as this value.
    """

    base_source: str
    settings: AuditSettings
    seconds: float
    adapters: pd.DataFrame = field(repr=False)
    folder: Path = field(repr=False)
    key: str = field(repr=False)
    passed_over: Mapping[str, str] = field(default_factory=dict, repr=False)
    versions: Mapping[str, str] = field(default_factory=installed_versions, repr=False)
    temporary: TemporaryDirectory[str] | None = field(default=None, repr=False, compare=False)

    def __eq__(self, other: object) -> bool:
        """Return whether the other is a fleet of the same tables, wherever its files are."""
        if not isinstance(other, FleetAudit):
            return NotImplemented
        return self.key == other.key and self.to_document() == other.to_document()

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields for a copy, with the files of a temporary directory: that one ends with this object."""
        state = dict(vars(self))
        if self.temporary is not None:
            state["temporary"] = {
                file.name: file.read_bytes() for file in (self.folder / VECTORS).glob("*.parquet")
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        contents = state["temporary"]
        if contents is not None:
            temporary = TemporaryDirectory(prefix="intruders-fleet-")
            vars(self).update(temporary=temporary, folder=Path(temporary.name))
            (self.folder / VECTORS).mkdir()
            for name, content in contents.items():
                (self.folder / VECTORS / name).write_bytes(content)

    @property
    def intruders(self) -> int:
        """Number of intruder dimensions over all adapters."""
        return int(self.adapters["intruders"].fillna(0).sum())

    @property
    def vectors(self) -> int:
        """Number of singular vectors examined over all adapters."""
        return int(self.adapters["vectors"].fillna(0).sum())

    @property
    def refused(self) -> dict[str, str]:
        """The adapters that could not be audited, with reasons."""
        wanted = self.adapters[self.adapters["status"] == "refused"]
        return dict(zip(wanted["adapter"], wanted["reason"], strict=True))

    @property
    def not_compared(self) -> dict[str, str]:
        """The adapters of which no matrix could be compared, each with one and the reason: their 0 tells nothing."""
        left_open = {name: own.nothing for name, own in self.gated.items()}
        return {name: f"{left.name}: {left.reason}" for name, left in left_open.items() if left is not None}

    @cached_property
    def gated(self) -> dict[str, Gated]:
        """What the gates ask of each audited adapter; its file is read once."""
        gated = {}
        for row, file in self._files():
            table = pq.read_table(file, columns=["name"])
            header, names = document_in(table.schema, METADATA_KEY), table["name"].unique().to_pylist()
            skipped = from_plain(list[Skipped], header["skipped"])
            gated[row["adapter"]] = Gated(
                matrices=row["matrices"],
                intruders=row["intruders"],
                not_finite=row["non_finite"],
                largest_update=row["update_relative_max"] or 0.0,
                largest_in=row["update_relative_where"] or "",
                rank=row["effective_rank"],
                nothing=not_compared(names, skipped),
                on_one_side=matrices_on_one_side(names, skipped, self.settings),
                forgetting=from_plain(Forgetting | None, header.get("forgetting")),
            )
        return gated

    @property
    def weights_passed_over(self) -> dict[str, str]:
        """The entries of folders that have weights, are not the base and were not audited, with what they are."""
        base, weights = Path(self.base_source).resolve(), (MODEL, NO_CONFIG, DEEPER)
        others = [path for path in self.passed_over if Path(path).resolve() != base]
        return {path: self.passed_over[path] for path in others if self.passed_over[path] in weights}

    @property
    def nothing_audited(self) -> bool:
        """Whether every adapter was refused, so that the counts of 0 are no answer."""
        return not self.adapters["status"].eq("audited").any()

    def above(self, intruders: int) -> list[str]:
        is_above = self.adapters["intruders"].fillna(0) > intruders
        return [str(adapter) for adapter in self.adapters.loc[is_above, "adapter"]]

    def records(self) -> list[dict[str, Any]]:
        """Return the rows of :attr:`adapters` as plain JSON values."""
        rows: list[dict[str, Any]] = as_arrow(self.adapters).to_pylist()
        return rows

    def audit(self, adapter: str | os.PathLike[str] | SupportsIndex) -> Audit:
        """Return the audit of one adapter, by its source or its position in the list, as ``argmax`` gives it too.

        Raises:
          SettingError: there is none of that name, or it was refused.
          ResultFileError: its file cannot be read.
        """
        rows, position = self.adapters, 0
        if isinstance(adapter, SupportsIndex):
            position = operator.index(adapter)
        else:
            rows = rows[rows["adapter"] == str(adapter)]
        if not -len(rows) <= position < len(rows):
            raise SettingError(
                f"'{adapter}' is not in this fleet of {len(self.adapters)}; expected a source as it was given, or "
                "a position; pass one of its column 'adapter'"
            )
        row = dict(rows.iloc[position])
        if row["status"] == "refused":
            raise SettingError(
                f"the adapter '{row['adapter']}' was refused: {row['reason']}; fix it, and audit it again"
            )
        return Audit.load(self._present(row))

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per vector of each audited adapter: the columns of ``Audit.to_pandas`` after ``adapter``."""
        frame: pd.DataFrame = self._rows(VECTOR_COLUMNS, self._files()).drop_columns("digest").to_pandas()
        return frame

    def matrices_to_pandas(self) -> pd.DataFrame:
        """Return one row per matrix of each audited adapter: the columns of ``Audit.matrices_to_pandas`` after it."""
        return matrices_of_rows(self._rows(COUNTED, self._files()))[["adapter", *MATRIX_COLUMNS]]

    def counted_matrices(self) -> pd.DataFrame:
        """Return one row per matrix of each model, by its digest: a model that is in the fleet twice comes once."""
        once = {row["digest"]: (row, file) for row, file in self._files()}
        return matrices_of_rows(self._rows(COUNTED, once.values()))

    def _rows(self, columns: Sequence[str], files: Iterable[tuple[dict[str, Any], Path]]) -> pa.Table:
        """Read some columns of the rows of vectors, with the name and the digest of their model."""
        columns = ["adapter", *columns]
        tables = [rows_of([], []).select(columns).append_column("digest", pa.array([], pa.string()))]
        for row, file in files:
            table = pq.read_table(file, columns=columns).replace_schema_metadata(None)
            digests = pa.array([row["digest"]] * table.num_rows, pa.string())
            tables.append(table.append_column("digest", digests))
        return pa.concat_tables(tables)

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values: the metadata of the tables, and the adapters."""
        return {**self.header(), "adapters": self.records()}

    def header(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "base": {"source": self.base_source},
            "settings": shown_settings(self.settings),
            "totals": {
                "adapters": len(self.adapters),
                "refused": len(self.refused),
                "intruders": self.intruders,
            },
            "passed_over": dict(self.passed_over),
            "versions": dict(self.versions),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``adapters.parquet`` and the folder ``vectors`` to a folder; ResultFileError if that cannot be.

        Files of adapters that another fleet left there are moved to the folder ``others``.
        """
        folder, files = user_path(path), [file for _, file in self._files()]
        try:
            (folder / VECTORS).mkdir(parents=True, exist_ok=True)
            for file in files:
                target = folder / VECTORS / file.name
                if not (target.exists() and target.samefile(file)):
                    shutil.copyfile(file, target)
            # What an earlier save left would be read with the files of this fleet as one table.
            FleetFiles(Store(folder), self.key).arrange({file.name for file in files})
        except OSError as error:
            raise ResultFileError(f"cannot write '{folder / VECTORS}': {os_reason(error)}") from error
        self.write_table(folder)

    def write_table(self, folder: Path) -> None:
        """Write ``adapters.parquet``, completely or not at all."""
        header = {**self.header(), "key": self.key, "seconds": self.seconds}
        write_atomically(folder / ADAPTERS, parquet_bytes(as_arrow(self.adapters), {METADATA_KEY: header}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "FleetAudit":
        """Read the folder that ``save`` or ``intruders fleet --out`` wrote; ResultFileError for anything else."""
        folder = user_path(path)
        file = folder / ADAPTERS
        with refuse_others(file, "the table of a fleet", "intruders fleet --out"):
            try:
                table = pq.read_table(file)
            except (pa.ArrowException, OSError) as error:
                raise ResultFileError(f"cannot read '{file}': {error}") from error
            header = document_in(table.schema, METADATA_KEY)
            document = of_schema(header, str(file), "the table of a fleet", SCHEMA)
            return cls(
                base_source=document["base"]["source"],
                settings=AuditSettings.from_mapping(document["settings"]),
                seconds=document.get("seconds", 0.0),
                adapters=as_frame(table.to_pylist()),
                folder=folder,
                key=document.get("key", ""),
                passed_over=document.get("passed_over", {}),
                versions=document["versions"],
            )

    def _files(self) -> list[tuple[dict[str, Any], Path]]:
        return [(row, self._present(row)) for row in self.records() if row["status"] == "audited"]

    def _present(self, row: Mapping[str, Any]) -> Path:
        file = FleetFiles(Store(self.folder), self.key).path(row["adapter"], row["digest"])
        if not file.is_file():
            raise ResultFileError(
                f"'{self.folder}' has no file of the adapter '{row['adapter']}'; run intruders fleet again with this "
                "folder"
            )
        return file


def key_of_tables(folder: Path) -> str | None:
    """Return the key of the tables in a folder; None without any."""
    try:
        return str(document_in(pq.read_schema(folder / ADAPTERS), METADATA_KEY)["key"])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
