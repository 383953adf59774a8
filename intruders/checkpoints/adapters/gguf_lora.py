"""LoRA adapters of llama.cpp in GGUF files, as its convert_lora_to_gguf.py writes them.

    general.type = adapter, adapter.type = lora, adapter.lora.alpha
    blk.0.attn_q.weight.lora_a (r, in), .lora_b (out, r); token_embd.weight.lora_a (tokens, r), .lora_b (dim, r)

llama.cpp adds alpha / r * B A, and B A where alpha is 0; norms it leaves out (src/llama-adapter.cpp and .h). Rows of B
are in the order that it has the base's in: those of a Llama's q and k by its heads, whose number is in no adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, some_of
from ..formats.gguf import known_names, stored_tensor
from ..formats.gguf_layout import GgufLayout, GgufTensor
from ..stored.checkpoint import StoredTensor
from .peft_form import StoredAdapter, lora_in_peft_form, transposed

_HUB = "https://huggingface.co/"
_NORM = "a norm, which llama.cpp leaves out"
_HEADS = ("num_attention_heads", "num_key_value_heads")


def gguf_adapter(
    path: Path, layout: GgufLayout, source: str, base: Mapping[str, Any] | None
) -> StoredAdapter:
    """The adapter in a file; ``base`` is the config of its base, without which q and k of a Llama are not in order.

    Raises:
      CheckpointError: another adapter than a LoRA, one whose names are not all known, or a base without heads.
    """
    parts: dict[str, dict[str, GgufTensor]] = {}
    ignored, strange = [], []
    for tensor in layout.tensors:
        weight, _, part = tensor.name.rpartition(".")
        if part in ("lora_a", "lora_b"):
            parts.setdefault(weight, {})[part] = tensor
        elif tensor.name.endswith("_norm.weight"):
            ignored.append((tensor.name, _NORM))
        else:
            strange.append(tensor.name)
    names = known_names(layout.architecture, parts) or {}
    strange += [] if names else [name for name in parts if known_names(layout.architecture, [name]) is None]
    if layout.text("adapter.type") != "lora" or strange or not parts:
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

    def stored(tensor: GgufTensor) -> StoredTensor:
        processor = in_order if tensor.name.endswith("b") else TensorProcessor()
        return stored_tensor(path, tensor.name, tensor.shape, [tensor], processor, {tensor.name: tensor.name})

    modules = {}
    for weight, both in parts.items():
        factors = {part: stored(tensor) for part, tensor in both.items()}
        kind = "lora_embedding_" if weight == "token_embd.weight" else "lora_"
        if kind != "lora_" and "lora_a" in factors:
            factors["lora_a"] = transposed(factors["lora_a"])
        modules[names[weight].removesuffix(".weight")] = {
            f"{kind}{part[-1].upper()}": factor for part, factor in factors.items()
        }
    alpha = layout.real("adapter.lora.alpha") or 0.0
    base_url = layout.text("general.base_model.0.repo_url") or ""
    invocation = layout.fields.get("adapter.alora.invocation_tokens")
    tokens = [] if invocation is None else [int.from_bytes(item, "little") for item in invocation.items]
    made = lora_in_peft_form(
        modules,
        lambda rank: alpha or float(rank),
        base_url.removeprefix(_HUB) if base_url.startswith(_HUB) else None,
        source,
        **({"alora_invocation_tokens": tokens} if tokens else {}),
    )
    return replace(made, family="GGUF", ignored=tuple(ignored), lacks_heads=is_permuted and base is None)
