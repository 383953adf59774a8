"""Which base cache an argument means: the user's folder, another folder, a URL, an object, or none."""

from __future__ import annotations

import os
import warnings

from ..errors import CacheError, SettingError
from ..system.remote_folder import is_url
from .base_cache import BaseCache, CacheChoice, DiskCache
from .remote_cache import RemoteCache


def store_of_bases(cache: CacheChoice) -> BaseCache | None:
    """Return the base cache to use; None for none."""
    if cache is False:
        return None
    if cache is True:
        try:
            return DiskCache()
        except CacheError as error:  # a home that cannot be written to is no reason to refuse an audit
            warnings.warn(f"{error}; nothing is kept", stacklevel=3)
            return None
    if isinstance(cache, str | os.PathLike) and os.fspath(cache):
        return cache_at(cache)
    if isinstance(cache, BaseCache):
        return cache
    raise SettingError(
        f"cache is {cache!r}; expected True, False, the path of a folder, a URL, or an object such as DiskCache; "
        "pass False to keep nothing"
    )


def cache_at(folder: str | os.PathLike[str] | None) -> DiskCache:
    """Return the base cache in a folder or under a URL; in the user's cache folder if None."""
    if isinstance(folder, str) and is_url(folder):
        return RemoteCache(folder)
    return DiskCache(folder)
