"""LoRA files without a config: kohya, LyCORIS and diffusers, told by the names of their tensors.

    kohya     lora_unet_down_blocks_0_attentions_0_..._to_q.lora_down.weight, .lora_up.weight, .alpha, .dora_scale
    LyCORIS   the same module names with .hada_w1_a, ..., .lokr_w1, ... or .diff, the update itself
    diffusers unet.down_blocks.0.attentions.0...to_q.lora_A.weight, .lora_B.weight; older: .lora.down.weight

The scale is alpha / r, and 1 where no alpha is stored. diffusers keeps PEFT's configs in the file's metadata.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from math import isfinite, prod
from typing import Any

from ...errors import CheckpointError
from ..stored.checkpoint import Checkpoint, StoredTensor, Tensors
from ..stored.names import Shape, Shapes, same_shape
from .adapter import AdaptedWeight, Adapter, AdapterConfig
from .by_formula import dense, lora_scale, low_rank, lycoris_update, require_factors, unfit, widened


def _scales_inputs(scale: Shape, inputs: int, outputs: int) -> bool | None:
    """Return whether a ``dora_scale`` of this shape is over inputs; None for (1, n, 1, 1) where both are n."""
    if len(scale) < 2 or scale[0] != 1:
        return False
    if len(scale) == 2 or scale[1] != outputs:
        return True
    return None if inputs == outputs > 1 else False


def _told_by_others(modules: Iterable[Tensors]) -> bool | None:
    """Return whether the file's ``dora_scale`` are over inputs, by those modules that tell; None if none does."""
    told: set[bool | None] = set()
    for parts in modules:
        scale, down, up = (parts.get(part) for part in ("dora_scale", "down", "up"))
        if scale is None or down is None or up is None or min(len(down.shape), len(up.shape)) < 2:
            continue
        if len(scale.shape) == 1 or scale.shape[:1] == (1,):
            told.add(_scales_inputs(scale.shape, down.shape[1], up.shape[0]))
    told.discard(None)
    return told.pop() if len(told) == 1 else None


# What stands before a module's path in its own checkpoint: the part of a pipeline that it is of, as in
# "lora_te1_text_model_..." and "text_encoder_2.text_model....".
_PREFIX = re.compile(
    r"^(?:(?:lora|lycoris)_)?(?:(?P<part>unet|te\d?|transformer|text_encoder(?:_\d)?|prior)[_.])?"
)

# The UNet of Stable Diffusion in its authors' names, as kohya's SDXL files have them.
_OUTER = re.compile(r"(?P<side>input|output)_blocks_(?P<block>\d{1,3})_(?P<part>[012])_(?P<rest>.+)")
_MIDDLE = re.compile(r"middle_block_(?P<part>[012])_(?P<rest>.+)")
_RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}


def _unflattened(updates: list[AdaptedWeight], base: Checkpoint, shapes: Shapes) -> list[AdaptedWeight]:
    """The updates, which have flat names, under the base's: of the same path, or the only one whose path ends alike.

    Not those of a part of a pipeline whose modules are called as those of the part that the base is by its shapes: both
    text encoders of SDXL have ``text_model.encoder.layers.0.self_attn.q_proj``.
    """
    by_path: dict[str, str] = {}
    by_ending: dict[str, set[str]] = {}
    for name in shapes:
        if name.endswith(".weight"):
            parts = name.removesuffix(".weight").split(".")
            by_path["_".join(parts)] = name
            for start in range(len(parts)):
                by_ending.setdefault("_".join(parts[start:]), set()).add(name)
    layers = (base.config or {}).get("layers_per_block")
    base_names: list[str | None] = []
    claims: dict[str, list[AdaptedWeight]] = {}
    for update in updates:
        flat = _PREFIX.sub("", update.name.removesuffix(".weight"))
        ending = by_ending.get(flat, set())
        base_name = by_path.get(flat) or (next(iter(ending)) if len(ending) == 1 else None)
        in_diffusers = in_diffusers_names(flat, layers if isinstance(layers, int) else 2)
        base_name = base_name or by_path.get(in_diffusers)
        base_names.append(base_name)
        if base_name is not None:
            claims.setdefault(base_name, []).append(update)
    elsewhere: set[str] = set()
    for name, several in claims.items():
        fitting = {u.component for u in several if same_shape(shapes[name], u.full_shape)}
        if fitting:
            elsewhere |= {update.component for update in several} - fitting
    return [
        update if name is None or update.component in elsewhere else replace(update, name=name)
        for update, name in zip(updates, base_names, strict=True)
    ]


def in_diffusers_names(flat: str, layers: int) -> str:
    """``input_blocks_4_1_proj_in`` of the original UNet -> ``down_blocks_1_attentions_0_proj_in`` of diffusers'.

    The original counts blocks through, the convolution that goes in being number 0; diffusers counts levels
    of ``layers`` blocks and one that changes the resolution (going down), or of one block more (going up).
    """
    middle, outer = _MIDDLE.fullmatch(flat), _OUTER.fullmatch(flat)
    match = middle or outer
    if match is None or (outer and layers < 1):
        return flat
    rest = match["rest"]
    part = "attentions" if match["part"] == "1" else "resnets"
    inner = rest if part == "attentions" else _RESNET.get(rest, rest)
    if outer is None:
        return f"mid_block_{part}_{'1' if match['part'] == '2' else '0'}_{inner}"
    down = match["side"] == "input"
    level, number = divmod(int(match["block"]) - down, layers + 1)
    if down and rest == "op":
        return f"down_blocks_{level}_downsamplers_0_conv"
    if not down and rest == "conv":
        return f"up_blocks_{level}_upsamplers_0_conv"
    return f"{'down' if down else 'up'}_blocks_{level}_{part}_{number}_{inner}"


_FACTOR_NAME = re.compile(
    r"(?P<module>.+?)(?:\.processor)?(?:\.|_)"
    r"(?P<part>lora_down|lora_up|lora_mid|lora_A|lora_B|lora\.down|lora\.up|lora_linear_layer\.down"
    r"|lora_linear_layer\.up|lora_magnitude_vector|dora_scale|alpha|hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?"
    r"|lokr_t2)(?:\.default(?:_\d+)?)?(?P<kind>\.weight|\.bias)?"
)
# What LyCORIS and extracted files store as differences: of a weight, of a bias, and of the two of a norm.
_DIFFERENCE = re.compile(r"(?P<module>.+)\.(?P<part>diff|diff_b|w_norm|b_norm)")
_ROLES = {
    **dict.fromkeys(("lora_down", "lora_A", "lora.down", "lora_linear_layer.down"), "down"),
    **dict.fromkeys(("lora_up", "lora_B", "lora.up", "lora_linear_layer.up"), "up"),
    "lora_magnitude_vector": "magnitude",
}
_TELLING = re.compile(
    r"\.(?:lora_down|lora_up|lora_A|lora_B|hada_w1_a|lokr_w[12])(?:_[ab])?\b|lora\.down|lora_linear_layer"
    r"|^(?:lora|lycoris)_[^.]+\.diff$"
)


def looks_like_adapter(names: Iterable[str]) -> bool:
    """Return whether a file with these tensors is an adapter rather than a model."""
    return any(_TELLING.search(name) for name in names)


def single_file_adapter(stored: Tensors, metadata: Mapping[str, str], source: str) -> Adapter:
    """The adapter in one file, in whose ``metadata`` diffusers keeps PEFT's configs."""
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
    per_input = _told_by_others(modules.values())
    updates = [
        replace(_update(module, parts, configs, source, per_input), component=_PREFIX.findall(module)[0])
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
    bare = [module for module, parts in modules.items() if "alpha" not in parts and "diff" not in parts]
    notes = [f"{len(bare)} modules store no alpha: their scale is taken as 1"] if bare and not configs else []
    made = Adapter(source, "LORA", None, replaced, updates, ignored=ignored, notes=notes)
    is_flat = all(module.startswith(("lora_", "lycoris_")) for module in modules)
    return replace(made, named_for=partial(_unflattened, updates), family="kohya") if is_flat else made


def _update(
    module: str,
    parts: Tensors,
    configs: Mapping[str, AdapterConfig],
    source: str,
    per_input: bool | None,
) -> AdaptedWeight:
    scale = _scale(module, parts, configs, source)
    magnitude = parts.get("magnitude", parts.get("dora_scale"))
    if "hada_w1_a" in parts or any(part.startswith("lokr") for part in parts):
        of_product = {part: stored for part, stored in parts.items() if part.startswith(("hada", "lokr"))}
        return lycoris_update(module, of_product, source, scale, magnitude)
    if "diff" in parts and parts.keys() <= {"diff", "alpha"}:
        stored = parts["diff"]  # the update itself, (m, n) or (out, in, kh, kw)
        shape = (stored.shape[0], prod(stored.shape[1:]))
        return dense(f"{module}.weight", shape, None, 1.0, "full", lambda: widened(stored.read()))
    down, up = parts.get("down"), parts.get("up")
    if down is None or up is None:
        raise unfit(source, str(sorted(parts)), module, "both factors of a LoRA")
    if "diff" in parts:
        expected = "one of the two; merge it in the program that made it"
        raise unfit(source, "a diff beside the factors", module, expected)
    if "lora_mid" in parts:
        raise CheckpointError(
            f"'{source}' has a lora_mid for '{module}' (LoCon with Tucker decomposition), "
            "which is not read here; merge it in the program that made it"
        )
    require_factors(down, up, module, source)
    by_column: bool | None = False
    if "dora_scale" in parts:
        by_column = _scales_inputs(parts["dora_scale"].shape, down.shape[1], up.shape[0])
        by_column = per_input if by_column is None else by_column
    if by_column is None:
        raise CheckpointError(
            f"'{source}' has a dora_scale of shape {parts['dora_scale'].shape} for '{module}', a convolution of as "
            "many inputs as outputs, and nothing in the file says which of the two it scales; merge it in the program "
            "that made it"
        )
    numbers = down.shape[1] if by_column else up.shape[0]
    if magnitude is not None and prod(magnitude.shape) != numbers:
        raise unfit(source, f"a magnitude of shape {magnitude.shape}", module, f"{numbers} numbers")
    value = scale(down.shape[0])
    return low_rank(f"{module}.weight", down, up, value, magnitude=magnitude, by_column=by_column)


def _scale(
    module: str, parts: Tensors, configs: Mapping[str, AdapterConfig], source: str
) -> Callable[[int | None], float]:
    """alpha / r with the file's alpha, or by diffusers' config; 1 without them, or without a rank, as in LyCORIS."""
    stored = parts.get("alpha")
    if stored is not None:
        if prod(stored.shape) != 1:
            raise unfit(source, f"an alpha of shape {stored.shape}", module, "one number")
        alpha = float(stored.read().item())
        if not isfinite(alpha):
            raise unfit(source, f"the alpha {alpha}", module, "a number")
        return lambda rank: alpha / rank if rank else 1.0
    for component, config in configs.items():
        if module.startswith(f"{component}.") or not component:
            bare, its_config = module.removeprefix(f"{component}."), config
            return lambda rank: lora_scale(bare, rank, its_config) if rank else 1.0
    return lambda rank: 1.0


def _configs(metadata: Mapping[str, str], source: str) -> dict[str, AdapterConfig]:
    """Component ("unet", "transformer", "") -> config, from diffusers' ``lora_adapter_metadata``."""
    try:
        values = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(f"'{source}' has lora_adapter_metadata that is not a JSON object")
    grouped: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        component, _, name = key.rpartition(".")
        grouped.setdefault(component, {})[name] = value
    return {component: AdapterConfig(config, source) for component, config in grouped.items()}
