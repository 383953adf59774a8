"""PEFT adapters: a folder with ``adapter_config.json``, or those inside a model in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...errors import CheckpointError
from ..checkpoint import StoredTensor
from ..json_file import read_json_object
from ..memory import describe_module, state_dict_checkpoint
from ..safetensors import safetensors_file
from ..torch_pickle import pickle_file
from .config import AdapterConfig
from .lora import lora_updates
from .update import Adapter, WeightUpdate

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_PREFIX = "base_model.model."
_METHOD_WORDS = ("lora_", "base_layer.")


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


def peft_adapter_in(model: nn.Module) -> Adapter:
    """The active adapter of a PeftModel, or of a transformers model with PEFT adapters in it.

    Raises:
      CheckpointError: no adapter is active, or more than one is, or its PEFT type is not read here.
    """
    from peft import get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    source = describe_module(model)
    name = _active_adapter(model, source)
    configs: Any = model.peft_config
    config = AdapterConfig(configs[name].to_dict(), f"{source}, adapter '{name}'")
    state: Mapping[str, Tensor] = get_peft_model_state_dict(
        model, adapter_name=name, save_embedding_layers=False
    )
    scales = {
        path.removeprefix(_PREFIX): float(module.scaling[name])
        for path, module in model.named_modules()
        if isinstance(module, BaseTunerLayer) and name in getattr(module, "scaling", {})
    }
    return _adapter(state_dict_checkpoint(state).tensors, config, scales)


def _active_adapter(model: nn.Module, source: str) -> str:
    active: Any = model.active_adapters
    names = active() if callable(active) else active
    names = [names] if isinstance(names, str) else list(names)
    if len(names) != 1:
        raise CheckpointError(
            f"{source} has {len(names)} active adapters; expected one (set_adapter chooses it)"
        )
    return str(names[0])


def _adapter(
    stored: Mapping[str, StoredTensor], config: AdapterConfig, scales: Mapping[str, float]
) -> Adapter:
    if config.peft_type != "LORA":
        raise CheckpointError(
            f"'{config.source}' is a PEFT adapter of type {config.peft_type}; expected LORA"
        )
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in stored.items()}
    updates = lora_updates(tensors, config, scales)
    ignored: list[tuple[str, str]] = []
    for name, tensor in tensors.items():
        if any(word in name for word in _METHOD_WORDS):
            continue
        if len(tensor.shape) == 2:
            updates.append(_replaced(name, tensor))
        else:
            ignored.append((name, "one-dimensional" if len(tensor.shape) < 2 else "more than two dimensions"))
    if not updates:
        raise CheckpointError(
            f"'{config.source}' holds no lora_A and lora_B; expected the tensors of a LoRA adapter"
        )
    return Adapter(config.source, config.peft_type, config.base_source, updates, ignored)


def _replaced(name: str, tensor: StoredTensor) -> WeightUpdate:
    """A module of ``modules_to_save``: trained in full, and stored in full."""
    shape = (tensor.shape[0], tensor.shape[1])
    return WeightUpdate(name, shape, None, None, "replaced", lambda _: tensor.read())
