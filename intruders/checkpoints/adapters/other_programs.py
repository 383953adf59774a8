"""Adapters at a path in PEFT's form, whichever program wrote their files: MLX (mlx_lm.lora) and llama.cpp beside PEFT.

MLX has factors the other way round than PEFT's, and a scale in the place of alpha / r. Written so by
mlx_lm/tuner/lora.py, dora.py and utils.py (https://github.com/ml-explore/mlx-lm, d78bf58e). With ``fine_tune_type``
"full" the file has the last layers' own tensors.

    model.layers.0.self_attn.q_proj.lora_a (in, r), .lora_b (r, out), of DoRA .m (out): W0 + scale * (lora_a lora_b)^T
    model.layers.0.mlp.switch_mlp.up_proj.lora_a (experts, r, in), .lora_b (experts, out, r)

llama.cpp has them in GGUF files, as its convert_lora_to_gguf.py writes them. It adds alpha / r * B A, and B A where
alpha is 0; norms it leaves out (src/llama-adapter.cpp and .h). Rows of B are in the order that it has the base's in:
those of a Llama's q and k by its heads, whose number is in no adapter.

    general.type = adapter, adapter.type = lora, adapter.lora.alpha
    blk.0.attn_q.weight.lora_a (r, in), .lora_b (out, r); token_embd.weight.lora_a (tokens, r), .lora_b (dim, r)
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError, some_of
from ..formats.gguf import known_names, stored_tensor
from ..formats.safetensors import safetensors_file
from ..stored.checkpoint import StoredTensor, Tensors
from ..stored.names import looks_up_tokens
from .adapter import AdapterConfig, usual_and_pattern

if TYPE_CHECKING:  # it needs gguf
    from ..formats.gguf_layout import GgufLayout, GgufTensor

# No type of PEFT's: nothing but tensors that were trained and stored in full.
FULL = "FULL"


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter at a path, of which no tensor is read yet."""

    config: dict[str, Any]  # as PEFT's adapter_config.json
    open: Callable[[], Tensors] = field(repr=False)  # its tensors, under PEFT's names
    family: str = "PEFT"  # whose files it comes in
    ignored: tuple[tuple[str, str], ...] = ()  # (tensor of its files, why it is none here)
    lacks_heads: bool = False  # the base's number of heads decides in which order rows of q and k are


def _lora(
    modules: Mapping[str, Tensors],
    alpha: Callable[[int], float],
    base: object,
    source: str,
    **settings: Any,
) -> StoredAdapter:
    """A LoRA of PEFT's parts by module, (r, in) and (out, r), times alpha / r; CheckpointError where one is missing."""
    ranks: dict[str, int] = {}
    for module, parts in modules.items():
        if sum(not part.endswith("magnitude_vector") for part in parts) != 2:
            raise CheckpointError(
                f"'{source}' has only {next(iter(parts))} for '{module}'; expected both factors of a LoRA; save the "
                "adapter again"
            )
        ranks[module] = next(parts[part].shape[0] for part in parts if part.endswith("_A"))
    usual, others = usual_and_pattern(ranks) if ranks else (1, {})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "target_modules": sorted(modules),
        "r": usual,
        "lora_alpha": alpha(usual),
        "rank_pattern": others,
        "alpha_pattern": {key: alpha(rank) for key, rank in others.items()},
        "inference_mode": True,
        **settings,
    }
    tensors = {
        f"base_model.model.{module}.{part}{'' if 'embedding' in part else '.weight'}": stored
        for module, parts in modules.items()
        for part, stored in parts.items()
    }
    return StoredAdapter(config, lambda: tensors)


def _transposed(stored: StoredTensor) -> StoredTensor:
    shape, read = stored.shape[::-1], stored.read
    return StoredTensor(shape, stored.dtype, stored.stored_as, lambda: read().mT.contiguous())


MLX_WEIGHTS = "adapters.safetensors"
_NAME = re.compile(r"(?P<module>.+)\.(?P<part>lora_a|lora_b|m)")
_PARTS = {"lora_a": "lora_A", "lora_b": "lora_B", "m": "lora_magnitude_vector"}
_EXPERTS = ".switch_mlp."


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
        module, part = match["module"], _PARTS[match["part"]]
        if _EXPERTS not in module or len(stored.shape) != 3:
            modules.setdefault(module, {})[part] = stored if match["part"] == "m" else _transposed(stored)
            continue
        for expert in range(stored.shape[0]):  # of a stack, which is not the other way round
            read, own = partial(stored.read_slice, expert), module.replace(_EXPERTS, f".experts.{expert}.")
            cut = replace(stored, shape=stored.shape[1:], read=read, read_one=None)
            modules.setdefault(own, {})[part] = cut
    made = _lora(modules, lambda rank: scale * rank, base, source, use_dora=kind == "dora", lora_dropout=0.0)
    return replace(made, family="MLX")


_HUB = "https://huggingface.co/"
_HEADS = ("num_attention_heads", "num_key_value_heads")


def gguf_adapter(
    path: Path, layout: "GgufLayout", source: str, base: Mapping[str, Any] | None
) -> StoredAdapter:
    """The adapter in a GGUF file; ``base`` is the config of its base, by which q and k of a Llama are ordered."""
    parts: dict[str, dict[str, GgufTensor]] = {}
    ignored, strange = [], []
    for tensor in layout.tensors:
        weight, _, part = tensor.name.rpartition(".")
        if part in ("lora_a", "lora_b"):
            parts.setdefault(weight, {})[part] = tensor
        elif tensor.name.endswith("_norm.weight"):
            ignored.append((tensor.name, "a norm, which llama.cpp leaves out"))
        else:
            strange.append(tensor.name)
    names = known_names(layout.architecture, parts)
    strange += [name for name in parts if name not in names]
    if layout.value("adapter.type", str) != "lora" or strange or not parts:
        what = f"{some_of(strange)} of the architecture '{layout.architecture}'" if strange else "no LoRA"
        raise CheckpointError(
            f"'{source}' is an adapter for llama.cpp with {what}; expected lora_a and lora_b of matrices whose names "
            "are known here; pass the PEFT adapter that it was converted from"
        )
    is_permuted = layout.architecture == "llama" and any(".attn_q." in n or ".attn_k." in n for n in parts)
    heads = {} if base is None else {key: base.get(key) or base.get(_HEADS[0]) for key in _HEADS}
    if is_permuted and base is not None and None in heads.values():
        raise CheckpointError(
            f"'{source}' has q and k in llama.cpp's order, and its base has no config with {_HEADS[0]}; pass the base "
            "with its config.json"
        )
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    in_order = TENSOR_PROCESSORS.get(layout.architecture, TensorProcessor)(config=heads)
    modules: dict[str, dict[str, StoredTensor]] = {}
    for weight, both in parts.items():
        is_embedding = weight == "token_embd.weight"
        factors = modules.setdefault(names[weight].removesuffix(".weight"), {})
        for part, tensor in both.items():
            processor, own = in_order if part == "lora_b" else TensorProcessor(), {tensor.name: tensor.name}
            factor = stored_tensor(path, tensor.name, tensor.shape, [tensor], processor, own)
            turned = is_embedding and part == "lora_a"
            key = f"lora_{'embedding_' if is_embedding else ''}{part[-1].upper()}"
            factors[key] = _transposed(factor) if turned else factor
    alpha = layout.value("adapter.lora.alpha", float)
    url = layout.value("general.base_model.0.repo_url", str) or ""
    base_id = url.removeprefix(_HUB) if url.startswith(_HUB) else None
    tokens = layout.value("adapter.alora.invocation_tokens", list)
    acting = {"alora_invocation_tokens": tokens} if tokens else {}
    made = _lora(modules, lambda rank: alpha or float(rank), base_id, source, **acting)
    return replace(made, family="GGUF", ignored=tuple(ignored), lacks_heads=is_permuted and base is None)
