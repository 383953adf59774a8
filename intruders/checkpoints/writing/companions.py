"""What lies beside a model's weights: its config and tokenizer, copied to where the weights are written."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError, missing_extra
from ..adapters.peft_adapter import ADAPTER_CONFIG
from ..opening.open import Opened
from ..quantized.restore import drop_quantization
from ..stored.checkpoint import Checkpoint
from ..stored.json_file import read_json_object
from ..stored.locate import SAVED_RESULTS, folder_of, locate, split_names
from ..stored.tied import untie
from .training_record import RUN, TRAINING, training_record

# What lies beside the weights and belongs to the model: configs, tokenizers, code, licences; no weights.
_COMPANIONS = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".md", ".spm")

# Of these, what belongs to a tokenizer; an adapter's folder has it and no config of a model.
_TOKENIZER = ("tokenizer", "special_tokens_map", "added_tokens", "chat_template", "vocab", "merges", "spiece")


_NOT_COMPANIONS = (".index.json", "trainer_state.json", "adapter_config.json", "README.md")

# Records of this package are of the model that they lie beside. A copy would answer for a model that it is not of.
_RECORDS = {TRAINING, RUN, "heal.json", "intruders.json", "kept.json", "written.json", *SAVED_RESULTS}


def copy_companions(source: Path, folder: Path) -> list[str]:
    """Copy what lies beside a model's weights (config, tokenizer, ...) from ``source``; the names copied."""
    return copy_files(_companions(source, ("",)), folder)


def copy_tokenizer(source: Path, folder: Path) -> list[str]:
    """Copy the files of a tokenizer, with its chat template, from ``source``; the names copied."""
    return copy_files(_companions(source, _TOKENIZER), folder)


def copy_files(files: Iterable[Path], folder: Path) -> list[str]:
    """Copy files into ``folder`` under their names; the names."""
    return [Path(shutil.copyfile(file, folder / file.name)).name for file in files]


def _companions(folder: Path, starts: tuple[str, ...]) -> list[Path]:
    return [
        file
        for file in sorted(folder.iterdir())
        if file.name.startswith(starts)
        and file.name.endswith(_COMPANIONS)
        and not file.name.endswith(_NOT_COMPANIONS)
        and not file.name.startswith(".")
        and file.name not in _RECORDS
        and file.is_file()
    ]


def companion_folder(base_side: Checkpoint, tuned_side: Opened, base: object, tuned: object) -> Path:
    """The folder of config and tokenizer: that of a tuned checkpoint, or of an adapter's base."""
    source = tuned if isinstance(tuned_side, Checkpoint) else base if base is not None else base_side.source
    if not isinstance(source, str | os.PathLike):
        raise CheckpointError(
            "a checkpoint is written with the config and tokenizer that lie beside its model, and this one is in "
            "memory; pass paths"
        )
    return locate(os.fspath(source))


def write_companions(
    source: Path, folder: Path, dtype: torch.dtype, *, is_gguf: bool, has_own_head: bool = False
) -> None:
    """Write config and tokenizer, which say what is written, or those of a GGUF file; CheckpointError without."""
    if is_gguf:
        _from_gguf(source, folder)
    else:
        beside = folder_of(source)
        if "config.json" not in copy_companions(beside, folder):
            raise CheckpointError(
                f"'{beside}' has no config.json beside its weights; pass a folder that has one"
            )
    config = folder / "config.json"
    values: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    drop_quantization(values)
    if has_own_head:
        untie(values)
    written = dict.fromkeys(("dtype", "torch_dtype") & values.keys(), str(dtype).removeprefix("torch."))
    config.write_text(json.dumps(values | written, indent=2) + "\n", encoding="utf-8")


def _from_gguf(source: Path, folder: Path) -> None:
    try:
        from transformers import AutoConfig, AutoTokenizer
    except ImportError as error:
        raise missing_extra("the config of a GGUF file", "transformers", "train") from error
    file = source if source.is_file() else next(iter(sorted(source.glob("*.gguf"))))
    file = file.with_name(split_names(file.name)[0])  # which alone has the metadata
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    config.__dict__.pop("quantization_config", None)
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def own_tokenizer_files(source: str | Path) -> list[Path]:
    """Return the files of the tokenizer beside an adapter; a run of ours keeps its base's."""
    try:
        folder = locate(str(source))
    except CheckpointError:  # a sum of models, or nothing that can be had
        return []
    if not (folder / ADAPTER_CONFIG).is_file() or training_record(folder) is not None:
        return []
    return _companions(folder, _TOKENIZER)


def copy_own_tokenizer(source: str | Path, folder: Path, rows: int) -> None:
    """Put an adapter's own tokenizer in the place of its base's in ``folder``.

    Of a tokenizer that names a token beyond the ``rows`` of the embedding, or whose numbers of tokens cannot be read,
    the chat template alone is taken.
    """
    files = own_tokenizer_files(source)
    last = math.inf
    for file in files:
        if file.name == "tokenizer.json":
            with suppress(CheckpointError, KeyError, TypeError, ValueError):
                document = read_json_object(file)
                tokens = document["model"]["vocab"]
                numbers = tokens.values() if isinstance(tokens, dict) else range(len(tokens))
                last = float(max([*numbers, *(token["id"] for token in document["added_tokens"])]))
    if last >= rows:
        files = [file for file in files if file.name.startswith("chat_template")]
    copy_files(files, folder)
