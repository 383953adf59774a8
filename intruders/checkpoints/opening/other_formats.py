"""Weights of other programs, which are not read or fit no language model: their formats by name, and what helps."""

import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import CheckpointError
from ..stored.json_file import read_json_object

_MLX_MODEL = (
    "is quantized with MLX, which transformers does not load; pass the original base, or what mlx_lm.convert "
    "--dequantize makes of it"
)
_META = (
    "is in Meta's format (consolidated.*, params.json), whose tensors have other names than transformers'; convert it "
    "with convert_llama_weights_to_hf.py of transformers' sources (of Mistral: convert_mistral_weights_to_hf.py), and "
    "pass the folder that it writes"
)
_IMAGE = (
    "has the names of an image model (kohya or diffusers), not of a language model; an adapter of an image model needs "
    "that part of its pipeline as base, such as the folder 'unet'"
)
_META_NAME = re.compile(r"layers\.\d+\.attention\.w[qkvo]\.weight")
# A language model can have the prefix "transformer." too, as GPT-2 has.
_IMAGE_NAME = re.compile(
    r"^(?:(?:lora|lycoris)_)?(?:unet|te\d?|text_encoder(?:_\d)?|prior)[_.]"
    r"|^(?:down_blocks|up_blocks|mid_block|model\.diffusion_model)\."
    r"|(?:^|[._])transformer_blocks[._]"
)
_DIFFUSERS_LORA = "pytorch_lora_weights.safetensors"


def other_format(path: Path) -> str:
    """Return what is not a model of transformers in a file or folder, and what helps; empty for anything else."""
    file = path if path.is_file() else path / _DIFFUSERS_LORA
    has_names = file.suffix == ".safetensors" and file.is_file()
    return _by_folder(file.parent) or (_by_file(file) if has_names else "")


def _by_folder(folder: Path) -> str:
    config = folder / "config.json"
    if config.is_file():
        values = read_json_object(config)
        stated = values.get("quantization_config")
        names_method = isinstance(stated, dict) and "quant_method" in stated
        return _MLX_MODEL if isinstance(values.get("quantization"), dict) and not names_method else ""
    if (folder / "model_index.json").is_file():
        parts = sorted(part.parent.name for part in folder.glob("*/config.json"))
        such = next((name for name in ("unet", "transformer") if name in parts), "unet")
        return f"is a diffusers pipeline of several models; pass the folder of one, such as '{such}' in it"
    is_meta = (folder / "params.json").is_file() and any(folder.glob("consolidated*"))
    return _META if is_meta else ""


def _by_file(file: Path) -> str:
    try:
        from ..formats.safetensors import safetensors_file  # loads torch

        return format_of_names(safetensors_file(file))
    except CheckpointError:  # the file is damaged, which its reader says better
        return ""


def format_of_names(names: Iterable[str]) -> str:
    """Return the same by the names of tensors alone.

    >>> format_of_names(["layers.0.attention.wq.weight"]).partition(" (")[0]
    "is in Meta's format"
    >>> format_of_names(["model.layers.0.self_attn.q_proj.weight", "transformer.h.0.attn.c_attn.weight"])
    ''
    """
    for name in names:
        if _META_NAME.fullmatch(name):
            return _META
        if _IMAGE_NAME.search(name):
            return _IMAGE
    return ""
