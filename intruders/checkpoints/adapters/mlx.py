"""Adapters of MLX (mlx_lm.lora): factors the other way round than PEFT's, and a scale in the place of alpha / r.

    model.layers.0.self_attn.q_proj.lora_a (in, r), .lora_b (r, out), of DoRA .m (out): W0 + scale * (lora_a lora_b)^T
    model.layers.0.mlp.switch_mlp.up_proj.lora_a (experts, r, in), .lora_b (experts, out, r)

With ``fine_tune_type`` "full" the file has the last layers' own tensors. Written so by mlx_lm/tuner/lora.py, dora.py
and utils.py (https://github.com/ml-explore/mlx-lm, d78bf58e).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, some_of
from ..formats.safetensors import safetensors_file
from ..stored.checkpoint import StoredTensor
from ..stored.names import looks_up_tokens
from .adapter_config import AdapterConfig
from .peft_form import FULL, StoredAdapter, lora_in_peft_form, transposed

MLX_WEIGHTS = "adapters.safetensors"
_NAME = re.compile(r"(?P<module>.+)\.(?P<part>lora_a|lora_b|m)")
_PARTS = {"lora_a": "lora_A", "lora_b": "lora_B", "m": "lora_magnitude_vector"}
_EXPERTS = ".switch_mlp."


def is_mlx_config(config: Mapping[str, Any]) -> bool:
    """Return whether an ``adapter_config.json`` is MLX's and not PEFT's."""
    return "peft_type" not in config and bool(config.keys() & {"lora_parameters", "fine_tune_type"})


def mlx_adapter(folder: Path, config: Mapping[str, Any], source: str) -> StoredAdapter:
    """The adapter in a folder of MLX; CheckpointError for one that is incomplete, or that no weights are known of."""
    if not (folder / MLX_WEIGHTS).is_file():
        raise CheckpointError(
            f"'{source}' is an adapter of MLX without weights; expected {MLX_WEIGHTS} in the same folder"
        )
    tensors, base = safetensors_file(folder / MLX_WEIGHTS), config.get("model")
    kind = config.get("fine_tune_type", "lora")
    if kind == "full":
        whole = {"peft_type": FULL, "task_type": "CAUSAL_LM", "base_model_name_or_path": base}
        return StoredAdapter(whole, lambda: tensors, "MLX")
    settings = config.get("lora_parameters")
    if kind not in ("lora", "dora") or not isinstance(settings, Mapping):
        raise CheckpointError(
            f"'{source}' has fine_tune_type = {str(kind)[:60]!r} of MLX; expected lora, dora or full with "
            "lora_parameters; merge it with mlx_lm.fuse, and pass what it writes"
        )
    if "alpha" in settings:
        raise CheckpointError(
            f"'{source}' has alpha = {str(settings['alpha'])[:60]!r} beside scale, which early versions of MLX "
            "multiply (scale * alpha / rank) and later ones leave out; expected scale alone; write the product as "
            "scale, or take alpha out"
        )
    scale = AdapterConfig(settings, source).number("scale")
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, stored in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None or looks_up_tokens(f"{match['module']}.weight"):
            raise CheckpointError(
                f"'{source}' has '{name}', which is not a factor of a linear layer; expected {some_of(list(_PARTS))}; "
                "merge it with mlx_lm.fuse, and pass what it writes"
            )
        for module, part in _of_experts(match["module"], match["part"], stored):
            modules.setdefault(module, {})[_PARTS[match["part"]]] = part
    made = lora_in_peft_form(
        modules, lambda rank: scale * rank, base, source, use_dora=kind == "dora", lora_dropout=0.0
    )
    return replace(made, family="MLX")


def _of_experts(module: str, part: str, stored: StoredTensor) -> Iterator[tuple[str, StoredTensor]]:
    """A tensor as PEFT has it: a stack of experts, which is not the other way round, as one module for each."""
    if _EXPERTS not in module or len(stored.shape) != 3:
        yield module, transposed(stored) if part != "m" else stored
        return
    for expert in range(stored.shape[0]):
        read = partial(stored.read_slice, expert)
        yield (
            module.replace(_EXPERTS, f".experts.{expert}."),
            replace(stored, shape=stored.shape[1:], read=read, read_one=None),
        )
