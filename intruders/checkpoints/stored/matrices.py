"""The matrices in a tensor: how it holds them, which a selection takes, cut out of it, and put back into it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from .checkpoint import Checkpoint, StoredTensor
from .names import Shape, is_embedding_or_head
from .selection import Selection

_CONV1D = re.compile(r"(?:^|\.)(?:c_attn|c_fc|c_proj|q_attn)\.weight$")

_GATE_AND_UP = re.compile(r"(?:^|\.)experts\.gate_up_proj(?:\.weight)?$")


def stored_input_first(shapes: Mapping[str, Shape]) -> frozenset[str]:
    """Names of the weights that are stored (in, out) or (experts, in, out), as far as shapes tell.

    GPT-2's projections, unless biases tell of nn.Linear (gpt_bigcode); and stacked experts with gate_up_proj (e,
    hidden, 2 inner) and down_proj (e, inner, hidden).
    """
    input_first: set[str] = set()
    projections = [name for name, shape in shapes.items() if len(shape) == 2 and _CONV1D.search(name)]
    for name in projections:
        first, second = shapes[name]
        bias = shapes.get(name.removesuffix("weight") + "bias")
        if first != second and bias is not None and bias in ((first,), (second,)):
            # One that is not square decides for all: the square ones beside it are of the same class.
            input_first.update(projections if bias == (second,) else ())
            break
    for name, shape in shapes.items():
        if _GATE_AND_UP.search(name) is None or len(shape) != 3:
            continue
        down = name.replace("gate_up_proj", "down_proj")
        of_down = shapes.get(down, ())
        if len(of_down) == 3 and shape[1:] == (of_down[2], 2 * of_down[1]):
            input_first |= {name, down}
    return frozenset(input_first)


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
    """The parts of the fused weight ``name`` of ``rows`` rows; None when it is not fused or its layout is not known."""
    match = _FUSED.search(name)
    if match is None or "cross" in name:  # cross-attention fuses k and v alone
        return None
    settings = settings_of(name, config)
    model_type = settings.get("model_type")
    if match["kind"] == "gate_up_proj":
        if rows % 2:
            return None
        if model_type == "gpt_oss":  # gate and up rows take turns
            return {"gate": torch.arange(0, rows, 2), "up": torch.arange(1, rows, 2)}
        return {"gate": torch.arange(rows // 2), "up": torch.arange(rows // 2, rows)}
    if model_type in _BY_HEAD:
        heads = settings.get("num_attention_heads", settings.get("n_head"))
        if not isinstance(heads, int) or heads < 1 or rows % (3 * heads):
            return None
        order = torch.arange(rows).reshape(heads, 3, -1)
        return {part: order[:, index].flatten() for index, part in enumerate("qkv")}
    if match["kind"] == "query_key_value" or model_type == "gpt_bigcode":
        return None  # Falcon's three layouts and multi-query ones cannot be told by the shape
    # A tower's attention is seldom grouped.
    is_plain_tower = bool(_TOWER.search(name) and settings) and "num_key_value_heads" not in settings
    if not (match["kind"] in _ALWAYS_THIRDS or "num_attention_heads" in settings or is_plain_tower):
        return None
    # All of q, then all of k, then all of v; k and v have fewer heads under grouped attention.
    heads, groups = settings.get("num_attention_heads"), settings.get("num_key_value_heads")
    if not (isinstance(heads, int) and isinstance(groups, int) and 0 < groups <= heads):
        heads = groups = 1
    if rows % (heads + 2 * groups):
        return None
    size = rows // (heads + 2 * groups)
    q, k = heads * size, (heads + groups) * size
    return {"q": torch.arange(q), "k": torch.arange(q, k), "v": torch.arange(k, rows)}


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


def text_config(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The settings of the language model, of a config that may hold those of other parts beside it."""
    config = config or {}
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, Mapping) else config


# Where torch keeps direction and length of a convolution whose weight is normalized, now and before its version 2.0.
_DIRECTION = re.compile(r"\.parametrizations\.\w+\.original\d$|weight_[gv]$")


@dataclass(frozen=True)
class MatrixView:
    """One matrix, and how it is cut out of the tensor that holds it."""

    name: str  # the tensor's, with "[3]" for an expert and "[q]" for a part
    tensor: str
    shape: tuple[int, int]  # (m, n), output side first
    expert: int | None = None
    input_first: bool = False  # stored (in, out)
    rows: Tensor | None = field(default=None, repr=False)  # of a fused weight, or those that both sides have

    def read(self, stored: StoredTensor) -> Tensor:
        """The matrix (m, n), out of its own tensor or of the tuned side's."""
        return self.of_part(stored.read() if self.expert is None else stored.read_slice(self.expert))

    def of_part(self, tensor: Tensor) -> Tensor:
        """The matrix (m, n), out of the tensor that holds it alone or with others of its rows."""
        matrix = tensor.flatten(1) if tensor.dim() > 2 else tensor
        return self.cut(matrix.mT if self.input_first else matrix)

    def cut(self, matrix: Tensor) -> Tensor:
        """The rows that belong to it, of anything that has a row for every output of the whole weight."""
        return matrix if self.rows is None else matrix[self.rows.to(matrix.device)]


def not_a_matrix(stored: StoredTensor) -> str | None:
    """Return why a tensor is not a matrix to audit; None if it is one or contains some."""
    if len(stored.shape) < 2 or is_class_token(stored.shape):
        return "one-dimensional"
    if not stored.dtype.is_floating_point:
        return f"numbers of type {str(stored.dtype).removeprefix('torch.')}"
    return "empty" if prod(stored.shape) == 0 else None


def is_class_token(shape: Shape) -> bool:
    """Return whether a tensor is a vector kept as (1, 1, n), as a token that stands for a class is."""
    return len(shape) == 3 and shape[:2] == (1, 1)


def matrices_of(checkpoint: Checkpoint, name: str, split_fused: bool = False) -> list[MatrixView]:
    stored = checkpoint.tensors[name]
    input_first = name in checkpoint.input_first
    if holds_experts(name, stored.shape):
        experts, first, second = stored.shape
        shape = (second, first) if input_first else (first, second)
        views = [MatrixView(f"{name}[{index}]", name, shape, index, input_first) for index in range(experts)]
    else:
        views = [MatrixView(name, name, matrix_shape(stored.shape, input_first), None, input_first)]
    if not split_fused:
        return views
    whole: dict[str, Tensor | None] = {"": None}
    return [
        view
        if rows is None
        else replace(view, name=f"{view.name}[{part}]", shape=(len(rows), view.shape[1]), rows=rows)
        for view in views
        for part, rows in (fused_rows(view.name, view.shape[0], checkpoint.config) or whole).items()
    ]


def matrix_shape(shape: Shape, input_first: bool) -> tuple[int, int]:
    """(out, in), a convolution's kernel counted to its input."""
    rows, columns = shape[0], prod(shape[1:])
    return (columns, rows) if input_first else (rows, columns)


def shapes_for_adapters(base: Checkpoint) -> dict[str, Shape]:
    """The shapes of all tensors, tied ones too, as an adapter sees them: (out, in), or (experts, out, in)."""
    shapes: dict[str, Shape] = {}
    for name in (*base.names(), *base.tied):
        holder = base.tied.get(name, name)
        shape, input_first = base.tensors[holder].shape, holder in base.input_first
        if holds_experts(holder, shape):
            shapes[name] = (shape[0], shape[2], shape[1]) if input_first else shape
        else:
            shapes[name] = matrix_shape(shape, input_first) if len(shape) >= 2 else shape
    return shapes


def holds_experts(name: str, shape: Shape) -> bool:
    """Return whether a three-dimensional tensor is a stack of matrices, and not a convolution over one dimension."""
    if len(shape) != 3 or _DIRECTION.search(name):
        return False
    return "expert" in name or "moe" in name or not name.endswith(".weight")


def common_matrices(matrices: list[MatrixView], ours: Shape, theirs: Shape) -> list[MatrixView]:
    """The matrices of a tensor that a tuned one has too; of another vocabulary the first rows (tokens, width)."""
    if ours == theirs or not matrices:
        return matrices
    has_tokens = is_embedding_or_head(matrices[0].tensor) and len(ours) == len(theirs) == 2
    if not has_tokens or ours[1] != theirs[1]:
        return []
    tokens = min(ours[0], theirs[0])
    return [replace(matrices[0], shape=(tokens, ours[1]), rows=torch.arange(tokens))]


def put_back(matrix: MatrixView, tensor: Tensor, values: Tensor) -> None:
    """Write a matrix (m, n) into the tensor that it was read from."""
    target = tensor if matrix.expert is None else tensor[matrix.expert]
    values = values.to(target.device)
    if matrix.rows is not None:
        target.view(target.shape[0], -1)[matrix.rows] = values
    else:
        target.copy_((values.mT if matrix.input_first else values).reshape(target.shape))


def reason_to_skip(name: str, stored: StoredTensor, selection: Selection) -> str | None:
    """Return why a tensor has no matrix to examine: it is none, or it is not wanted; None if it has."""
    # A stack of experts has one bias per expert, (experts, out).
    if len(stored.shape) == 2 and name.endswith(("_bias", ".bias")):
        return "one-dimensional"
    return not_a_matrix(stored) or selection.reason_to_leave_out(name)


def selected_matrices(checkpoint: Checkpoint, selection: Selection) -> list[MatrixView]:
    """Every matrix to examine, in the order of the checkpoint's tensors."""
    return [
        matrix
        for name, stored in checkpoint.tensors.items()
        if reason_to_skip(name, stored, selection) is None
        for matrix in matrices_of(checkpoint, name, selection.split_fused)
    ]


def require_selection(checkpoint: Checkpoint, selection: Selection) -> None:
    """Raise SettingError for a pattern that matches nothing, and for patterns that leave no matrix."""
    names = [*checkpoint.names(), *checkpoint.tied]
    holders = {name: checkpoint.tensors[checkpoint.tied.get(name, name)] for name in names}
    matrices = [name for name, stored in holders.items() if not_a_matrix(stored) is None]
    selection.require_matches(checkpoint.names(), checkpoint.source)
    selection.require_some(matrices, checkpoint.source)
