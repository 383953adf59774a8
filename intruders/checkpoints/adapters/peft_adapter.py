"""PEFT adapters: a folder with ``adapter_config.json``, or those inside a model in memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import CheckpointError
from ..checkpoint import Checkpoint, StoredTensor
from ..formats.safetensors import safetensors_file
from ..formats.torch_pickle import pickle_file
from ..json_file import read_json_object
from ..memory import describe_module, state_dict_checkpoint
from .adapter import AdaptedWeight, Adapter
from .adapter_config import AdapterConfig
from .lora import lora_updates
from .other_methods import adalora_updates, ia3_updates, loha_updates, lokr_updates, vera_updates
from .starts import changes_the_base

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_PREFIX = "base_model.model."
_METHOD_TENSOR = re.compile(r"(?:^|\.)(?:lora_|hada_|lokr_|vera_|ia3_|trainable_tokens)")
_OTHER_TYPES = {
    "LOHA": loha_updates,
    "LOKR": lokr_updates,
    "ADALORA": adalora_updates,
    "VERA": vera_updates,
    "IA3": ia3_updates,
}


def peft_folder(folder: Path, source: str) -> Adapter:
    """The adapter in a folder: ``adapter_config.json`` and ``adapter_model.safetensors`` (or .bin).

    Raises:
      CheckpointError: files missing or corrupt, config and tensors at odds, or a PEFT type that is not read
        here.
    """
    config = AdapterConfig(read_json_object(folder / ADAPTER_CONFIG), source)
    if (folder / _WEIGHTS).is_file():
        return _adapter(safetensors_file(folder / _WEIGHTS), config, {})
    if (folder / _PICKLE).is_file():
        return _adapter(pickle_file(folder / _PICKLE), config, {})
    raise CheckpointError(f"'{source}' has an {ADAPTER_CONFIG} and no weights; expected {_WEIGHTS} beside it")


def peft_adapters_in(model: nn.Module) -> list[Adapter]:
    """The active adapters of a PeftModel, or of a transformers model with PEFT adapters in it.

    Raises:
      CheckpointError: no adapter is active, or its PEFT type is not read here.
    """
    source = describe_module(model)
    names = _active_adapters(model)
    if not names:
        raise CheckpointError(f"{source} has no active adapter; set_adapter makes one active")
    return [_adapter_in(model, name, source) for name in names]


def start_that_changed(model: nn.Module) -> str | None:
    """The start, of any adapter in the model, active or not, that wrote to the base's weights."""
    configs: Any = model.peft_config
    source = describe_module(model)
    starts = (_changes_its_base(AdapterConfig(config.to_dict(), source)) for config in configs.values())
    return next((start for start in starts if start is not None), None)


def _active_adapters(model: nn.Module) -> list[str]:
    """As the layers have it; a method without layers of its own (prompts) has all its adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    configs: Any = model.peft_config
    active = [name for layer in layers for name in layer.active_adapters] if layers else list(configs)
    return [name for name in dict.fromkeys(active) if name in configs]


def _adapter_in(model: nn.Module, name: str, source: str) -> Adapter:
    from peft import get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    configs: Any = model.peft_config
    config = AdapterConfig(configs[name].to_dict(), f"{source}, adapter '{name}'")
    state: Mapping[str, Tensor] = get_peft_model_state_dict(
        model, adapter_name=name, save_embedding_layers=False
    )
    scales: dict[str, float] = {}
    for path, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and name in getattr(module, "scaling", {}):
            scale = float(module.scaling[name])
            if config.peft_type == "ADALORA":
                scale /= float(module.ranknum[name]) + 1e-5
            scales[path.removeprefix(_PREFIX)] = scale
    return _adapter(state_dict_checkpoint(state).tensors, config, scales)


def _adapter(
    stored: Mapping[str, StoredTensor], config: AdapterConfig, scales: Mapping[str, float]
) -> Adapter:
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in stored.items()}
    undecided: list[list[AdaptedWeight]] = []
    if config.peft_type == "LORA":
        updates, undecided = lora_updates(tensors, config, scales)
    elif config.peft_type in _OTHER_TYPES:
        updates = _OTHER_TYPES[config.peft_type](tensors, config, scales)
    else:
        known = ", ".join(["LORA", *_OTHER_TYPES])
        raise CheckpointError(
            f"'{config.source}' is a PEFT adapter of type {config.peft_type}, which is not read here; "
            "expected "
            f"one of {known}, or the model after PEFT's merge_and_unload"
        )
    if not updates and not undecided:
        raise CheckpointError(f"'{config.source}' holds no tensors of a {config.peft_type} adapter")
    return Adapter(
        config.source,
        config.peft_type,
        config.base_source,
        Checkpoint(config.source, "adapter", "modules to save", _saved_in_full(tensors)),
        updates,
        undecided,
        _ignored(tensors),
        _changes_its_base(config),
    )


def _saved_in_full(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Modules of ``modules_to_save``, and embeddings that PEFT saved because tokens were added.

    Beside an adapter of the same weight a ``base_layer`` is the base's own, and no change; but for its bias, which
    PEFT saves where it was trained.
    """
    return {
        name.replace(".base_layer.bias", ".bias"): tensor
        for name, tensor in tensors.items()
        if not _METHOD_TENSOR.search(name) and (".base_layer." not in name or name.endswith(".bias"))
    }


def _ignored(tensors: Mapping[str, StoredTensor]) -> list[tuple[str, str]]:
    """Tensors of the method that change no matrix."""
    biases = [(name, "a bias") for name in tensors if name.endswith(".lora_B.bias")]
    tokens = [(name, "single tokens, retrained") for name in tensors if "trainable_tokens" in name]
    return biases + tokens


def _changes_its_base(config: AdapterConfig) -> str | None:
    """The start that took something out of the base, unless PEFT converted the adapter since.

    AdaLoRA has the setting too, and starts from zero whatever it says.
    """
    start = config.values.get("init_lora_weights")
    return str(start) if config.peft_type == "LORA" and changes_the_base(start) else None
