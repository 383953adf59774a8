"""A hash of a JSON value, such as the settings and the data that a measurement depends on."""

from __future__ import annotations

import hashlib
import json


def json_digest(value: object, digits: int = 64) -> str:
    """Return the first digits of the SHA-256 of a JSON value, whatever the order of the keys in its objects.

    Kept measurements are found by such digests: another form would start them again.

    Examples:
      >>> json_digest({"a": 1, "b": 2}, 12) == json_digest({"b": 2, "a": 1}, 12)
      True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]
