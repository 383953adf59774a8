"""A base cache under a URL, which a team shares: entries come from there, and what is computed goes there."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from ..errors import CacheError, StoreError
from ..system.remote_folder import RemoteFolder, local_folder, require_opens
from .base_cache import DiskCache

if TYPE_CHECKING:
    from ..engine.known_base import KnownBase


class RemoteCache(DiskCache):
    """A base cache in a folder that fsspec can open, with a copy of what was used in the user's cache folder.

    Args:
      url: Where the entries are, such as "s3://bucket/bases".

    Raises:
      SettingError: No installed package opens such a URL.
      CacheError: The folder of the copies cannot be written to.
      StoreError: :meth:`read` or :meth:`write` cannot use the URL. An audit goes on without it.
    """

    def __init__(self, url: str) -> None:
        require_opens(url)
        super().__init__(local_folder(url, "shared-bases"))
        self.require_writable()  # an entry of the URL is read from its copy
        self.url = url
        self._remote = RemoteFolder(url)
        # Names of the entries there, by the folder that they are in: listed once.
        self._there: dict[str, set[str]] = {}
        # An audit asks a store that has failed no more: each try may wait long.
        self._has_failed = False

    @property
    def where(self) -> str:
        return self.url

    def get(self, key: str) -> KnownBase | None:
        """As :meth:`read`; if the URL cannot be used, warn once and go on with the copies."""
        if not self._has_failed:
            try:
                return self.read(key)
            except StoreError as error:
                self._go_on_without(error)
        return super().read(key)

    def put(self, key: str, known: KnownBase) -> None:
        """Write the entry to both places, or warn: the audit does not need it."""
        try:
            super().write(key, known)
            if not self._has_failed:
                self._send(key)
        except StoreError as error:
            self._go_on_without(error)
        except CacheError as error:
            warnings.warn(str(error), stacklevel=2)

    def _go_on_without(self, error: StoreError) -> None:
        self._has_failed = True
        warnings.warn(
            f"{error}; the audit continues with the copies in '{self.folder}', and a later one sends what is missing "
            "there",
            stacklevel=4,
        )

    def read(self, key: str) -> KnownBase | None:
        """Return the entry; None if it is missing in both places, or with a warning if it is damaged.

        A copy whose entry is not there any more is put there again.
        """
        path = self._path(key)
        is_there = path.name in self._names(key)
        if not path.exists() and is_there:
            self._remote.get(f"{key[:1]}/{path.name}", path)
        known = super().read(key)
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
