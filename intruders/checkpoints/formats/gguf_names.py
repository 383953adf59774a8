"""llama.cpp's tensor names to transformers', for the families that are read most.

transformers finds its names by building the model, and importing the model's code takes longer than importing torch.
For these families tables say the same at once; tests compare them with what transformers finds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Stems of names in the order of transformers' modules.
_BEFORE = {"token_embd": "model.embed_tokens"}
_AFTER = {"output_norm": "model.norm", "output": "lm_head"}
_PROJECTIONS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
}
_LLAMA = _PROJECTIONS | {"ffn_norm": "post_attention_layernorm"}
_GEMMA = _PROJECTIONS | {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_LAYER = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "phi3": _LLAMA | {"ffn_up": "mlp.gate_up_proj"},
}
# Tables of rotary frequencies, which transformers computes.
NOT_LOADED = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}
_NAME = re.compile(r"(?:blk\.(?P<layer>\d{1,6})\.)?(?P<stem>\w+)\.(?P<end>weight|bias)")


def known_names(architecture: str, names: Iterable[str]) -> dict[str, str] | None:
    """transformers' name by llama.cpp's; None where one is not known.

    ``architecture`` is llama.cpp's word for the family.
    """
    if architecture not in _LAYER:
        return None
    of_layer = _LAYER[architecture]
    renamed = {}
    for name in names:
        if name in NOT_LOADED:
            continue
        parts = _NAME.fullmatch(name)
        if parts is None:
            return None
        layer, stem, end = parts.groups()
        known = (_BEFORE | _AFTER if layer is None else of_layer).get(stem)
        if known is None:
            return None
        start = "" if layer is None else f"model.layers.{int(layer)}."
        renamed[name] = f"{start}{known}.{end}"
    return renamed
