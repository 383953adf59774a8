"""Whether a base is the one that an adapter names: the note that it is another."""

from __future__ import annotations

import os

from ...errors import CheckpointError, MissingDependencyError
from ...system.files import user_path
from ..stored.demo_models import DEMO_MODELS
from ..stored.hub import split_revision
from .many_sources import digest_of


def other_base_note(source: str, named: str | None, base: str) -> list[str]:
    """Return a note if ``base`` is another model than ``named``, which the adapter at ``source`` was trained on.

    Nothing is fetched to be compared: a model that is not on this machine is another one, unless its name is the same.
    """
    if named is None or named == base:
        return []
    ours, theirs = _known_here(base), _known_here(named)
    if ours is not None and (ours == theirs or (theirs is not None and _are_equal_folders(ours, theirs))):
        return []
    note = (
        f"adapter {source!r} names {named!r} as its base and is measured on {base!r}; if these are other weights, "
        "so are the numbers"
    )
    return [note]


def _are_equal_folders(ours: str, theirs: str) -> bool:
    """Return whether two models are folders of the same content; False where one cannot be read."""
    try:
        return os.path.isdir(ours) and os.path.isdir(theirs) and digest_of(ours) == digest_of(theirs)
    except (CheckpointError, OSError):  # only a note depends on it
        return False


def _known_here(source: str) -> str | None:
    """Return the path of a model, or its Hub id where the hub's cache lacks it; None if it is neither."""
    from huggingface_hub import snapshot_download

    try:
        if source in DEMO_MODELS:
            model = DEMO_MODELS[source]
            return str(model.converted() if model.is_gguf else model.packaged())
        path = user_path(source)
        if path.exists():
            return str(path.resolve())
    except (OSError, RuntimeError, ValueError, MissingDependencyError, CheckpointError):
        return None
    asked = split_revision(source)
    if asked is None:
        return None
    repository, revision = asked
    try:
        return snapshot_download(repository, revision=revision, local_files_only=True)
    except Exception:  # the hub's client raises what it likes where the cache has no such commit
        return repository if revision in (None, "main") else source
