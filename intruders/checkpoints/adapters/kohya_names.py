"""kohya's module names, paths with underscores for dots, matched to the base's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..stored.matching import same_shape
from .adapter import AdaptedWeight, Shape

# The part of a pipeline that a name is for stands before it, and is not in the part's own checkpoint.
_PREFIX = re.compile(r"^(?:lora|lycoris)_(?:(?:unet|te\d?|transformer|text_encoder(?:_\d)?|prior)_)?")

# The UNet of Stable Diffusion in its authors' names, as kohya's SDXL files have them.
_OUTER = re.compile(r"(?P<side>input|output)_blocks_(?P<block>\d{1,3})_(?P<part>[012])_(?P<rest>.+)")
_MIDDLE = re.compile(r"middle_block_(?P<part>[012])_(?P<rest>.+)")
_MIDDLE_PARTS = ("resnets_0", "attentions_0", "resnets_1")
_RESNET = {
    "in_layers_2": "conv1",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}


def unflattened(
    updates: list[AdaptedWeight], shapes: Mapping[str, Shape], config: Mapping[str, Any] | None
) -> list[AdaptedWeight]:
    """The updates under the base's names: of the same path, or the only one whose path ends alike.

    Args:
      updates: with flat names, ``lora_unet_down_blocks_0_..._to_q.weight``.
      shapes: of the base's tensors, by their names.
      config: the base's, of which a UNet's ``layers_per_block`` matters.
    """
    by_path: dict[str, str] = {}
    by_ending: dict[str, set[str]] = {}
    for name in shapes:
        if name.endswith(".weight"):
            parts = name.removesuffix(".weight").split(".")
            by_path["_".join(parts)] = name
            for start in range(len(parts)):
                by_ending.setdefault("_".join(parts[start:]), set()).add(name)
    layers = (config or {}).get("layers_per_block")
    base_names: list[str | None] = []
    for update in updates:
        flat = _PREFIX.sub("", update.name.removesuffix(".weight"))
        ending = by_ending.get(flat, set())
        base_name = by_path.get(flat) or (next(iter(ending)) if len(ending) == 1 else None)
        base_name = base_name or by_path.get(
            in_diffusers_names(flat, layers if isinstance(layers, int) else 2)
        )
        base_names.append(base_name)
    elsewhere = _parts_elsewhere(updates, base_names, shapes)
    return [
        replace(update, name=base_name)
        if base_name is not None and update.component not in elsewhere
        else update
        for update, base_name in zip(updates, base_names, strict=True)
    ]


def _parts_elsewhere(
    updates: list[AdaptedWeight], base_names: list[str | None], shapes: Mapping[str, Shape]
) -> set[str]:
    """Return the parts of a pipeline whose modules are called as those of another part, which the base is.

    Both text encoders of SDXL have ``text_model.encoder.layers.0.self_attn.q_proj``; by the shapes the base is one.
    """
    claims: dict[str, list[AdaptedWeight]] = {}
    for update, name in zip(updates, base_names, strict=True):
        if name is not None:
            claims.setdefault(name, []).append(update)
    elsewhere: set[str] = set()
    for name, several in claims.items():
        fitting = {u.component for u in several if same_shape(shapes[name], u.full_shape)}
        if fitting:
            elsewhere |= {update.component for update in several} - fitting
    return elsewhere


def in_diffusers_names(flat: str, layers: int) -> str:
    """``input_blocks_4_1_proj_in`` of the original UNet -> ``down_blocks_1_attentions_0_proj_in`` of diffusers'.

    The original counts blocks through, the convolution that goes in being number 0; diffusers counts levels
    of ``layers`` blocks and one that changes the resolution (going down), or of one block more (going up).
    """
    if match := _MIDDLE.fullmatch(flat):
        part = _MIDDLE_PARTS[int(match["part"])]
        return f"mid_block_{part}_{_inside(part, match['rest'])}"
    match = _OUTER.fullmatch(flat)
    if match is None or layers < 1:
        return flat
    down = match["side"] == "input"
    level, number = divmod(int(match["block"]) - down, layers + 1)
    side, rest = ("down" if down else "up"), match["rest"]
    if down and rest == "op":
        return f"down_blocks_{level}_downsamplers_0_conv"
    if not down and rest == "conv":
        return f"up_blocks_{level}_upsamplers_0_conv"
    part = "attentions" if match["part"] == "1" else "resnets"
    return f"{side}_blocks_{level}_{part}_{number}_{_inside(part, rest)}"


def _inside(part: str, rest: str) -> str:
    return _RESNET.get(rest, rest) if part.startswith("resnets") else rest
