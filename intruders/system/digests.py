"""Hashes of files and of JSON values: by them a finished part of a work knows that what it depends on is the same."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import xxhash


def add_files(digest: xxhash.xxh3_128, files: Iterable[Path]) -> None:
    """Add the name, the size and the content of every file, in this order.

    Folders of runs and of kept evaluations store such digests: another order or form would start them again.
    """
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        with file.open("rb") as content:
            hashlib.file_digest(content, lambda: digest)


def digest_of_file(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, xxhash.xxh3_128).hexdigest()


def json_digest(value: object, digits: int = 64) -> str:
    """Return the first digits of the SHA-256 of a JSON value, whatever the order of the keys in its objects.

    Kept measurements are found by such digests: another form would start them again.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]
