"""Folders that appear whole or not at all, whatever kills the process that writes them."""

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from ..errors import CacheError, CheckpointError, SettingError, os_reason, some_of
from .files import (
    as_given,
    as_utf8,
    hidden_prefix,
    is_left_behind,
    is_utf8,
    sibling,
    stop_on_full_disk,
    user_path,
)

LOCK = ".lock"  # in a folder that one process at a time may work in

# A folder that is replaced must look like one that such a command writes: --force on a home folder is a slip.
_MARKS = ("intruders.json", "adapter_config.json", "config.json", "published.json")


@contextmanager
def atomic_folder(target: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Yield a new folder beside ``target`` to write into; it becomes ``target`` when the block ends.

    If the block raises, or the process dies at any moment, ``target`` is what it was before. What an earlier
    kill left behind is removed at the next call. An existing ``target`` is replaced only with ``force``, in
    one step where the system can exchange two names (Linux); elsewhere the old folder is moved away first.

    CheckpointError as :func:`check_target` raises it; DiskFullError if the disk is full.
    """
    folder = Path(os.path.realpath(user_path(target)))
    check_target(target, force=force)
    with _hidden_part(folder) as part:
        with stop_on_full_disk(folder.parent, "run the same command again"):
            yield part
            # So that a power cut after the rename finds everything there.
            for path in (*part.rglob("*"), part):
                _flush_entry(path)
        try:
            _move_into_place(part, folder, target, force)
        except OSError as error:
            raise CheckpointError(f"cannot write '{target}': {os_reason(error)}") from error
        _flush_entry(folder.parent)


def scratch_folder(within: Path) -> AbstractContextManager[Path]:
    """Make a new hidden folder in a folder, and remove it when the block ends.

    Its disk is the one that the results need anyhow, where the system's folder of temporary files may be small, or
    not there. What a kill leaves is removed by the next call for that folder, and by :func:`locked_folder`.
    """
    return _hidden_part(within / "scratch")


def follow_umask(folder: Path) -> None:
    """Give every file below a folder the permissions that a new file of this user gets.

    safetensors, by which transformers and PEFT write weights, makes files for their owner alone, whatever the umask.
    """
    probe = sibling(folder / folder.name)
    probe.touch(exist_ok=False)  # the umask itself can only be read by setting it, for all threads
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def check_target(target: str | os.PathLike[str], *, force: bool = False) -> None:
    """Raise CheckpointError now if :func:`atomic_folder` would refuse ``target`` later.

    A name that is not UTF-8 is refused too: the records that are written into the folder could not say it.
    """
    if not is_utf8(os.fspath(target)):
        raise CheckpointError(
            f"'{as_utf8(os.fspath(target))}' is not UTF-8, as results must be; choose another folder"
        )
    folder = Path(os.path.realpath(user_path(target)))
    if folder.exists():
        why = None
        if not folder.is_dir():
            why = "exists and is not a folder; pass the path of a new folder"
        elif os.path.ismount(folder):
            why = "is a mount point, which cannot be replaced in one step; pass a folder inside it"
        elif _is_around_current(folder):
            why = "is the current folder or contains it, and cannot be replaced; pass a folder inside it"
        elif any(folder.iterdir()) and not force:
            why = "already exists; choose another folder, or pass --force to replace it"
        elif any(folder.iterdir()) and not any((folder / mark).is_file() for mark in _MARKS):
            why = "contains no model or adapter, so it is not replaced; choose another folder"
        if why is not None:
            raise CheckpointError(f"'{target}' {why}")
    elif not folder.parent.is_dir():
        raise CheckpointError(
            f"cannot write '{target}': the folder '{folder.parent}' does not exist; make it first"
        )
    try:  # by what writing does: the right to write does not tell of a disk that can only be read
        probe = sibling(folder)
        probe.mkdir()
        with suppress(FileNotFoundError):  # another process took it for one left behind
            probe.rmdir()
    except OSError as error:
        raise CheckpointError(
            f"cannot write '{target}': nothing can be written in '{folder.parent}' ({os_reason(error)})"
        ) from error


def _is_around_current(folder: Path) -> bool:
    """Return whether this process stands in the folder; its user would be left in one that is gone."""
    with suppress(OSError):  # the current folder is gone already
        return Path.cwd().resolve().is_relative_to(folder)
    return False


@contextmanager
def _hidden_part(folder: Path) -> Iterator[Path]:
    """Yield a new hidden folder with a lock on it: by it another process can tell one in work from one left behind."""
    prefix = hidden_prefix(folder)
    for entry in folder.parent.glob(f"{glob.escape(prefix)}*.part"):
        remove_if_left_behind(entry)
    while True:
        part = sibling(folder)
        try:
            part.mkdir()
        except OSError as error:
            raise CheckpointError(f"cannot write beside '{folder}': {os_reason(error)}") from error
        try:
            lock = os.open(part, os.O_RDONLY)
        except FileNotFoundError:  # another process took it, not locked yet, for one left behind
            continue
        # Not every network folder has locks; there nothing is taken for left behind.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if part.is_dir():
            break
        os.close(lock)
    try:
        yield part
    finally:
        os.close(lock)
        shutil.rmtree(part, ignore_errors=True)


def remove_if_left_behind(part: Path) -> None:
    """Remove an unfinished file or folder, unless another process holds its lock."""
    try:
        descriptor = os.open(part, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # another process is writing there
    else:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with suppress(OSError):
                part.unlink()
    finally:
        os.close(descriptor)


def _move_into_place(part: Path, folder: Path, target: str | os.PathLike[str], force: bool) -> None:
    try:
        os.rename(part, folder)  # also onto an empty folder
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if not force:
        raise CheckpointError(f"'{target}' was made by another process meanwhile; choose another folder")
    if not _exchange(part, folder):
        aside = part.with_suffix(".old")
        os.rename(folder, aside)
        os.rename(part, folder)
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the system or file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2  # of Linux alone
    except (OSError, AttributeError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE
    return bool(renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, name: str = "out") -> None:
    """Make a folder to write into, or accept one that is there. SettingError, with the ``name`` of the setting, if
    nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Permission bits alone do not tell: there are read-only mounts, quotas, and the superuser.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingError(
            f"{name} '{folder}' cannot be written: {os_reason(error)}; choose another folder"
        ) from error


def other_entries(folder: Path) -> list[str]:
    """Return the names of what is in a folder, but for its lock and what a kill left unfinished."""
    return sorted(
        entry.name for entry in folder.iterdir() if entry.name != LOCK and not is_left_behind(entry.name)
    )


def require_ours(folder: Path, marks: Collection[str], kind: str) -> None:
    """Raise SettingError rather than write among files of something else: in a folder that has files and no mark.

    ``kind`` is what it would be, such as "a fleet", for the error.
    """
    try:
        others = other_entries(folder) if folder.is_dir() else []
    except OSError:  # which :func:`make_folder` reports
        return
    if others and not any(mark in others for mark in marks):
        raise SettingError(
            f"out '{folder}' is not empty and not {kind}: it contains {some_of(others)}; choose another folder"
        )


@contextmanager
def working_folder(folder: Path | None, name: str = "out") -> Iterator[Path | None]:
    """Make a folder to work in and hold it for this process; None is passed on.

    One that is new, and has only its lock after an error, is removed: where nothing was kept, it would be in the way of
    a training that is to make it. SettingError as :func:`make_folder` and :func:`locked_folder` raise it.
    """
    if folder is None:
        yield None
        return
    is_new = not folder.exists()
    make_folder(folder, name)
    with locked_folder(folder, name):
        try:
            yield folder
        except BaseException:
            if is_new and {entry.name for entry in folder.iterdir()} <= {LOCK}:
                shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def locked_folder(folder: Path, name: str = "out", *, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process; a kill lets go of it. What an earlier kill left there unfinished is removed.

    Where another process holds it, ``wait`` for that, or raise SettingError with the ``name`` of the setting.
    """
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.fstat(file.fileno()).st_nlink == 0:  # the process that held the folder has just removed it
                raise BlockingIOError
        except BlockingIOError as error:
            raise SettingError(
                f"{name} '{as_given(folder)}' is in use by another process; wait for it, or choose another folder"
            ) from error
        for entry in folder.iterdir():
            if is_left_behind(entry.name):
                remove_if_left_behind(entry)
        yield


def user_cache() -> Path:
    """Return the folder for what can be computed again: ``$INTRUDERS_CACHE``, or ``intruders`` in the user's own."""
    try:
        if chosen := os.environ.get("INTRUDERS_CACHE"):
            return user_path(chosen)
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "intruders"
    except RuntimeError as error:  # as in a container that runs as a number without a name
        raise CacheError(
            "the cache folder cannot be chosen, because this user has no home folder and HOME is not set; set "
            "INTRUDERS_CACHE to a folder, or pass one with --cache"
        ) from error
