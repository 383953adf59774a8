"""Result files: found writable before the work starts, written whole or not at all."""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DiskFullError, ResultFileError, os_reason

_LEFT_BEHIND = re.compile(r"\..*\.[0-9a-f]{12}\.part", re.DOTALL)


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path that a user gave, with ``~`` as their home: YAML and quoted options come without a shell's help.

    >>> user_path("~/runs") == Path.home() / "runs", str(user_path("runs/~"))
    (True, 'runs/~')
    """
    return Path(os.path.expanduser(path))


def as_given(path: str | os.PathLike[str]) -> str:
    """Return a path as a person in the current folder gives it: below that folder without what leads to it.

    >>> as_given(Path.cwd() / "runs" / "a"), as_given("org/model")
    ('runs/a', 'org/model')
    """
    here, text = f"{os.path.realpath(os.getcwd())}{os.sep}", os.fspath(path)
    return text.removeprefix(here) or text


def is_utf8(path: str) -> bool:
    """Return whether results can name a path: Python keeps bytes of it that are not UTF-8 as surrogates."""
    return path == as_utf8(path)


def as_utf8(path: str) -> str:
    """Return a path as a result or a message can say it.

    >>> print(as_utf8("runs/caf\\udce9"))
    runs/caf\\udce9
    """
    return path.encode(errors="backslashreplace").decode()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise ResultFileError now if `write_atomically` to `path` could not succeed later.

    Makes and removes an empty file beside the target, since permission bits alone do not tell (read-only
    mounts, quotas, superuser).
    """
    try:
        if _is_special(user_path(path)):
            return
        target = Path(os.path.realpath(user_path(path)))
        if target.is_dir():
            raise ResultFileError(f"'{path}' is a folder; pass the path of a file to write")
        if not target.parent.is_dir():
            raise ResultFileError(
                f"cannot write '{path}': the folder '{target.parent}' does not exist; make it first"
            )
        if target.exists() and not os.access(target, os.W_OK):
            raise ResultFileError(f"cannot write '{path}': the file exists and is read-only")
        probe = sibling(target)
        probe.touch(exist_ok=False)
        probe.unlink()
    except (OSError, ValueError) as error:
        raise ResultFileError(f"cannot write '{path}': {os_reason(error).lower()}") from error


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path`; at any moment the file holds the old content or the new, never a part.

    Follows a symbolic link to the file that it names, and keeps the permissions of a file that is replaced. A device
    or pipe (`/dev/stdout`) is written directly.
    """
    try:
        # As it was given: the link /dev/stdout to a pipe has no path of a file behind it.
        if _is_special(user_path(path)):
            user_path(path).write_bytes(content)
            return
        target = Path(os.path.realpath(user_path(path)))
        part = sibling(target)
        try:
            with part.open("xb") as file:
                # By the lock, another process can tell a file in work from one left behind.
                with suppress(OSError):  # not every network folder has locks
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if target.exists():
                    shutil.copymode(target, part)
                os.replace(part, target)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
    except (OSError, ValueError) as error:
        raise ResultFileError(f"cannot write '{path}': {os_reason(error).lower()}") from error


def write_together(tables: Mapping[Path, bytes], document: Path, content: bytes) -> None:
    """Write the files of a result, its document last; an earlier document is removed before its tables are replaced.

    A kill in between leaves tables without a document, which is no result, and never the tables of one result beside
    the document of another.
    """
    try:
        Path(os.path.realpath(document)).unlink(missing_ok=True)
    except OSError as error:
        raise ResultFileError(f"cannot write '{document}': {os_reason(error).lower()}") from error
    for table, rows in tables.items():
        write_atomically(table, rows)
    write_atomically(document, content)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file, or a ResultFileError that names it."""
    try:
        return user_path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise ResultFileError(f"cannot read '{path}': {os_reason(error).lower()}") from error


def _is_special(target: Path) -> bool:
    """A device or pipe, which must be written to and never replaced."""
    return target.exists() and not target.is_file() and not target.is_dir()


def sibling(target: Path) -> Path:
    """Return a hidden name that is new in the same folder, so that os.replace stays on one file system."""
    return target.with_name(f"{hidden_prefix(target)}{secrets.token_hex(6)}.part")


def hidden_prefix(target: Path) -> str:
    """What the hidden names of unfinished files and folders beside ``target`` begin with; 12 hex digits follow."""
    # A name may have 255 bytes, of which a character takes up to four.
    return f".{os.fsencode(target.name)[:100].decode(errors='ignore')}."


def is_left_behind(name: str) -> bool:
    """Return whether a file or folder is an unfinished one of this package, which a kill leaves behind.

    >>> is_left_behind(".run.json.0123456789ab.part"), is_left_behind("notes.part")
    (True, False)
    """
    return _LEFT_BEHIND.fullmatch(name) is not None


@contextmanager
def stop_on_full_disk(
    folder: Path, then: str = "run the same command again to resume from the last complete checkpoint"
) -> Iterator[None]:
    """Turn the errors of a full disk into one that says where, how much is left, and what to do ``then``."""
    try:
        yield
    except Exception as error:
        if not tells_of_a_full_disk(error):
            raise
        there = next(path for path in (folder, *folder.parents) if path.exists())
        left = shutil.disk_usage(there).free / 2**20
        raise DiskFullError(
            f"the disk of {as_given(folder)!r} is full ({left:.0f} MiB free); free some space and {then}"
        ) from error


def tells_of_a_full_disk(error: BaseException | None) -> bool:
    """Return True for the error of a full disk or quota, or one that it caused.

    Python says it by number, safetensors by the system's words, and torch's own writer just that it could not write.
    """
    while error is not None:
        said = str(error)
        if isinstance(error, DiskFullError) or "No space left" in said:
            return True
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, RuntimeError) and ("inline_container" in said or "iostream error" in said):
            return True
        error = error.__cause__ or error.__context__
    return False
