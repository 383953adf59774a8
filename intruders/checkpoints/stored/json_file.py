"""JSON that came with a download: read with limits, and believed only where its types are right."""

import json
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, first_line, os_reason

LARGEST_BYTES = 100_000_000  # the limit safetensors puts on its headers; no config or index comes near it


def parse_json_object(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in ``text``; CheckpointError, which says ``where``, for anything else, also for a key twice."""

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(f"the key {key[:80]!r} is in it twice")
            result[key] = value
        return result

    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=unique_keys,
            # Infinity and NaN are not JSON, but transformers writes them into configs; they stay floats.
            parse_constant=lambda constant: float(constant.replace("Infinity", "inf")),
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        reason = "nested too deeply" if isinstance(error, RecursionError) else first_line(error)
        raise CheckpointError(f"{where} is not valid JSON ({reason}); download it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} contains a JSON {type(value).__name__}; expected an object")
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise CheckpointError(
                f"'{path}' is {size:,} bytes long; expected a JSON file below {LARGEST_BYTES:,}"
            )
        return parse_json_object(path.read_bytes(), f"'{path}'")
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {os_reason(error)}") from None
