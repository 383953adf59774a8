"""PEFT adapters: a folder, those inside a model in memory, and in PEFT's form those of other programs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, some_of
from ..formats.gguf import layout_of_gguf
from ..formats.memory import FSDP_1_WRAPPER, describe_module, state_dict_checkpoint
from ..formats.safetensors import safetensors_file
from ..formats.torch_pickle import pickle_file
from ..stored.checkpoint import Checkpoint, StoredTensor, Tensors
from ..stored.json_file import read_json_object
from ..stored.names import Shapes, match_names, scores_tokens
from .adapter import AdaptedWeight, Adapter, AdapterConfig
from .by_formula import BY_PEFT as LORA_BY_PEFT
from .by_formula import REFUSED_SETTINGS, adalora_updates, lora_modules, lycoris_updates, module_update
from .by_peft import modules_by_target, modules_of, shared_updates, updates_one_by_one
from .other_programs import FULL, MLX_WEIGHTS, StoredAdapter, gguf_adapter, mlx_adapter
from .peft_types import (
    BY_FORMULA,
    DECOMPOSING,
    KASA,
    NO_MATRIX,
    NOTES,
    ONE_BY_ONE,
    ORDERED,
    SHARED_VECTOR,
    changes_the_base,
    names_in_model_order,
    require_linear,
    require_read,
    require_settings,
)
from .target_parameters import UndecidedModule, decided_by_base, parameters_meant, undecided_module

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_PREFIX = "base_model.model."
_BENEATH = ".base_layer.weight"
_ALORA = (
    "the adapter '{}' acts from its invocation tokens on (aLoRA): the weight is that of the tokens after them"
)
_OTHER_FORMULAS = {"LOHA": lycoris_updates, "LOKR": lycoris_updates, "ADALORA": adalora_updates}


def adapter_at(path: Path, source: str) -> Adapter | None:
    """The adapter at a path, or None; CheckpointError for files that are missing, corrupt or not read here."""
    stored = stored_adapter(path, source)
    if stored is None:
        return None
    config, tensors = AdapterConfig(stored.config, source), stored.open()
    if config.peft_type == FULL:
        whole = Checkpoint(source, "adapter", "saved in full", tensors)
        return Adapter(source, FULL, config.base_source, whole, [], family=stored.family)
    made = _adapter(tensors, config)
    made = replace(made, family=stored.family, ignored=[*made.ignored, *stored.ignored])

    def in_order(base: Checkpoint, shapes: Shapes) -> list[AdaptedWeight]:
        known = stored_adapter(path, source, base.config or {})
        assert known is not None
        return _adapter(known.open(), config).updates

    return replace(made, named_for=in_order) if stored.lacks_heads else made


def stored_adapter(path: Path, source: str, base: Mapping[str, Any] | None = None) -> StoredAdapter | None:
    """The adapter at a path in PEFT's form, or None; ``base`` is the config of its base, where that is known."""
    folder = path.parent if path.name in (_WEIGHTS, _PICKLE, MLX_WEIGHTS) and path.is_file() else path
    if (folder / ADAPTER_CONFIG).is_file():
        config = read_json_object(folder / ADAPTER_CONFIG)
        if "peft_type" not in config and config.keys() & {"lora_parameters", "fine_tune_type"}:
            return mlx_adapter(folder, config, source)

        def tensors() -> dict[str, StoredTensor]:
            if (folder / _WEIGHTS).is_file():
                return safetensors_file(folder / _WEIGHTS)
            if (folder / _PICKLE).is_file():
                return pickle_file(folder / _PICKLE)
            raise CheckpointError(
                f"'{source}' has an {ADAPTER_CONFIG} and no weights; expected {_WEIGHTS} in the same folder"
            )

        return StoredAdapter(config, tensors)
    files = [path] if path.suffix == ".gguf" else list(path.glob("*.gguf"))
    if len(files) != 1 or not files[0].is_file() or (path / "config.json").is_file():
        return None
    layout = layout_of_gguf(files[0])
    is_adapter = layout.value("general.type", str) == "adapter"
    return gguf_adapter(files[0], layout, source, base) if is_adapter else None


def peft_adapters_in(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> list[Adapter]:
    """The active adapters of a model, with tensors from ``state`` if it lacks them; CheckpointError if none is."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    source, configs = describe_module(model), _configs(model)
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if any(layer.disable_adapters for layer in layers):
        raise CheckpointError(
            f"the adapters of {source} are turned off, so that it computes what its base does; turn them on "
            "(enable_adapter_layers), or leave the block of disable_adapter"
        )
    for layer in layers:  # one with merged adapters computes with these alone, whichever are active
        merged = set(layer.merged_adapters)
        active = set(layer.active_adapters) & set(layer._get_available_adapters())
        if merged and merged != active:
            raise CheckpointError(
                f"{source} has {some_of(sorted(merged))} merged into its weights, and {some_of(sorted(active))} "
                "active; call unmerge_adapter() first"
            )
    # A method without layers of its own (prompts) has all its adapters.
    named = [name for layer in layers for name in layer.active_adapters] if layers else list(configs)
    names = [name for name in dict.fromkeys(named) if name in configs]
    if not names:
        raise CheckpointError(f"{source} has no active adapter; set_adapter makes one active")
    return [_adapter(*adapter_in(model, name, source, state)) for name in names]


def start_that_changed(model: nn.Module) -> str | None:
    """The start, of any adapter in the model, active or not, that wrote to the base's weights."""
    source = describe_module(model)
    starts = (_changes_its_base(AdapterConfig(own.to_dict(), source)) for own in _configs(model).values())
    return next((start for start in starts if start is not None), None)


def _configs(model: nn.Module) -> Mapping[str, Any]:
    configs: Any = model.peft_config
    return dict(configs)


def adapter_in(
    model: nn.Module, name: str, source: str, gathered: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, StoredTensor], AdapterConfig, list[str]]:
    """The tensors of an adapter in a model in memory, its config, and the modules that have it, in order."""
    from peft import get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = AdapterConfig(_configs(model)[name].to_dict(), f"{source}, adapter '{name}'")
    own_names = {named.replace(FSDP_1_WRAPPER, ""): named for named, _ in model.named_modules()}
    given = None
    if gathered is not None:
        # PEFT looks for a tensor under the name of the module that holds it, which FSDP 1 makes another than its own.
        split = [(*key.rpartition("."), tensor) for key, tensor in gathered.items()]
        given = {f"{own_names.get(parent, parent)}{dot}{leaf}": tensor for parent, dot, leaf, tensor in split}
    collected = get_peft_model_state_dict(model, given, adapter_name=name, save_embedding_layers=False)
    state = {tensor_name.replace(FSDP_1_WRAPPER, ""): tensor for tensor_name, tensor in collected.items()}
    modules: list[str] = []
    for path, named in own_names.items():
        module = model.get_submodule(named)
        if not isinstance(module, BaseTunerLayer):
            continue
        modules.append(path.removeprefix(_PREFIX))
        if name in getattr(module, "scaling", {}):
            scale = float(module.scaling[name])
            if config.peft_type == "ADALORA":
                scale /= float(module.ranknum[name]) + 1e-5
            config.scales[modules[-1]] = scale
    made = state_dict_checkpoint(state)
    # A head that is stored with the embedding it is tied to is a tensor too.
    heads = {own: made.tensors[other] for own, other in made.tied.items() if scores_tokens(own)}
    return {**made.tensors, **heads}, config, modules


def _adapter(stored: Tensors, config: AdapterConfig, modules: Sequence[str] = ()) -> Adapter:
    """``modules`` are those with an adapter, in their model's order, where there is a model."""
    require_read(config)
    tensors = {name.removeprefix(_PREFIX): tensor for name, tensor in stored.items()}
    if config.peft_type == "LORA":
        made = _lora(tensors, config)
    elif config.peft_type in _OTHER_FORMULAS:
        made = _with_updates(tensors, config, _OTHER_FORMULAS[config.peft_type](tensors, config))
    else:
        made = _by_peft(tensors, config, modules)
    if not made.updates and made.named_for is None:
        raise CheckpointError(f"'{config.source}' contains no tensors of a {config.peft_type} adapter")
    return made


def _lora(tensors: Tensors, config: AdapterConfig) -> Adapter:
    for key, reason in REFUSED_SETTINGS.items():
        if config.values.get(key):
            raise CheckpointError(f"the adapter '{config.source}' uses {key}, and {reason}")
    updates: list[AdaptedWeight] = []
    undecided: list[UndecidedModule] = []
    if any(config.values.get(key) for key in LORA_BY_PEFT):
        updates = updates_one_by_one(tensors, config)
    else:
        for module in lora_modules(tensors, config.source):
            if parameters := parameters_meant(module.module, config):
                undecided.append(undecided_module(module, parameters, config))
            else:
                updates.append(module_update(module, config))
    start = _changes_its_base(config)
    # As PEFT does when it loads the adapter; other starts need data, or draw numbers.
    as_stored = AdapterConfig(config.values, config.source)
    repeats = start is not None and start.lower() in ("pissa", "olora", KASA) and not undecided

    def with_parameters(base: Checkpoint, shapes: Shapes) -> list[AdaptedWeight]:
        return updates + decided_by_base(undecided, config.source, base, shapes)

    return replace(
        _with_updates(tensors, config, updates + [module.likeliest for module in undecided]),
        named_for=with_parameters if undecided else None,
        start=start,
        repeated=updates_one_by_one(tensors, as_stored) if repeats else None,
        decomposes=start == KASA,
        notes=[_ALORA.format(config.source)] if config.values.get("alora_invocation_tokens") else [],
    )


def _by_peft(tensors: Tensors, config: AdapterConfig, in_memory: Sequence[str]) -> Adapter:
    kind = config.peft_type
    require_settings(config, tensors)
    if kind in ONE_BY_ONE:
        updates = updates_one_by_one(tensors, config)
        if kind == "LN_TUNING" and not updates:  # of norms
            raise CheckpointError(f"the adapter '{config.source}' is of type {kind}, which {NO_MATRIX}")
        return _with_updates(tensors, config, updates)

    named = list(in_memory) or list(modules_of(tensors, config))
    no_size = torch.empty(0, 0, device="meta")
    made = _with_updates(tensors, config, shared_updates(tensors, config, dict.fromkeys(named, no_size)))
    if not named and SHARED_VECTOR not in tensors:
        return made

    def bound(base: Checkpoint, shapes: Shapes) -> list[AdaptedWeight]:
        """Once the modules of the base and their order are known; the names alone where the base lacks one of them."""
        matching = match_names(shapes, {update.name: update.full_shape for update in made.updates})
        tuned_of, base_of = matching.tuned_of, matching.base_of
        if any(update.name not in base_of for update in made.updates):
            return made.updates
        require_linear(base, made, [base_of[update.name] for update in made.updates])
        needs_order = kind in ORDERED and not in_memory
        names = names_in_model_order(base, config.source) if needs_order else [*base.names(), *base.tied]
        # Under the adapter's names for them and, where it has none, under the base's.
        modules = {
            tuned_of.get(name, name).removesuffix(".weight"): torch.empty(
                shapes[name], dtype=base.dtype(name), device="meta"
            )
            for name in names
            if name.endswith(".weight") and len(shapes[name]) == len(base.shape(name)) == 2
        }
        changed = named or modules_by_target(config, list(modules))
        lost = [name for name in changed if name not in modules]
        if lost:
            raise CheckpointError(
                f"the adapter '{config.source}' changes {some_of(lost)}, whose place in the order of the model is not "
                "known; pass the model after PEFT's merge_and_unload"
            )
        order = changed if in_memory else [name for name in modules if name in set(changed)]
        return shared_updates(tensors, config, {name: modules[name] for name in order})

    return replace(made, named_for=bound)


def _with_updates(tensors: Tensors, config: AdapterConfig, updates: list[AdaptedWeight]) -> Adapter:
    kind = config.peft_type
    method_tensor = re.compile(
        rf"(?:^|\.)(?:{'lora_|hada_|lokr_' if kind in BY_FORMULA else f'{kind.lower()}_'}|trainable_tokens)"
    )
    # Modules of ``modules_to_save``, and embeddings that PEFT saved because tokens were added. A ``base_layer`` is what
    # an adapter of the same weight acts on, and not in its place; but for its bias, saved where it was trained.
    replaced = {
        name.replace(".base_layer.bias", ".bias"): tensor
        for name, tensor in tensors.items()
        if not method_tensor.search(name) and (".base_layer." not in name or name.endswith(".bias"))
    }
    return Adapter(
        config.source,
        kind,
        config.base_source,
        Checkpoint(config.source, "adapter", "modules to save", replaced),
        updates,
        # Tensors of the method that change no matrix.
        ignored=[(name, "a bias") for name in tensors if name.endswith(".lora_B.bias")]
        + [(name, "single tokens, retrained") for name in tensors if "trainable_tokens" in name],
        beneath={
            name.replace(_BENEATH, ".weight"): tensor
            for name, tensor in tensors.items()
            if name.endswith(_BENEATH)
        },
        numbers=sum(prod(tensor.shape) for name, tensor in tensors.items() if name not in replaced),
        decomposes=kind in DECOMPOSING,
        notes=[NOTES[kind].format(config.source)] if kind in NOTES else [],
        config=config.values,
    )


def _changes_its_base(config: AdapterConfig) -> str | None:
    """The start that took something out of the base; AdaLoRA starts from zero whatever its setting says."""
    if config.peft_type != "LORA":
        return None
    if config.values.get("kasa_config"):
        return KASA
    start = config.values.get("init_lora_weights")
    return str(start) if changes_the_base(start) else None
