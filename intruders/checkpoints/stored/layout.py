"""How a tensor holds its matrices: stored input side first, and fused parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, ...]

_CONV1D = re.compile(r"(?:^|\.)(?:c_attn|c_fc|c_proj|q_attn)\.weight$")

_STACKED = re.compile(r"(?:^|\.)experts\.(?P<part>gate_up_proj|down_proj)(?:\.weight)?$")


def stored_input_first(shapes: Mapping[str, Shape]) -> frozenset[str]:
    """Names of the weights whose stored order is (in, out) or (experts, in, out), as far as shapes tell."""
    return _conv1d(shapes) | _transposed_experts(shapes)


def _conv1d(shapes: Mapping[str, Shape]) -> frozenset[str]:
    """GPT-2's projections, unless biases as long as their first side tell of nn.Linear (gpt_bigcode)."""
    names = [name for name, shape in shapes.items() if len(shape) == 2 and _CONV1D.search(name)]
    for name in names:
        first, second = shapes[name]
        bias = shapes.get(name.removesuffix("weight") + "bias")
        if first != second and bias is not None and bias in ((first,), (second,)):
            # One that is not square decides for all: the square ones beside it are of the same class.
            return frozenset(names if bias == (second,) else ())
    return frozenset()


def _transposed_experts(shapes: Mapping[str, Shape]) -> frozenset[str]:
    """Stacked experts with gate_up_proj (e, hidden, 2 inner) and down_proj (e, inner, hidden)."""
    transposed: set[str] = set()
    for name, shape in shapes.items():
        match = _STACKED.search(name)
        if match is None or match["part"] != "gate_up_proj" or len(shape) != 3:
            continue
        down = name.replace("gate_up_proj", "down_proj")
        down_shape = shapes.get(down, ())
        if len(down_shape) == 3 and shape[1:] == (down_shape[2], 2 * down_shape[1]):
            transposed |= {name, down}
    return frozenset(transposed)


Rows = dict[str, Tensor]  # part -> its rows of the fused weight, in order

_FUSED = re.compile(
    r"(?:^|\.)(?P<kind>qkv_proj|query_key_value|c_attn|Wqkv|qkv|in_proj_weight|gate_up_proj)(?:\.weight)?(?:\[\d+\])?$"
)

# query_key_value: one (q, k, v) after the other for each head, instead of all q, all k, all v.
_BY_HEAD = {"bloom", "gpt_neox", "gpt_neox_japanese", "persimmon"}

# Towers beside a language model, whose heads are their own.
_TOWER = re.compile(r"(?:^|[._])(?P<kind>visual|vision|audio)(?:[._]|$)")
_HEADS_OF_TOWER = ("num_attention_heads", "num_heads", "attention_heads", "encoder_attention_heads")

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
    settings = settings_of(name, config)
    if match["kind"] == "gate_up_proj":
        return _gate_and_up(rows, settings)
    if settings.get("model_type") in _BY_HEAD:
        return _by_head(rows, settings.get("num_attention_heads", settings.get("n_head")))
    if match["kind"] == "query_key_value" or settings.get("model_type") == "gpt_bigcode":
        return None  # Falcon's three layouts and multi-query ones cannot be told by the shape
    if match["kind"] not in _ALWAYS_THIRDS and not _tells_of_heads(settings, name):
        return None
    return _in_blocks(rows, settings)


def settings_of(name: str, config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The settings of the part of a model that a weight belongs to; none of a tower that the config does not describe.

    >>> config = {"num_attention_heads": 12, "vision_config": {"num_heads": 16}}
    >>> settings_of("visual.blocks.0.attn.qkv.weight", config)["num_attention_heads"]
    16
    >>> settings_of("model.layers.0.self_attn.q_proj.weight", config)["num_attention_heads"]
    12
    """
    match = _TOWER.search(name)
    if match is None:
        return text_config(config)
    config = config or {}
    kind = "audio" if match["kind"] == "audio" else "vision"
    settings = config.get(f"{kind}_config")
    if not isinstance(settings, Mapping):  # the model may be the tower alone
        settings = config if kind in str(config.get("model_type")) else {}
    heads = [settings[key] for key in _HEADS_OF_TOWER if isinstance(settings.get(key), int)]
    return {**settings, "num_attention_heads": heads[0]} if heads else settings


def _tells_of_heads(settings: Mapping[str, Any], name: str) -> bool:
    """Return whether the settings say how q, k and v share the rows; a tower's attention is seldom grouped."""
    if "num_attention_heads" in settings:
        return True
    return bool(_TOWER.search(name) and settings) and "num_key_value_heads" not in settings


def text_config(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The settings of the language model, of a config that may hold those of other parts beside it."""
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
