"""Where finished work is kept: files of a folder, which may be under a URL too, and values by what they depend on."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import IntrudersError, SettingError, StoreError, all_lines
from .digests import json_digest
from .files import sibling, user_path, write_atomically
from .folders import user_cache
from .plain_values import from_plain, plain

EVALUATIONS = "evaluations"  # the folder of kept values in that of a result
SCHEMA = 2
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_url(out: str) -> bool:
    """Return whether results go somewhere else than to a folder of this machine."""
    return bool(_URL.match(out)) and not out.startswith("file://")


@dataclass(frozen=True)
class Store:
    """Files that are worked on in a folder of this machine, and kept under a URL as well, where there is one.

    A value that can be sent to another process: connections are made where they are used. Names are those in the
    folder, such as "vectors/one.parquet".
    """

    path: Path
    url: str | None = None

    @classmethod
    def at(cls, out: str, kind: str) -> "Store":
        """Return the store of a folder, or of any URL that fsspec knows (s3://, gs://, sftp://, ...).

        Files of a URL are worked on in the user's cache folder of that ``kind``. SettingError if no installed package
        can open it.
        """
        if not is_url(out):
            return cls(user_path(out.removeprefix("file://")))
        import fsspec

        try:
            fsspec.core.url_to_fs(out)
        except (ValueError, ImportError) as error:
            raise SettingError(f"out {out!r} cannot be opened: {' '.join(str(error).split())}") from error
        return cls(user_cache() / kind / hashlib.sha256(out.encode()).hexdigest()[:16], out)

    def names(self, under: str) -> list[str]:
        """Return the names of the complete files in the folder ``under``; where there is a URL, of those there."""
        if self.url is None:
            here = self.path / under
            names = [file.name for file in here.iterdir()] if here.is_dir() else []
        else:
            with self._there(f"list {under}") as there:
                files = there.find(under, maxdepth=1) if there.exists(under) else []
                names = [file.rpartition("/")[2] for file in files]
        return sorted(name for name in names if not name.startswith("."))

    def read(self, name: str) -> bytes | None:
        """Return the content of a file under the URL; None where there is none, or no URL."""
        if self.url is None:
            return None
        with self._there(f"read {name}") as there:
            content: bytes | None = there.cat_file(name) if there.exists(name) else None
            return content

    def fetched(self, name: str) -> Path:
        """Return the path of a file here, which is brought if it is under the URL alone."""
        here = self.path / name
        if not here.is_file():
            self.bring(name)
        return here

    def bring(self, name: str, to: Path | None = None) -> None:
        """Bring a file or a folder, if it is there. A file appears under its name when it is complete."""
        if self.url is None:
            return
        here = to or self.path / name
        with self._there(f"read {name}") as there:
            for file in there.find(name) if there.exists(name) else []:
                target = here / file.removeprefix(name).lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                part = sibling(target)
                try:
                    there.get_file(file, str(part))
                    os.replace(part, target)
                finally:
                    part.unlink(missing_ok=True)

    def send(self, name: str) -> None:
        """Send a file, if it is here, or a folder in the place of what is there of it."""
        here = self.path / name
        if self.url is None or not here.exists():
            return
        with self._there(f"write {name}") as there:
            # What an interrupted attempt has put there may be of another attempt's files.
            if here.is_dir() and there.exists(name):
                there.rm(name, recursive=True)
            for file in sorted(here.rglob("*")) if here.is_dir() else [here]:
                if file.is_file() and not file.name.startswith("."):
                    target = file.relative_to(self.path).as_posix()
                    there.makedirs(target.rpartition("/")[0], exist_ok=True)
                    there.put_file(str(file), target)

    def put(self, name: str, content: bytes) -> None:
        """Write a file, completely or not at all, and send it. ResultFileError or StoreError if that cannot be."""
        here = self.path / name
        here.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(here, content)
        self.send(name)

    def move(self, old: str, new: str) -> None:
        """Give a file another name, in both places."""
        here = self.path / new
        here.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.fetched(old), here)
        self.send(new)
        self.remove(old)

    def remove(self, name: str) -> None:
        """Remove a file, in both places."""
        (self.path / name).unlink(missing_ok=True)
        if self.url is not None:
            with self._there(f"remove {name}") as there:
                if there.exists(name):
                    there.rm_file(name)

    @contextmanager
    def _there(self, what: str) -> Iterator[Any]:
        """The file system under the URL; its errors, of which every one has its own, as one of ours."""
        import fsspec
        from fsspec.implementations.dirfs import DirFileSystem

        try:
            system, root = fsspec.core.url_to_fs(self.url)
            system.invalidate_cache()
            yield DirFileSystem(root, system)
        except IntrudersError:
            raise
        except Exception as error:
            raise StoreError(f"the store {self.url!r} failed to {what}: {all_lines(error)}") from error


@dataclass(frozen=True)
class Kept:
    """Finished values, one file each, in a folder ``evaluations``; kept nowhere without a folder.

    ``of`` is everything that all of them depend on. The unit of a value is what only this one depends on: a remedy with
    its settings, a control, a share of the data. A file's name is the hash of both, which are kept beside the value, so
    that another model or setting never reads it.
    """

    folder: Path | None
    of: Mapping[str, Any] = field(default_factory=dict)

    def get(self, unit: Mapping[str, Any], kind: Any = Any) -> Any:
        """Return the kept value, of that type; None if its file is missing, broken or of other settings."""
        if self.folder is None:
            return None
        try:
            record = json.loads(self._file(unit).read_text(encoding="utf-8"))
            value = record.pop("value")
            return from_plain(kind, value) if record == json.loads(json.dumps(self._key(unit))) else None
        except (AttributeError, OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, unit: Mapping[str, Any], value: Any) -> None:
        """Keep a value of JSON, or of dataclasses and arrays, completely or not at all."""
        if self.folder is not None:
            file = self._file(unit)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, json.dumps({**self._key(unit), "value": value}, default=plain).encode())

    def once(self, unit: Mapping[str, Any], kind: Any, make: Callable[[], Any]) -> Any:
        value = self.get(unit, kind)
        if value is None:
            value = make()
            self.put(unit, value)
        return value

    def _key(self, unit: Mapping[str, Any]) -> dict[str, Any]:
        return {"schema": SCHEMA, "of": self.of, "unit": unit}

    def _file(self, unit: Mapping[str, Any]) -> Path:
        assert self.folder is not None
        return self.folder / EVALUATIONS / f"{json_digest([self.of, unit], 24)}.json"
