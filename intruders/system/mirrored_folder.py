"""A folder of this machine whose files are kept under a URL as well, where there is one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .files import write_atomically
from .remote_folder import RemoteFolder


@dataclass(frozen=True)
class MirroredFolder:
    """Files that are worked on here and kept elsewhere, or here alone. A value that can be sent to another process.

    Names are those in the folder, such as "vectors/one.parquet".
    """

    path: Path
    remote: RemoteFolder | None = None

    def names(self, under: str) -> list[str]:
        """Return the names of the complete files in the folder ``under``; where there is a URL, of those there."""
        if self.remote is not None:
            names = self.remote.names(under)
        else:
            here = self.path / under
            names = sorted(file.name for file in here.iterdir()) if here.is_dir() else []
        return [name for name in names if not name.startswith(".")]

    def fetched(self, name: str) -> Path:
        """Return the path of a file here, which is brought if it is elsewhere alone."""
        here = self.path / name
        if self.remote is not None and not here.is_file():
            self.remote.get(name, here)
        return here

    def put(self, name: str, content: bytes) -> None:
        """Write a file, completely or not at all, and send it.

        Raises:
          ResultFileError: it cannot be written here.
          StoreError: it cannot be sent.
        """
        here = self.path / name
        here.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(here, content)
        self._send(name)

    def move(self, old: str, new: str) -> None:
        """Give a file another name, in both places."""
        here = self.path / new
        here.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.fetched(old), here)
        self._send(new)
        if self.remote is not None:
            self.remote.remove(old)

    def remove(self, name: str) -> None:
        """Remove a file, in both places."""
        (self.path / name).unlink(missing_ok=True)
        if self.remote is not None:
            self.remote.remove(name)

    def _send(self, name: str) -> None:
        if self.remote is not None:
            self.remote.put(self.path / name, name)
