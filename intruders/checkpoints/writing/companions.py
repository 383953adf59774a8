"""What lies beside a model's weights: its config and tokenizer, copied, and the recipe that makes it again."""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml

from ...errors import CheckpointError
from ...system.files import user_path
from ..adapters.adapter import Adapter
from ..adapters.peft_adapter import ADAPTER_CONFIG
from ..opening.open import Opened
from ..quantized.restore import drop_quantization
from ..stored.checkpoint import Checkpoint
from ..stored.json_file import read_json_object
from ..stored.locate import SAVED_RESULTS, folder_of, locate, split_names
from ..stored.tied import separated_uses, untie
from .training_record import RUN, TRAINING, training_record

# What lies beside the weights and belongs to the model: configs, tokenizers, code, licences; no weights.
_COMPANIONS = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".md", ".spm")

# Of these, what belongs to a tokenizer; an adapter's folder has it and no config of a model.
TOKENIZER = ("tokenizer", "special_tokens_map", "added_tokens", "chat_template", "vocab", "merges", "spiece")


_NOT_COMPANIONS = (".index.json", "trainer_state.json", "adapter_config.json", "README.md")

# Records of this package are of the model that they lie beside. A copy would answer for a model that it is not of.
_RECORDS = {TRAINING, RUN, "heal.json", "intruders.json", "kept.json", "written.json", *SAVED_RESULTS}


def copy_files(files: Iterable[Path], folder: Path) -> list[str]:
    return [Path(shutil.copyfile(file, folder / file.name)).name for file in files]


def companions(folder: Path, starts: tuple[str, ...] = ("",)) -> list[Path]:
    """The files that lie beside a model's weights (config, tokenizer, ...), or those of a ``TOKENIZER`` alone."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and file.name not in _RECORDS)
    wanted = [name for name in names if name.startswith(starts) and name.endswith(_COMPANIONS)]
    return [
        folder / name for name in wanted if not name.startswith(".") and not name.endswith(_NOT_COMPANIONS)
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


def write_companions(whole: Checkpoint, source: Path, folder: Path, dtype: torch.dtype) -> None:
    """Write config and tokenizer, which say what is written, or those of a GGUF file; CheckpointError without."""
    if whole.format == "gguf":
        from transformers import AutoConfig, AutoTokenizer  # which reading the weights needed

        file = source if source.is_file() else next(iter(sorted(source.glob("*.gguf"))))
        file = file.with_name(split_names(file.name)[0])  # which alone has the metadata
        made = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        made.__dict__.pop("quantization_config", None)
        made.save_pretrained(folder)
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    else:
        beside = folder_of(source)
        if "config.json" not in copy_files(companions(beside), folder):
            raise CheckpointError(
                f"'{beside}' has no config.json beside its weights; pass a folder that has one"
            )
    config = folder / "config.json"
    values: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    drop_quantization(values)
    if separated_uses(whole) is not None:
        untie(values)
    written = dict.fromkeys(("dtype", "torch_dtype") & values.keys(), str(dtype).removeprefix("torch."))
    config.write_text(json.dumps(values | written, indent=2) + "\n", encoding="utf-8")


def own_tokenizer_files(source: str | Path) -> list[Path]:
    """Return the files of the tokenizer beside an adapter; a run of ours keeps its base's."""
    try:
        folder = locate(str(source))
    except CheckpointError:  # a sum of models, or nothing that can be had
        return []
    if not (folder / ADAPTER_CONFIG).is_file() or training_record(folder) is not None:
        return []
    return companions(folder, TOKENIZER)


def copy_own_tokenizer(source: str | Path, folder: Path, rows: int) -> None:
    """Put an adapter's tokenizer in ``folder``, or the template alone where a token has no row of ``rows``."""
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


RECIPE = "mergekit.yml"


def write_recipe(
    folder: Path, sides: tuple[Checkpoint, Opened], shares: Mapping[str, float], dtype: torch.dtype
) -> None:
    """Write the recipe by which mergekit makes a checkpoint again, where it reads both models as they are here.

    ``shares`` are those of W0 + a (W - W0). mergekit rounds once to ``dtype``; a weight is for every tensor whose name
    contains its filter, so that longer names come first.
    """
    base, tuned = sides
    is_adapter = isinstance(tuned, Adapter) and tuned.family == "PEFT" and not tuned.replaced.tensors
    if not is_adapter and not (isinstance(tuned, Checkpoint) and tuned.shapes() == base.shapes()):
        return
    parts = [part for part in sides if isinstance(part, Checkpoint)]
    names = [
        str(path.resolve()) if (path := user_path(part.source)).exists() else part.source for part in sides
    ]
    if any((part.kind, part.format) != ("checkpoint", "safetensors") for part in parts):
        return
    usual = Counter(shares.values()).most_common(1)[0][0]
    weights = [
        {"filter": name, "value": share}
        for name, share in sorted(shares.items(), key=lambda own: -len(own[0]))
        if share != usual
    ]
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": names[0],
        "models": [
            {
                "model": "+".join(names) if is_adapter else names[1],
                "parameters": {"weight": [*weights, {"value": usual}]},
            }
        ],
        "dtype": "float32",
        "out_dtype": str(dtype).removeprefix("torch."),
    }
    text = yaml.safe_dump(recipe, sort_keys=False, default_flow_style=False, width=200)
    command = f"mergekit-yaml {RECIPE} OUT{' --lora-merge-cache CACHE' if is_adapter else ''}"
    (folder / RECIPE).write_text(f"# {command}\n{text}", encoding="utf-8")
