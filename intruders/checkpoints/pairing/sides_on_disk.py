"""Names of models for what loads them itself and so takes none in memory."""

from __future__ import annotations

import os

from ...errors import CheckpointError
from .open_sides import named_sides


def sides_on_disk(base: object, tuned: object) -> tuple[str | None, str]:
    """Return base and tuned model as texts; one alone is the tuned one, whose adapter names its base.

    Raises:
      CheckpointError: neither is given, or one is a model in memory or no name at all.
    """
    before, after = named_sides(base, tuned)  # type: ignore[arg-type]
    return None if before is None else on_disk(before, "base"), on_disk(after, "tuned")


def on_disk(source: object, name: str) -> str:
    """Return the name or path of a model as text; ``name`` is that of the argument, for the error.

    >>> on_disk("my-adapter", "tuned")
    'my-adapter'

    Raises:
      CheckpointError: it is neither.
    """
    if isinstance(source, str) or (isinstance(source, os.PathLike) and isinstance(os.fspath(source), str)):
        return str(source)
    raise CheckpointError(
        f"{name} is of type {type(source).__name__}; expected a folder, a hub id or a demo model, because every "
        "measurement loads the model itself; save it with save_pretrained, and pass the folder"
    )
