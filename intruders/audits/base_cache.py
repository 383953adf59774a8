"""What is known of base matrices, kept by their content, so that the next audit of a base starts from it."""

import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import xxhash
from safetensors import SafetensorError, safe_open

from ..errors import CacheError, CheckpointError, StoreError, os_reason
from ..system.files import is_left_behind
from ..system.folders import follow_umask, remove_if_left_behind, scratch_folder, user_cache
from ..system.store import Store

# Torch is loaded where an entry is read or written: to look at the files of a cache needs none.
if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..engine.known_base import KnownBase

# Part of every key: raise it when the meaning of an entry changes.
_VERSION = "4"
# What names of entries about whole bases end with: they say all, whatever k is.
WHOLE = "-all"
NATS = "nats"  # the folder of the rows that predict nats
_DIGIT = "[0-9a-f]"  # the first one of a key, which its folder is called
_NAME = re.compile(f"{_DIGIT}{{32}}({WHOLE})?")


@runtime_checkable
class BaseCache(Protocol):
    """A store of what is known of base matrices, by key."""

    def get(self, key: str) -> "KnownBase | None": ...

    def put(self, key: str, known: "KnownBase") -> None: ...


# What a ``cache`` argument may be: the user's folder, none, a folder or URL of one's own, or an object with entries.
CacheChoice = BaseCache | str | os.PathLike[str] | bool


class MemoryCache:
    """A base cache in memory, for audits that are repeated during training.

    Examples:
      >>> cache = MemoryCache()  # pass it as ``cache`` to every audit
      >>> cache.get("a key without an entry") is None
      True
    """

    def __init__(self) -> None:
        self._entries: dict[str, KnownBase] = {}

    def get(self, key: str) -> "KnownBase | None":
        """Return the entry of a base matrix by its content hash, or None."""
        return self._entries.get(key)

    def put(self, key: str, known: "KnownBase") -> None:
        """Keep the entry of a base matrix under its content hash."""
        self._entries[key] = known


class DiskCache:
    """A base cache in a folder, or under a URL that fsspec can open: one safetensors file per matrix.

    Args:
      folder: The folder, made if it is missing (default: the user's cache folder). One that can only be read, such as
        the prepared base of a team, gives its entries and gets none. Of a URL such as "s3://bucket/bases", what was
        used is copied to the user's cache folder.

    Raises:
      SettingError: No installed package opens such a URL.
      CacheError: The folder cannot be made, or neither written to nor read.

    Examples:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     DiskCache(folder).size()  # entries and bytes
      (0, 0)
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._store = (
            Store(default_folder()) if folder is None else Store.at(os.fspath(folder), "shared-bases")
        )
        self.folder: Path = self._store.path
        self.where: str = self._store.url or str(self.folder)  # what a user passes for it
        self._there: dict[str, set[str]] = {}  # entries under the URL, by their folder: listed once
        self._only_read: CacheError | None = None  # why nothing can be written
        self._has_told = False
        try:
            self.require_writable()
        except CacheError as refusal:
            if self._store.url is not None:  # of which an entry is read from its copy
                raise
            try:
                os.scandir(self.folder).close()
            except OSError:
                raise refusal from None
            self._only_read = refusal

    def require_writable(self) -> None:
        """Raise CacheError for a folder that new entries cannot be written to."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise CacheError(
                f"the cache folder '{self.folder}' cannot be written to ({os_reason(error)}); "
                "pass another folder with --cache, or --no-cache to an audit"
            ) from None

    def get(self, key: str) -> "KnownBase | None":
        """Return the entry; None if it is missing, and with a warning if it, or the URL, cannot be read."""
        try:
            return self.read(key)
        except StoreError as error:
            self._continue_without(error)
            return self.read(key)

    def read(self, key: str) -> "KnownBase | None":
        """As :meth:`get`, but a StoreError if the URL cannot be used.

        A copy whose entry is not under the URL any more is put there again.
        """
        from ..engine.known_base import KnownBase

        name = _name_of(key)
        path, is_there = self.folder / name, self._store.url is not None and name in self._names(key)
        if is_there:
            self._store.fetched(name)
        try:
            # The reader of safetensors says of any file that it cannot open that it is not there.
            path.open("rb").close()
        except FileNotFoundError:
            return None
        except OSError as error:
            warnings.warn(
                f"entries of the cache folder '{self.folder}' cannot be read ({os_reason(error)}) and are "
                "computed again; ask their owner to make them readable, or pass another folder",
                stacklevel=2,
            )
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {own: file.get_tensor(own) for own in file.keys()}  # noqa: SIM118 (it has no other way)
                if (file.metadata() or {}).get("digest") != _digest(tensors, key):
                    raise ValueError("its numbers are not those that were written under this name")
            known = KnownBase(**tensors)
        except FileNotFoundError:  # another process cleared the folder
            return None
        except Exception as error:  # whatever a broken file makes of the reader: the entry is computed again
            warnings.warn(f"cache entry '{path}' is broken and is computed again ({error})", stacklevel=2)
            with suppress(OSError):  # the folder of another user, who has to remove it
                path.unlink()
            return None
        if not is_there:
            self._send(key)
        return known

    def put(self, key: str, known: "KnownBase") -> None:
        """Write the entry of a base matrix, or warn: the audit does not need it."""
        if self._only_read is not None:  # one warning for all of them
            if not self._has_told:
                self._has_told = True
                warnings.warn(f"{self._only_read}; what is not in it is computed and not kept", stacklevel=2)
            return
        try:
            self.write(key, known)
        except StoreError as error:
            self._continue_without(error)
        except CacheError as error:
            warnings.warn(str(error), stacklevel=2)

    def write(self, key: str, known: "KnownBase") -> None:
        """Write the entry of a base matrix to the folder, completely or not at all, and send it to the URL.

        CacheError if the folder cannot be written to any more, as on a full disk; StoreError if the URL cannot be used.
        """
        from safetensors.torch import save_file

        path = self.folder / _name_of(key)
        try:
            path.parent.mkdir(exist_ok=True)
            # A lock on the file would be lost: the writer of safetensors renames one of its own, beside it, to it.
            with scratch_folder(path.parent) as scratch:
                part = scratch / path.name
                tensors = {name: value.contiguous().cpu() for name, value in known.tensors().items()}
                save_file(tensors, part, metadata={"digest": _digest(tensors, key)})
                follow_umask(scratch)  # a team shares the folder
                os.replace(part, path)
        # The writer of safetensors has errors of its own, and so has a folder that cannot be made.
        except (OSError, SafetensorError, CheckpointError) as error:
            raise CacheError(
                f"cache entry '{path}' was not kept ({error}); make room, or pass another folder"
            ) from error
        self._send(key)

    def size(self) -> tuple[int, int]:
        """Return the number of entries, and their bytes with those of the rows that ``prepare --loss-on`` kept."""
        number, size = _number_and_bytes(self._entries())
        return number, size + _number_and_bytes(list(self.folder.glob(f"{NATS}/*/*")))[1]

    def size_of_whole_bases(self) -> tuple[int, int]:
        """Number of matrices that ``intruders prepare`` has decomposed, and bytes; :meth:`size` counts them too."""
        return _number_and_bytes([file for file in self._entries() if file.stem.endswith(WHOLE)])

    def clear(self) -> tuple[int, int]:
        """Remove all entries; return how many were removed, and how many this user may not remove."""
        for part in self.folder.glob(f"{_DIGIT}/*"):
            if is_left_behind(part.name):  # by a kill, while an entry was written or fetched
                remove_if_left_behind(part)  # another process may be writing an entry there
        shutil.rmtree(self.folder / NATS, ignore_errors=True)
        removed, entries = 0, self._entries()
        for file in entries:
            with suppress(OSError):  # this user may not, or another process did
                file.unlink()
                removed += 1
        return removed, sum(file.exists() for file in entries)

    def _entries(self) -> list[Path]:
        """Return the files that a cache wrote, and no weights of a model in a folder that was passed by mistake."""
        return [
            file
            for file in self.folder.glob(f"{_DIGIT}/*.safetensors")
            if _NAME.fullmatch(file.stem) is not None and file.is_file()
        ]

    def _continue_without(self, error: StoreError) -> None:
        """Ask a URL that has failed no more: each try may wait long."""
        self._store = Store(self.folder)
        warnings.warn(
            f"{error}; the audit continues with the copies in '{self.folder}', and a later one sends what is missing "
            "there",
            stacklevel=4,
        )

    def _send(self, key: str) -> None:
        if self._store.url is not None:
            self._store.send(_name_of(key))
            self._names(key).add(_name_of(key))

    def _names(self, key: str) -> set[str]:
        under = key[:1]
        if under not in self._there:
            self._there[under] = {f"{under}/{name}" for name in self._store.names(under)}
        return self._there[under]


def _name_of(key: str) -> str:
    return f"{key[:1]}/{key}.safetensors"


def _number_and_bytes(files: Sequence[Path]) -> tuple[int, int]:
    sizes = []
    for file in files:
        with suppress(FileNotFoundError):  # another process cleared the folder since it was listed
            sizes.append(file.stat().st_size)
    return len(sizes), sum(sizes)


def _digest(tensors: "dict[str, Tensor]", key: str) -> str:
    """128 bits of names, shapes, numbers and the entry's key.

    An audit takes an entry's products for exact, so none may have changed or be of another matrix.
    """
    import torch

    digest = xxhash.xxh3_128()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        if tensors[name].numel():
            digest.update(tensors[name].view(torch.uint8).numpy().data)
    digest.update(key.encode())
    return digest.hexdigest()


def default_folder() -> Path:
    """``bases`` in the user's cache folder of this package."""
    return user_cache() / "bases"


@dataclass(frozen=True)
class BaseKeys:
    """The names of what may be kept of one matrix: 128 bits of its bytes, shape and dtype, hashed once."""

    leading: str  # what an audit of the k leading vectors learns
    whole: str  # all singular triplets

    @classmethod
    def of(cls, matrix: "Tensor", k: int) -> "BaseKeys":
        import torch

        data = matrix.detach().cpu().contiguous()
        digest = xxhash.xxh3_128(data.view(torch.uint8).numpy().data if data.numel() else b"")
        digest.update(f"{_VERSION} {tuple(data.shape)} {data.dtype} ".encode())
        whole = f"{digest.hexdigest()}{WHOLE}"
        digest.update(f"{k}".encode())
        return cls(digest.hexdigest(), whole)


def look_up(store: BaseCache, keys: Sequence[BaseKeys], device: "torch.device") -> "KnownBase | None":
    """Return what the store knows of a batch of bases: complete decompositions, leading vectors, or None."""
    from ..engine.known_base import KnownBase

    for names in ([key.whole for key in keys], [key.leading for key in keys]):
        entries = [known for name in names if (known := store.get(name)) is not None]
        if len(entries) == len(names):
            return KnownBase.together(entries).to(device)
    return None
