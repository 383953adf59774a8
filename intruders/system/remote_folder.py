"""Folders of results that are no folder of this machine: any place that fsspec knows (s3://, gs://, sftp://, ...)."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import IntrudersError, SettingError, StoreError, all_lines, missing_extra
from .files import sibling, user_path
from .folders import user_cache

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://")


def is_url(out: str) -> bool:
    """Return whether results go somewhere else than to a folder of this machine."""
    return bool(_URL.match(out)) and not out.startswith("file://")


def local_folder(out: str, kind: str) -> Path:
    """The folder that results are worked on in: ``out`` itself, or for a URL one in the user's cache of that kind."""
    if not is_url(out):
        return user_path(out.removeprefix("file://"))
    return user_cache() / kind / hashlib.sha256(out.encode()).hexdigest()[:16]


def require_opens(out: str) -> None:
    """Raise SettingError for a URL that no installed package understands."""
    try:
        import fsspec
    except ImportError as error:
        raise missing_extra(f"the folder {out!r}", "fsspec", "ray") from error
    try:
        fsspec.core.url_to_fs(out)
    except (ValueError, ImportError) as error:
        raise SettingError(f"out {out!r} cannot be opened: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class RemoteFolder:
    """Files under one URL. A value that can be sent to another process: connections are made where used."""

    url: str

    @classmethod
    def at(cls, out: str) -> Self | None:
        """Return the folder of a URL; None for a folder of this machine.

        Raises:
          SettingError: no installed package can open the URL.
        """
        if not is_url(out):
            return None
        require_opens(out)
        return cls(out)

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        with self._system(f"read {name}") as (system, root):
            there = f"{root}/{name}"
            if not system.exists(there):
                return None
            content: bytes = system.cat_file(there)
            return content

    def names(self, under: str) -> list[str]:
        """The files of a folder, by their names in it; none where there is no such folder."""
        with self._system(f"list {under}") as (system, root):
            there = f"{root}/{under}"
            if not system.exists(there):
                return []
            return sorted(str(name).rpartition("/")[2] for name in system.find(there, maxdepth=1))

    def put(self, here: Path, name: str) -> None:
        """Put a file, or a folder in the place of what is there of it."""
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

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._system(f"remove {name}") as (system, root):
            there = f"{root}/{name}"
            if system.exists(there):
                system.rm_file(there)

    def get(self, name: str, here: Path) -> None:
        """Bring a file or a folder, if it is there. A file appears under its name when it is complete."""
        with self._system(f"read {name}") as (system, root):
            there = f"{root}/{name}"
            if not system.exists(there):
                return
            here.parent.mkdir(parents=True, exist_ok=True)
            if not system.isdir(there):
                _bring(system, there, here)
                return
            for path in system.find(there):
                target = here / path.removeprefix(there).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                _bring(system, path, target)

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
            raise StoreError(f"the store {self.url!r} failed to {what}: {all_lines(error)}") from error


def _bring(system: Any, there: str, here: Path) -> None:
    """Download one file beside its name and rename it: a download that is cut off leaves nothing under the name."""
    part = sibling(here)
    try:
        system.get_file(there, str(part))
        os.replace(part, here)
    finally:
        part.unlink(missing_ok=True)
