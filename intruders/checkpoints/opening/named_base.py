"""What is known of the base that an adapter names, as notes: another one than was given, or a quantized one."""

import os
import re
from contextlib import suppress

from ...errors import CheckpointError, MissingDependencyError
from ...system.files import user_path
from ..adapters.adapter import Adapter
from ..quantized.restore import quantization_of
from ..stored.checkpoint import Checkpoint
from ..stored.json_file import read_json_object
from ..stored.locate import DEMO_MODELS, locate, split_revision
from .many_sources import digest_of


def other_base_note(source: str, named: str | None, base: str) -> list[str]:
    """Return a note if ``base`` is not ``named``, on which the adapter was trained; nothing is fetched to compare."""
    if named is None or named == base:
        return []
    ours, theirs = known_here(base), known_here(named)
    if ours is not None and ours == theirs:
        return []
    if ours is not None and theirs is not None and os.path.isdir(ours) and os.path.isdir(theirs):
        with suppress(CheckpointError, OSError):  # only a note depends on it
            if digest_of(ours) == digest_of(theirs):
                return []
    note = (
        f"adapter {source!r} names {named!r} as its base and is measured on {base!r}; if these are other weights, "
        "so are the numbers"
    )
    return [note]


def known_here(source: str) -> str | None:
    """Return the path of a model, or its Hub id where the hub's cache lacks it; None if it is neither."""
    from huggingface_hub import snapshot_download

    try:
        path = locate(source) if source in DEMO_MODELS else user_path(source)
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


# How names on the hub say it: unsloth/Llama-3.2-1B-bnb-4bit, org/model-GPTQ, org/model-AWQ.
_NAMED_QUANTIZED = re.compile(
    r"(?:^|[-_.])(?:bnb|[48]-?bit|int[48]|nf4|fp4|gptq|awq)(?:$|[-_.])", re.IGNORECASE
)


def notes_on_trained_base(base: Checkpoint, part: object) -> list[str]:
    """Return a note if an adapter or its base is quantized (QLoRA): the update is of one of two sets of weights.

    A quantized base is known by its configuration or, where it is not on this machine, by its name; one that was
    quantized while loading leaves no trace.
    """
    if not isinstance(part, Adapter) or part.base_source is None:
        return []
    file = user_path(part.base_source) / "config.json"
    named_quantized = _NAMED_QUANTIZED.search(part.base_source.rpartition("/")[2]) is not None
    try:
        if file.is_file():
            named_quantized = bool(quantization_of(read_json_object(file)))
    except (OSError, ValueError, CheckpointError):
        named_quantized = False
    if quantization_of(base.config):
        known = "and the adapter does not record whether it was trained on these or on the original ones"
        known = "as the adapter was trained" if named_quantized else known
        return [f"the weights of '{base.source}' are quantized and de-quantized on read, {known}"]
    if not named_quantized:
        return []
    note = (
        f"adapter '{part.source}' names '{part.base_source}', a quantized base: it was trained on those weights, "
        f"de-quantized, and is measured on the original ones of '{base.source}'"
    )
    return [note]
