"""One door: a path, hub id, demo alias, module or state dict -> a lazy checkpoint or an adapter."""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import CheckpointError, os_reason, some_of
from ...system.plugins import FORMATS, plugins_of
from ..adapters.adapter import Adapter
from ..adapters.kohya import looks_like_adapter, single_file_adapter
from ..adapters.other_programs import MLX_WEIGHTS
from ..adapters.peft_adapter import ADAPTER_CONFIG, adapter_at, peft_adapters_in
from ..adapters.peft_types import ADDITIVE
from ..formats.gguf import gguf_file
from ..formats.memory import (
    describe_module,
    has_adapters,
    is_state_dict,
    module_checkpoint,
    state_dict_checkpoint,
)
from ..formats.safetensors import INDEX_SUFFIX, read_metadata, safetensors_file, tensors_of_shards
from ..formats.torch_pickle import PICKLE_INDEX_SUFFIX, PICKLE_SUFFIXES, pickle_file
from ..quantized.restore import restored
from ..stored.checkpoint import Checkpoint, StoredTensor
from ..stored.json_file import read_json_object
from ..stored.locate import index_of_shard, locate, one_file_each, origin_of, where_training_stopped
from ..stored.matrices import stored_input_first
from ..stored.names import natural_order
from ..stored.tied import stored_twice
from .model_sum import ModelSum, is_sum, split_sum
from .other_formats import other_format

Opened = Checkpoint | Adapter | ModelSum
Source = str | os.PathLike[str] | nn.Module | Mapping[str, Tensor] | Checkpoint


# What the transformers Trainer leaves beside the weights.
_NO_WEIGHTS = re.compile(
    r"training_args\.bin|optimizer\.(?:pt|bin)|(?:scheduler|scaler)\.pt|rng_state(?:_\d+)?\.pth"
)


def open_checkpoint(source: Source) -> Checkpoint:
    """The full checkpoint behind ``source``; nothing but headers is read.

    ``source`` is a folder or file of weights, a hub id, the alias of a demo model, an ``nn.Module`` (of a PeftModel:
    its base), a state dict, or one that is open. CheckpointError where it cannot be read or is an adapter;
    MissingDependencyError without a package that the format needs.
    """
    if isinstance(source, nn.Module):
        return module_checkpoint(source)
    opened = open_source(source)
    if not isinstance(opened, Checkpoint):
        what = "an adapter" if isinstance(opened, Adapter) else "a sum of models"
        raise CheckpointError(f"'{opened.source}' is {what}; expected a full checkpoint here")
    return opened


def open_source(source: Source) -> Opened:
    """Open a checkpoint as :func:`open_checkpoint` does, an adapter (a PeftModel's active), or a sum ``A@0.7+B``."""
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, nn.Module):
        return open_module(source)
    if isinstance(source, Mapping):
        if not is_state_dict(source):
            raise CheckpointError("the mapping given is not a state dict; expected names mapped to tensors")
        if looks_like_adapter(source):
            return single_file_adapter(state_dict_checkpoint(source).tensors, {}, "state dict of an adapter")
        return state_dict_checkpoint(source)
    if not isinstance(source, str | os.PathLike):
        raise CheckpointError(
            f"{type(source).__name__} is not a model; expected a path, hub id, alias, nn.Module or state dict"
        )
    text = os.fspath(source)
    if is_sum(text):
        return ModelSum(text, [(_located(part), weight) for part, weight in split_sum(text)])
    return _located(text)


def open_module(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> Opened:
    """A model in memory, or its tensors gathered into ``state``: its active adapters, or its own weights."""
    if not has_adapters(model):
        return module_checkpoint(model, state)
    adapters = peft_adapters_in(model, state)
    if len(adapters) == 1:
        return adapters[0]
    for adapter in adapters:
        is_dora = any(update.method == "dora" for update in adapter.updates)
        # A variant of LoRA that PEFT makes, such as KaSA, adds no update whatever others have added before.
        is_variant = adapter.peft_type == "LORA" and any(update.merged for update in adapter.updates)
        if adapter.peft_type not in ADDITIVE or is_dora or is_variant:
            raise CheckpointError(
                f"{describe_module(model)} has {len(adapters)} active adapters, of which "
                f"{'DoRA' if is_dora else adapter.peft_type} acts on what the others made of the weight, and only sums "
                "of adapters are read; make one active with set_adapter, or merge them with PEFT"
            )
    source = " + ".join(adapter.source for adapter in adapters)
    return ModelSum(source, [(adapter, 1.0) for adapter in adapters])


def _located(text: str) -> Checkpoint | Adapter:
    try:
        path = locate(text)
        origin = origin_of(path, text)
        opened = _read_at(path, text)
    except OSError as error:
        raise CheckpointError(f"'{text}' cannot be read: {os_reason(error)}") from None
    return opened if origin is None else replace(opened, hub=(origin,))


def _read_at(path: Path, text: str) -> Checkpoint | Adapter:
    adapter = adapter_at(path, text)
    if adapter is not None:
        return adapter
    file = weights_in(path) if path.is_dir() else path
    form, tensors, config, unnamed = _read(file)
    if any(name.endswith((".lora_a", ".lora_b")) for name in tensors):
        raise CheckpointError(
            f"'{text}' has factors of an adapter of MLX, whose scale is not in the file; expected a folder with "
            f"{MLX_WEIGHTS} and {ADAPTER_CONFIG}; put the two into one, and pass it"
        )
    if looks_like_adapter(tensors):
        metadata = read_metadata(file) if file.suffix == ".safetensors" else {}
        return single_file_adapter(tensors, metadata, text)
    tensors = restored(tensors, config, text)
    tied = stored_twice(tensors, config)
    tensors = {name: stored for name, stored in tensors.items() if name not in tied}
    shapes = {name: stored.shape for name, stored in tensors.items()}
    return Checkpoint(
        text,
        "checkpoint",
        form,
        tensors,
        config,
        tied,
        stored_input_first(shapes),
        ignored=tuple((name, "transformers has no name for it") for name in unnamed),
    )


def _read(file: Path) -> tuple[str, dict[str, StoredTensor], Mapping[str, Any] | None, list[str]]:
    if not file.is_file():  # a pipe or a device could be read for ever
        raise CheckpointError(f"'{file}' is not a regular file; expected the weights of a model")
    if file.suffix == ".gguf":
        return "gguf", *gguf_file(file)
    beside = file.parent / "config.json"
    config = read_json_object(beside) if beside.is_file() else None
    index = index_of_shard(file.name)
    if index is not None and not file.with_name(index).is_file():
        raise CheckpointError(
            f"'{file}' is one part of a model, and the index '{index}' of its parts is missing from its folder; "
            "download the checkpoint again"
        )
    file = file if index is None else file.with_name(index)
    if file.name.endswith(INDEX_SUFFIX):
        return "safetensors", tensors_of_shards(file, safetensors_file), config, []
    if file.suffix == ".safetensors":
        return "safetensors", safetensors_file(file), config, []
    if file.name.endswith(PICKLE_INDEX_SUFFIX):
        return "pytorch", tensors_of_shards(file, pickle_file), config, []
    if file.suffix in PICKLE_SUFFIXES:
        return "pytorch", pickle_file(file), config, []
    for plugin in plugins_of(FORMATS).values():
        if file.name.endswith(tuple(plugin.suffixes)):
            tensors = dict(state_dict_checkpoint(plugin.read(file)).tensors)
            return str(getattr(plugin, "name", file.suffix[1:])), tensors, config, []
    raise CheckpointError(
        f"'{file}' is of no format that is read here; expected .safetensors, .gguf, or a file of torch.save"
    )


def weights_in(folder: Path) -> Path:
    """Return the one file (or index) that stands for the weights in a folder; CheckpointError without one."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    for choices in (
        ["model.safetensors.index.json"],
        ["model.safetensors"],
        [name for name in names if name.endswith(INDEX_SUFFIX)],
        [name for name in names if name.endswith(".safetensors")],
        ["pytorch_model.bin.index.json"],
        ["pytorch_model.bin"],
        [name for name in names if name.endswith(PICKLE_SUFFIXES) and not _NO_WEIGHTS.fullmatch(name)],
        one_file_each(name for name in names if name.endswith(".gguf")),
        [name for name in names if name.endswith(suffixes_of_plugins())],
    ):
        present = [name for name in choices if name in names]
        if len(present) == 1:
            return folder / present[0]
        if present:
            said = f"contains several checkpoints: {some_of(present)}; pass one file's path"
            raise CheckpointError(f"'{folder}' {other_format(folder) or said}")
    adapters = sorted((file.parent.name for file in folder.glob(f"*/{ADAPTER_CONFIG}")), key=natural_order)
    if adapters:
        said = f"contains adapters in folders of their own: {some_of(adapters)}; pass one of these"
    else:
        said = other_format(folder)
    if said:
        raise CheckpointError(f"'{folder}' {said}")
    raise CheckpointError(
        f"'{folder}' contains no weights; expected model.safetensors or its index, pytorch_model.bin, or a .gguf file"
        + (_how_to_merge_shards(folder) or where_training_stopped(folder))
    )


def _how_to_merge_shards(folder: Path) -> str:
    """Return what makes one model of the shards of a training on several devices; empty for another folder."""
    if (folder / "zero_to_fp32.py").is_file():
        return "; its weights are DeepSpeed's shards; merge them (python zero_to_fp32.py . OUT there), and pass OUT"
    # The state of the optimizer is stored in such shards too.
    shards = {shard.parent for shard in (*folder.glob("*.distcp"), *folder.glob("*/*.distcp"))}
    models = sorted(str(parent) for parent in shards if not parent.name.startswith("optimizer"))
    if not models:
        return ""
    return f"; its weights are FSDP's shards; merge them (accelerate merge-weights {models[0]} OUT), and pass OUT"


def suffixes_of_plugins() -> tuple[str, ...]:
    return tuple(suffix for plugin in plugins_of(FORMATS).values() for suffix in plugin.suffixes)
