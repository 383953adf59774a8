"""LoRA files without a config: kohya, LyCORIS and diffusers, told by the names of their tensors.

    kohya     lora_unet_down_blocks_0_attentions_0_..._to_q.lora_down.weight, .lora_up.weight, .alpha,
    .dora_scale LyCORIS   the same module names with .hada_w1_a, ..., .lokr_w1, ... or .diff, the update itself
    diffusers unet.down_blocks.0.attentions.0...to_q.lora_A.weight, .lora_B.weight; older: .lora.down.weight

The scale is alpha / r, and 1 where no alpha is stored. diffusers keeps PEFT's configs in the file's metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import isfinite, prod
from typing import Any

from ...errors import CheckpointError
from ..stored.checkpoint import Checkpoint, StoredTensor
from .adapter import AdaptedWeight, Adapter, Shape
from .adapter_config import AdapterConfig
from .dora_scales import dora_is_per_input, scales_inputs
from .formulas import low_rank
from .kohya_names import unflattened
from .lora import lora_scale
from .other_methods import hadamard, kronecker, whole_update

_FACTOR_NAME = re.compile(
    r"(?P<module>.+?)(?:\.processor)?(?:\.|_)"
    r"(?P<part>lora_down|lora_up|lora_mid|lora_A|lora_B|lora\.down|lora\.up|lora_linear_layer\.down"
    r"|lora_linear_layer\.up|lora_magnitude_vector|dora_scale|alpha|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?"
    r"|lokr_t2)(?:\.default(?:_\d+)?)?(?P<kind>\.weight|\.bias)?"
)
# What LyCORIS and extracted files store as differences: of a weight, of a bias, and of the two of a norm.
_DIFFERENCE = re.compile(r"(?P<module>.+)\.(?P<part>diff|diff_b|w_norm|b_norm)")
_ROLES = {
    "lora_down": "down",
    "lora_A": "down",
    "lora.down": "down",
    "lora_linear_layer.down": "down",
    "lora_up": "up",
    "lora_B": "up",
    "lora.up": "up",
    "lora_linear_layer.up": "up",
    "lora_magnitude_vector": "magnitude",
}
_FLAT = re.compile(r"^(?:lora|lycoris)_")
# Which part of a pipeline a module is of: "lora_te1_text_model_...", "text_encoder_2.text_model...."
_COMPONENT = re.compile(
    r"^(?:(?:lora|lycoris)_)?(?P<part>unet|te\d?|transformer|text_encoder(?:_\d)?|prior)[_.]"
)
_TELLING = re.compile(
    r"\.(?:lora_down|lora_up|lora_A|lora_B|hada_w1_a|lokr_w[12])(?:_[ab])?\b|lora\.down|lora_linear_layer"
    r"|^(?:lora|lycoris)_[^.]+\.diff$"
)


def looks_like_adapter(names: Iterable[str]) -> bool:
    """Return whether a file with these tensors is an adapter rather than a model."""
    return any(_TELLING.search(name) for name in names)


def single_file_adapter(
    stored: Mapping[str, StoredTensor], metadata: Mapping[str, str], source: str
) -> Adapter:
    """The adapter in one file.

    Args:
      stored: its tensors.
      metadata: the safetensors file's own, in which diffusers keeps PEFT's configs.
      source: how the user named it.

    Raises:
      CheckpointError: factors that are missing or do not fit, or tensors of a kind that is not known.
    """
    modules: dict[str, dict[str, StoredTensor]] = {}
    strange, ignored = [], []
    for name, tensor in stored.items():
        match = _FACTOR_NAME.fullmatch(name)
        difference = _DIFFERENCE.fullmatch(name)
        if difference is not None and (difference["part"] != "diff" or len(tensor.shape) < 2):
            ignored.append((name, "changes a bias or a norm"))
        elif difference is not None:
            modules.setdefault(difference["module"], {})["diff"] = tensor
        elif match is None:
            strange.append(name)
        elif match["kind"] != ".bias":
            part = _ROLES.get(match["part"], match["part"])
            modules.setdefault(match["module"], {})[part] = tensor
    configs = _configs(metadata, source)
    per_input = dora_is_per_input(modules.values())
    updates = [
        replace(_update(module, parts, configs, source, per_input), component=_component(module))
        for module, parts in modules.items()
    ]
    if modules and all(f"{module}.base_layer.weight" in stored for module in modules):
        raise CheckpointError(
            f"'{source}' is a model with an adapter that is not merged ('{next(iter(modules))}.base_layer.weight' and "
            "factors of a LoRA), and does not tell the adapter's scale; expected one of the two; save the adapter with "
            "save_pretrained of the PeftModel, or merge it with merge_and_unload and save the model"
        )
    if not updates:
        raise CheckpointError(
            f"'{source}' contains no factors of a LoRA; expected lora_down and lora_up, or lora_A and lora_B"
        )
    replaced = Checkpoint(source, "adapter", "saved in full", {name: stored[name] for name in strange})
    flat = all(_FLAT.match(module) for module in modules)
    bare = [module for module, parts in modules.items() if "alpha" not in parts and "diff" not in parts]
    notes = [f"{len(bare)} modules store no alpha: their scale is taken as 1"] if bare and not configs else []

    def with_the_names_of(base: Checkpoint, shapes: Mapping[str, Shape]) -> list[AdaptedWeight]:
        return unflattened(updates, shapes, base.config)

    return Adapter(
        source,
        "LORA",
        None,
        replaced,
        updates,
        named_for=with_the_names_of if flat else None,
        ignored=ignored,
        family="kohya" if flat else "PEFT",
        notes=notes,
    )


def _component(module: str) -> str:
    match = _COMPONENT.match(module)
    return match["part"] if match else ""


def _update(
    module: str,
    parts: Mapping[str, StoredTensor],
    configs: Mapping[str, AdapterConfig],
    source: str,
    per_input: bool | None,
) -> AdaptedWeight:
    scale = _scale(module, parts, configs, source)
    magnitude = parts.get("magnitude", parts.get("dora_scale"))
    if "hada_w1_a" in parts:
        return hadamard(module, parts, source, scale, magnitude)
    if any(part.startswith("lokr") for part in parts):
        return kronecker(module, parts, source, scale, magnitude)
    if "diff" in parts and parts.keys() <= {"diff", "alpha"}:
        return whole_update(module, parts["diff"])
    down, up = parts.get("down"), parts.get("up")
    if down is None or up is None:
        raise CheckpointError(
            f"'{source}' has {sorted(parts)} for '{module}'; expected both factors of a LoRA"
        )
    if "diff" in parts:
        raise CheckpointError(
            f"'{source}' has a diff beside the factors for '{module}'; expected one of the two; merge it in the "
            "program that made it"
        )
    if "lora_mid" in parts:
        raise CheckpointError(
            f"'{source}' has a lora_mid for '{module}' (LoCon with Tucker decomposition), "
            "which is not read here; merge it in the program that made it"
        )
    fitting = len(down.shape) >= 2 and len(up.shape) >= 2 and down.shape[0] > 0
    if not fitting or up.shape[1] != down.shape[0] or prod(up.shape[2:]) != 1:
        raise CheckpointError(
            f"'{source}' has the factors {down.shape} and {up.shape} for '{module}'; "
            "expected (r, in) and (out, r)"
        )
    by_column = "dora_scale" in parts and scales_inputs(parts["dora_scale"], down, up, per_input)
    if by_column is None:
        raise CheckpointError(
            f"'{source}' has a dora_scale of shape {parts['dora_scale'].shape} for '{module}', a convolution of as "
            "many inputs as outputs, and nothing in the file says which of the two it scales; merge it in the program "
            "that made it"
        )
    expected = down.shape[1] if by_column else up.shape[0]
    if magnitude is not None and prod(magnitude.shape) != expected:
        raise CheckpointError(
            f"'{source}' has a magnitude of shape {magnitude.shape} for '{module}'; "
            f"expected {expected} numbers"
        )
    value = scale(down.shape[0])
    return low_rank(f"{module}.weight", down, up, value, magnitude=magnitude, by_column=by_column)


def _scale(
    module: str, parts: Mapping[str, StoredTensor], configs: Mapping[str, AdapterConfig], source: str
) -> Callable[[int | None], float]:
    """alpha / r with the file's alpha; PEFT's scale where diffusers kept the config; else 1.

    LyCORIS takes 1 too for a Kronecker product whose two factors are stored whole, and so have no rank.
    """
    stored = parts.get("alpha")
    if stored is not None:
        if prod(stored.shape) != 1:
            raise CheckpointError(
                f"'{source}' has an alpha of shape {stored.shape} for '{module}'; expected one number"
            )
        alpha = float(stored.read().item())
        if not isfinite(alpha):
            raise CheckpointError(f"'{source}' has the alpha {alpha} for '{module}'; expected a number")
        return lambda rank: alpha / rank if rank else 1.0
    for component, config in configs.items():
        if module.startswith(f"{component}.") or not component:
            bare, its_config = module.removeprefix(f"{component}."), config
            return lambda rank: lora_scale(bare, rank, its_config) if rank else 1.0
    return lambda rank: 1.0


def _configs(metadata: Mapping[str, str], source: str) -> dict[str, AdapterConfig]:
    """Component ("unet", "transformer", "") -> config, from diffusers' ``lora_adapter_metadata``."""
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(f"'{source}' has lora_adapter_metadata that is not a JSON object")
    grouped: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        component, _, name = key.rpartition(".")
        grouped.setdefault(component, {})[name] = value
    return {component: AdapterConfig(config, source) for component, config in grouped.items()}
