"""A base cache under a URL, which a team shares: entries come from there, and what is computed goes there."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..engine.base_space import KnownBase
from ..system.remote_folder import RemoteFolder, local_folder, require_opens
from .base_cache import DiskCache


class RemoteCache(DiskCache):
    """A base cache in a folder that fsspec can open, with a copy of what was used in the user's cache folder.

    Args:
      url: Where the entries are, such as "s3://bucket/bases".

    Raises:
      SettingError: No installed package opens such a URL.
      CacheError: The folder of the copies cannot be written to.
      StoreError: The URL cannot be read or written to, from here on.
    """

    def __init__(self, url: str) -> None:
        require_opens(url)
        super().__init__(local_folder(url, "shared-bases"))
        self.url = url
        self._remote = RemoteFolder(url)
        # Names of the entries there, by the folder that they are in: listed once.
        self._there: dict[str, set[str]] = {}

    @property
    def where(self) -> str:
        return self.url

    def get(self, key: str) -> KnownBase | None:
        """Return the entry; None if it is missing in both places, or with a warning if it is damaged.

        A copy whose entry is not there any more is put there again.
        """
        path = self._path(key)
        is_there = path.name in self._names(key)
        if not path.exists() and is_there:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, suffix=".partial") as folder:
                brought = Path(folder) / path.name
                self._remote.get(f"{key[:1]}/{path.name}", brought)
                if brought.exists():
                    brought.replace(path)
        known = super().get(key)
        if known is not None and not is_there:
            self._send(key)
        return known

    def write(self, key: str, known: KnownBase) -> None:
        """Write the entry to the local folder and to the URL."""
        super().write(key, known)
        self._send(key)

    def _send(self, key: str) -> None:
        path = self._path(key)
        if path.exists():
            self._remote.put(path, f"{key[:1]}/{path.name}")
            self._names(key).add(path.name)

    def _names(self, key: str) -> set[str]:
        under = key[:1]
        if under not in self._there:
            self._there[under] = set(self._remote.names(under))
        return self._there[under]
