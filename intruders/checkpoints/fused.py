"""The parts of fused weights: which rows of a qkv or gate_up matrix are q, k, v, gate and up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Rows = dict[str, Tensor]  # part -> its rows of the fused weight, in order

_FUSED = re.compile(
    r"(?:^|\.)(?P<kind>qkv_proj|query_key_value|c_attn|Wqkv|qkv|in_proj_weight|gate_up_proj)(?:\.weight)?(?:\[\d+\])?$"
)
# query_key_value: one (q, k, v) after the other for each head, instead of all q, all k, all v.
_BY_HEAD = {"bloom", "gpt_neox", "gpt_neox_japanese", "persimmon"}
# torch's MultiheadAttention and GPT-2, neither of which has grouped attention.
_ALWAYS_THIRDS = {"in_proj_weight", "c_attn"}


def fused_rows(name: str, rows: int, config: Mapping[str, Any] | None) -> Rows | None:
    """The parts of the fused weight ``name``, or None when it is not fused or its layout is not known.

    Args:
      name: of the matrix.
      rows: its number of rows, output side.
      config: the model's config, which says how many heads of which kind there are.
    """
    match = _FUSED.search(name)
    if match is None or "cross" in name:  # cross-attention fuses k and v alone
        return None
    settings = _text_config(config)
    if match["kind"] == "gate_up_proj":
        return _gate_and_up(rows, settings)
    if settings.get("model_type") in _BY_HEAD:
        return _by_head(rows, settings.get("num_attention_heads", settings.get("n_head")))
    if match["kind"] == "query_key_value" or settings.get("model_type") == "gpt_bigcode":
        return None  # Falcon's three layouts and multi-query ones cannot be told by the shape
    if "num_attention_heads" not in settings and match["kind"] not in _ALWAYS_THIRDS:
        return None
    return _in_blocks(rows, settings)


def _text_config(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    config = config or {}
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, Mapping) else config


def _gate_and_up(rows: int, settings: Mapping[str, Any]) -> Rows | None:
    if rows % 2:
        return None
    if settings.get("model_type") == "gpt_oss":  # gate and up rows take turns
        return {"gate": torch.arange(0, rows, 2), "up": torch.arange(1, rows, 2)}
    return {"gate": torch.arange(rows // 2), "up": torch.arange(rows // 2, rows)}


def _in_blocks(rows: int, settings: Mapping[str, Any]) -> Rows | None:
    """All of q, then all of k, then all of v; k and v have fewer heads under grouped attention."""
    heads, groups = settings.get("num_attention_heads"), settings.get("num_key_value_heads")
    if not (isinstance(heads, int) and isinstance(groups, int) and 0 < groups <= heads):
        heads = groups = 1
    if rows % (heads + 2 * groups):
        return None
    size = rows // (heads + 2 * groups)
    q, k = heads * size, (heads + groups) * size
    return {"q": torch.arange(q), "k": torch.arange(q, k), "v": torch.arange(k, rows)}


def _by_head(rows: int, heads: Any) -> Rows | None:
    if not isinstance(heads, int) or heads < 1 or rows % (3 * heads):
        return None
    order = torch.arange(rows).reshape(heads, 3, -1)
    return {part: order[:, index].flatten() for index, part in enumerate("qkv")}
