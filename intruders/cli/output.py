"""Results as JSON, in a file or on standard output."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def check_json(json: str | None) -> None:
    """Refuse a file that cannot be written, before the work that fills it.

    Raises:
      ResultFileError: as :func:`intruders.system.files.check_writable`.
    """
    from ..system.files import check_writable

    if json is not None and not _is_standard_output(json):
        check_writable(json)


def put_json(document: Mapping[str, Any], json: str | None) -> bool:
    """Write the document where ``--json`` says; True if that is standard output, where nothing else may follow.

    A file is written before anything is printed: it must survive a reader who stops early (``| head``).
    """
    from json import dumps

    from ..system.files import write_atomically

    if json is None:
        return False
    text = dumps(document, allow_nan=False, ensure_ascii=False) + "\n"
    if _is_standard_output(json):
        sys.stdout.write(text)
        return True
    write_atomically(json, text.encode())
    return False


def _is_standard_output(json: str) -> bool:
    return json == "-"
