"""Local copies of public data sets, for machines without access to the hub and for runs on the same bytes.

``$INTRUDERS_DATA`` names a folder with one folder per set, which has the name of the task or corpus:
``sst2/train.tsv``, ``sst2/dev.tsv``, ``wikitext-2/test.txt``. The id of a run does not depend on it; the source that
a run records does.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import SettingError
from ..system.files import user_path
from .local_files import SUFFIXES

VARIABLE = "INTRUDERS_DATA"

# What the files of a split may be called, the usual names first.
_STEMS = {"train": ("train",), "validation": ("validation", "dev", "valid"), "test": ("test",)}


def folder_of_copy(name: str) -> Path | None:
    """Return the folder with a copy of the set ``name``; None if ``$INTRUDERS_DATA`` is not set or lacks it.

    The hyphen of a name is optional: ``wikitext-2`` or ``wikitext2``. SettingError if the variable names no folder.
    """
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    folder = user_path(given)
    if not folder.is_dir():
        raise SettingError(
            f"{VARIABLE} is {given!r}, which is not a folder; expected one with a folder per data set; "
            "set it to one, or unset it to use the hub"
        )
    candidates = (folder / spelled for spelled in (name, name.replace("-", "")))
    return next((path for path in candidates if path.is_dir()), None)


def file_of_split(folder: Path, split: str, suffixes: Sequence[str] = SUFFIXES) -> Path | None:
    """Return the file of a split in the folder of a copy, or None. SettingError if two match."""
    files = [
        path
        for stem in _STEMS[split]
        for suffix in suffixes
        for packed in ("", ".gz")
        if (path := folder / f"{stem}{suffix}{packed}").is_file()
    ]
    if len(files) > 1:
        raise SettingError(
            f"'{folder}' has {' and '.join(path.name for path in files)} for the {split} split; "
            "expected one file per split; move the others away"
        )
    return files[0] if files else None


def digest_of_files(files: Sequence[Path]) -> str:
    """Return the first 12 digits of a SHA-256 over the content of files, in this order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
