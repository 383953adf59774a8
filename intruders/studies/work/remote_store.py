"""Where a study's results are kept: its own folder, or any place that fsspec knows (s3://, gs://, sftp://, ...).

Runs are worked on in a local folder, whatever the store. Beside a local one (or one that is mounted everywhere) there
is nothing to do. To any other, every stage is put whole as soon as it is finished, its record last; so what the
record tells of is there, and a run that went on elsewhere starts from it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import IntrudersError, SettingError, StoreError, missing_extra
from ...system.files import write_atomically
from ...system.folders import user_cache

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://")

_RECORD = "run.json"

# Of a run, what the tables are made from; weights stay where they are.
_FOR_TABLES = (
    "audit.json", "evaluation/evaluation.json", "scale.json", "intervention.json", "sequence.json", "mechanism.json",
    "model/run.json", "model/intruders.parquet", "model/sequence.json",
)  # fmt: skip


def is_url(out: str) -> bool:
    """Whether results go to a place that is no folder of this machine."""
    return bool(_URL.match(out)) and not out.startswith("file://")


def local_folder(out: str) -> Path:
    """The folder that a study is worked on in: ``out`` itself, or one of the user's cache for a URL."""
    if not is_url(out):
        return Path(out.removeprefix("file://"))
    return user_cache() / "studies" / hashlib.sha256(out.encode()).hexdigest()[:16]


def open_store(out: str) -> Store | None:
    """The store of a URL; None for a folder. SettingError for a URL that no installed package understands."""
    if not is_url(out):
        return None
    try:
        import fsspec
    except ImportError as error:
        raise missing_extra(f"the folder {out!r}", "fsspec", "ray") from error
    try:
        fsspec.core.url_to_fs(out)
    except (ValueError, ImportError) as error:
        raise SettingError(f"out {out!r} cannot be opened: {' '.join(str(error).split())}") from error
    return Store(out)


@dataclass(frozen=True)
class Store:
    """Runs and tables under one URL. A value that can be sent to another process: connections are made where used."""

    url: str

    def put_stage(self, run_folder: Path, results: tuple[str, ...]) -> None:
        """Put the results of one stage, then the record that tells of them."""
        for name in results:
            self._put(run_folder / name, f"runs/{run_folder.name}/{name}")
        self.put_record(run_folder)

    def put_record(self, run_folder: Path) -> None:
        self._put(run_folder / _RECORD, f"runs/{run_folder.name}/{_RECORD}")

    def fetch_run(self, run_folder: Path) -> None:
        """Bring what is finished of a run, unless this machine has as much of it already."""
        record = self.record(run_folder.name)
        if record is None:
            return
        here = run_folder / _RECORD
        own = json.loads(here.read_text(encoding="utf-8")).get("stages", {}) if here.is_file() else {}
        if record.get("stages", {}).keys() <= own.keys():
            return
        shutil.rmtree(run_folder, ignore_errors=True)
        unfinished = run_folder.with_name(f".{run_folder.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        self._get(f"runs/{run_folder.name}", unfinished)
        unfinished.rename(run_folder)

    def fetch_for_tables(self, run_folder: Path) -> None:
        """Bring the small files of a run that another machine has worked on; nothing if they are here."""
        record = self.record(run_folder.name)
        if record is None:
            return
        here, content = run_folder / _RECORD, json.dumps(record, indent=2)
        if here.is_file() and here.read_text(encoding="utf-8") == content:
            return
        for file in _FOR_TABLES:
            self._get(f"runs/{run_folder.name}/{file}", run_folder / file)
        run_folder.mkdir(parents=True, exist_ok=True)
        write_atomically(here, content.encode())

    def record(self, run_id: str) -> dict[str, Any] | None:
        """The record of a run; None where there is none yet."""
        content = self.read(f"runs/{run_id}/{_RECORD}")
        if content is None:
            return None
        found: dict[str, Any] = json.loads(content)
        return found

    def put_bases(self, bases: Path) -> None:
        """Put the losses of bases, so that no other machine measures them again."""
        if bases.is_dir():
            self._put(bases, "bases")

    def fetch_bases(self, bases: Path) -> None:
        self._get("bases", bases)

    def put_file(self, file: Path) -> None:
        """Put one file of the study itself: a table, its description."""
        if file.is_file():
            self._put(file, file.name)

    def fetch_file(self, file: Path) -> None:
        """Bring one file of the study itself, if it is there."""
        self._get(file.name, file)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        with self._system(f"read {name}") as (system, root):
            there = f"{root}/{name}"
            if not system.exists(there):
                return None
            content: bytes = system.cat_file(there)
            return content

    def _put(self, here: Path, name: str) -> None:
        with self._system(f"write {name}") as (system, root):
            there = f"{root}/{name}"
            if here.is_dir():
                # What an interrupted attempt has put there may be of another attempt's files.
                if system.exists(there):
                    system.rm(there, recursive=True)
                for file in sorted(here.rglob("*")):
                    if file.is_file() and not file.name.startswith("."):
                        target = f"{there}/{file.relative_to(here).as_posix()}"
                        system.makedirs(target.rpartition("/")[0], exist_ok=True)
                        system.put_file(str(file), target)
            elif here.is_file():
                system.makedirs(there.rpartition("/")[0], exist_ok=True)
                system.put_file(str(here), there)

    def _get(self, name: str, here: Path) -> None:
        """Bring a file or a folder, if it is there."""
        with self._system(f"read {name}") as (system, root):
            there = f"{root}/{name}"
            if not system.exists(there):
                return
            here.parent.mkdir(parents=True, exist_ok=True)
            if not system.isdir(there):
                system.get_file(there, str(here))
                return
            for found in system.find(there):
                target = here / found.removeprefix(there).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(found, str(target))

    @contextmanager
    def _system(self, what: str) -> Iterator[tuple[Any, str]]:
        """The file system and the path in it; its errors, of which every one has its own, as one of ours."""
        import fsspec

        try:
            system, root = fsspec.core.url_to_fs(self.url)
            system.invalidate_cache()
            yield system, str(root).rstrip("/")
        except IntrudersError:
            raise
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(f"the store {self.url!r} failed to {what}: {said[:300]}") from error
