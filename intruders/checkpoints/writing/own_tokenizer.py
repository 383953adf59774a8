"""The tokenizer that lies beside an adapter, where its trainer saved one: with a chat template, or further tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ...errors import CheckpointError
from ..adapters.peft_adapter import ADAPTER_CONFIG
from ..stored.json_file import read_json_object
from ..stored.locate import locate
from .companions import copy_files, files_of_tokenizer
from .training_record import training_record


def own_tokenizer_files(source: str | Path) -> list[Path]:
    """Return the files of the tokenizer beside an adapter; none beside one that a run of ours trained.

    A run of ours keeps its base's tokenizer.
    """
    try:
        folder = locate(str(source))
    except CheckpointError:  # a sum of models, or nothing that can be had
        return []
    if not (folder / ADAPTER_CONFIG).is_file() or training_record(folder) is not None:
        return []
    return files_of_tokenizer(folder)


def copy_own_tokenizer(source: str | Path, folder: Path, rows: int) -> None:
    """Put an adapter's own tokenizer in the place of its base's in ``folder``.

    Of a tokenizer that names a token beyond the ``rows`` of the embedding, or whose numbers of tokens cannot be read,
    the chat template alone is taken.
    """
    files = own_tokenizer_files(source)
    if _last_token(files) >= rows:
        files = [file for file in files if file.name.startswith("chat_template")]
    copy_files(files, folder)


def _last_token(files: Sequence[Path]) -> float:
    """Return the largest number of a token in ``tokenizer.json``; infinity where that cannot be read."""
    for file in files:
        if file.name == "tokenizer.json":
            try:
                document = read_json_object(file)
                tokens = document["model"]["vocab"]
                numbers = tokens.values() if isinstance(tokens, dict) else range(len(tokens))
                return float(max([*numbers, *(token["id"] for token in document["added_tokens"])]))
            except (CheckpointError, KeyError, TypeError, ValueError):
                break
    return math.inf
