"""Result files: found writable before the work starts, written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ..errors import IntrudersError


class ResultFileError(IntrudersError):
    """A result file cannot be written, read, or believed."""


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise ResultFileError now if `write_atomically` to `path` could not succeed later.

    Makes and removes an empty file beside the target, since permission bits alone do not tell (read-only
    mounts, quotas, superuser).
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise ResultFileError(f"'{path}' is a folder; give the path of a file to write")
        if _is_special(target):
            return
        if not target.parent.is_dir():
            raise ResultFileError(
                f"cannot write '{path}': there is no folder '{target.parent}'; make it first"
            )
        if target.exists() and not os.access(target, os.W_OK):
            raise ResultFileError(f"cannot write '{path}': the file is there and is read-only")
        probe = _sibling(target)
        probe.touch(exist_ok=False)
        probe.unlink()
    except (OSError, ValueError) as error:
        raise ResultFileError(f"cannot write '{path}': {_reason(error)}") from error


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write `content` to `path`; at any moment the file holds the old content or the new, never a part.

    Follows a symbolic link to the file that it names. A device or pipe (`/dev/stdout`) is written directly.
    """
    try:
        target = Path(os.path.realpath(path))
        if _is_special(target):
            target.write_bytes(content)
            return
        part = _sibling(target)
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    except (OSError, ValueError) as error:
        raise ResultFileError(f"cannot write '{path}': {_reason(error)}") from error


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file, or a ResultFileError that names it."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise ResultFileError(f"cannot read '{path}': {_reason(error)}") from error


def _is_special(target: Path) -> bool:
    """A device or pipe, which must be written to and never replaced."""
    return target.exists() and not target.is_file()


def _sibling(target: Path) -> Path:
    """A hidden name of its own in the same folder, so that os.replace stays on one file system."""
    return target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.part")


def _reason(error: OSError | ValueError) -> str:
    """ValueError is what a path with a null character raises."""
    return (getattr(error, "strerror", None) or str(error)).lower()
