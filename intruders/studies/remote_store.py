"""The store of a study's results: its own folder, or a URL that fsspec can open (s3://, gs://, sftp://, ...).

Runs always work in a local folder. A local store, or one that is mounted everywhere, needs no copies. To any other
store, each finished stage is copied completely, its record last. The files that a record lists therefore exist in the
store, and a run can resume from them on another machine.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StoreError, first_line
from ..system.files import write_atomically
from ..system.remote_folder import RemoteFolder
from .run_record import RunRecord
from .stages import STAGES

_RECORD = "run.json"


@dataclass(frozen=True)
class Store(RemoteFolder):
    """Runs and tables under one URL. A value that can be sent to another process: connections are made where used."""

    def put_stage(self, run_folder: Path, results: tuple[str, ...]) -> None:
        """Put the results of one stage, then the record that tells of them."""
        for name in results:
            self.put(run_folder / name, f"runs/{run_folder.name}/{name}")
        self.put_record(run_folder)

    def put_record(self, run_folder: Path) -> None:
        self.put(run_folder / _RECORD, f"runs/{run_folder.name}/{_RECORD}")

    def fetch_run(self, run_folder: Path) -> None:
        """Bring what is finished of a run, unless this machine has as much of it already."""
        record = self.record(run_folder.name)
        if record is None:
            return
        own = RunRecord(run_folder).read()
        if record.get("stages", {}).keys() <= own.get("stages", {}).keys():
            return
        shutil.rmtree(run_folder, ignore_errors=True)
        unfinished = run_folder.with_name(f".{run_folder.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        self.get(f"runs/{run_folder.name}", unfinished)
        unfinished.rename(run_folder)

    def fetch_for_tables(self, run_folder: Path) -> None:
        """Bring the small files of a run that another machine has worked on; nothing if they are here."""
        record = self.record(run_folder.name)
        if record is None:
            return
        here, content = run_folder / _RECORD, json.dumps(record, indent=2)
        if here.is_file() and here.read_text(encoding="utf-8") == content:
            return
        for stage in STAGES:
            for file in stage.files:
                self.get(f"runs/{run_folder.name}/{file}", run_folder / file)
        run_folder.mkdir(parents=True, exist_ok=True)
        write_atomically(here, content.encode())

    def record(self, run_id: str) -> dict[str, Any] | None:
        """Read the record of a run; None if it does not exist yet."""
        content = self.read(f"runs/{run_id}/{_RECORD}")
        if content is None:
            return None
        where = f"{self.url}/runs/{run_id}/{_RECORD}"
        try:
            record: dict[str, Any] = json.loads(content)
        except ValueError as error:
            raise StoreError(
                f"{where!r} cannot be read as the record of a run: {first_line(error)}; restore it, or remove it"
            ) from None
        return record

    def put_bases(self, bases: Path) -> None:
        """Put the losses of bases, so that no other machine measures them again."""
        if bases.is_dir():
            self.put(bases, "bases")

    def fetch_bases(self, bases: Path) -> None:
        self.get("bases", bases)

    def put_file(self, file: Path) -> None:
        """Put one file of the study itself: a table, its description."""
        if file.is_file():
            self.put(file, file.name)

    def fetch_file(self, file: Path) -> None:
        """Fetch one file of the study itself, if it exists."""
        self.get(file.name, file)
