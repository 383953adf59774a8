"""GGUF: de-quantized on read, under transformers' tensor names, by transformers' own tables and tensor processors.

llama.cpp's converter renames tensors and rearranges some (rotary rows of Llama, norms of Gemma, Conv1D of GPT-2,
experts). transformers undoes both; here that is done one tensor at a time, on metadata from :mod:`gguf_layout`. It
finds its names by building the model, which takes longer than importing torch. For the families that are read most,
tables say the same at once; tests compare them with what transformers finds.
"""

import functools
import importlib.util
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import CheckpointError, IntrudersError, first_line, missing_extra
from ..stored.checkpoint import StoredTensor
from ..stored.names import natural_order

if TYPE_CHECKING:  # it needs gguf
    from .gguf_layout import GgufLayout, GgufTensor

_OUTSIDE_LAYERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
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


def known_names(architecture: str, names: Iterable[str]) -> dict[str, str]:
    """transformers' name by llama.cpp's, of those that are known of a family in llama.cpp's word."""
    renamed: dict[str, str] = {}
    for name in names:
        parts = _NAME.fullmatch(name)
        if parts is None or architecture not in _LAYER:
            continue
        layer, stem, end = parts.groups()
        known = (_OUTSIDE_LAYERS if layer is None else _LAYER[architecture]).get(stem)
        if known is not None:
            renamed[name] = f"{'' if layer is None else f'model.layers.{int(layer)}.'}{known}.{end}"
    return renamed


_TOKENS = "tokenizer.ggml.tokens"
# transformers is told this number of tokens for a vocabulary that is too long to keep.
_STAND_INS = 2


def layout_of_gguf(path: Path) -> "GgufLayout":
    """The layout of a whole GGUF file, by :func:`read_whole_layout`; raises as :func:`gguf_file`."""
    for package in ("gguf", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(f"the GGUF file '{path}'", package, "gguf")
    from .gguf_layout import read_whole_layout

    return read_whole_layout(path)


def gguf_file(path: Path) -> tuple[dict[str, StoredTensor], dict[str, Any], list[str]]:
    """The model in a GGUF file, or in all files of a split one: tensors, config, and matrices without a name.

    The tensors have transformers' names and the order of a safetensors file. CheckpointError for a file that is not
    whole and an architecture that transformers does not load; MissingDependencyError without gguf.
    """
    layout = layout_of_gguf(path)
    with _one_line_errors(path):
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

        config = _config(path, layout)
        processor = TENSOR_PROCESSORS.get(layout.architecture, TensorProcessor)(config=config)
        sizes = {tensor.name: tensor.shape for tensor in layout.tensors if tensor.name not in NOT_LOADED}
        renamed = known_names(layout.architecture, sizes)
        shapes = {name: sizes[own] for own, name in renamed.items()}
        if len(renamed) < len(sizes):
            renamed, shapes = _names_of_the_model(path, config, processor)
    parts: dict[str, list[GgufTensor]] = {}
    unnamed = []
    for tensor in layout.tensors:
        # Expert tensors are mapped without their ".weight", and gate and up to the same fused parameter.
        name = renamed.get(tensor.name) or renamed.get(tensor.name.removesuffix(".weight"))
        if name is not None and name in shapes:
            parts.setdefault(name, []).append(tensor)
        elif len(tensor.shape) > 1 and tensor.name not in NOT_LOADED:
            unnamed.append(tensor.name)
    if not parts:
        raise CheckpointError(
            f"'{path}' has none of the tensors "
            f"that transformers expects of a '{config.get('model_type')}' model"
        )
    tensors = {
        name: stored_tensor(path, name, _shape(parts[name], shapes[name]), parts[name], processor, renamed)
        for name in sorted(shapes, key=natural_order)
        if name in parts
    }
    return tensors, config, unnamed


def _config(path: Path, layout: "GgufLayout") -> dict[str, Any]:
    """The model's config as transformers makes it of the metadata, which it does not read again."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    # The part of ``gguf.GGUFReader`` that transformers uses.
    fields = {key: field for key, field in layout.fields.items() if field.data}
    tokens: Any = layout.fields.get(_TOKENS)
    is_skipped = tokens is not None and not tokens.data
    if is_skipped:
        # Only their number is asked for, where no other field has it.
        fields[_TOKENS] = tokens._replace(parts=[np.zeros(0, np.uint8)], data=[0] * _STAND_INS)
    header = SimpleNamespace(tensors=layout.tensors, fields=fields)
    with _replaced("GGUFReader", lambda _: header):
        config: dict[str, Any] = load_gguf_checkpoint(str(path), return_tensors=False)["config"]
    if is_skipped and config.get("vocab_size") == _STAND_INS:
        config["vocab_size"] = int(tokens.parts[-1][0])
    if layout.architecture == "llama":
        heads = config.get("num_attention_heads")
        if heads is None:
            raise CheckpointError(
                f"'{path}' lacks llama.attention.head_count, by which the rows of q and k are put in order; download "
                "it again"
            )
        # By llama.cpp's default; transformers leaves q and k permuted without the number of k and v heads.
        config["num_key_value_heads"] = config.get("num_key_value_heads") or heads
    # Building takes time and memory in proportion to these, and the file itself says what they can be at most.
    tensors = len(layout.tensors)
    for key in ("num_hidden_layers", "num_layers", "num_decoder_layers", "num_experts", "num_local_experts"):
        value = config.get(key, 0)
        if isinstance(value, int) and value > max(tensors, 1024 if "experts" in key else 0):
            raise CheckpointError(
                f"'{path}' says {key} = {value:,} and has {tensors} tensors; download it again"
            )
    return config


def _names_of_the_model(
    path: Path, config: Mapping[str, Any], processor: Any
) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """transformers' name by llama.cpp's, and shapes by transformers' name, from the model that transformers builds."""
    import gguf
    import transformers
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    settings = dict(config)
    built = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    mappings = ("MODEL_FOR_CAUSAL_LM_MAPPING", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "MODEL_MAPPING")
    families: list[Any] = [getattr(transformers, mapping) for mapping in mappings]
    kind = next((family[type(built)] for family in families if type(built) in family), None)
    if kind is None:
        raise CheckpointError(
            f"'{path}' is a '{built.model_type}' model, which transformers has no class for"
        )
    with torch.device("meta"):  # without numbers, for its parameter names and shapes
        model = kind(built)
    # Until 5.0, transformers took none, and left out the names that only a processor knows: those of fused experts.
    given = [processor] if "processor" in inspect.signature(get_gguf_hf_weights_map).parameters else []
    # transformers asks for it at every module, at 16 ms each.
    with _replaced("get_tensor_name_map", functools.lru_cache(gguf.get_tensor_name_map)):
        renamed: dict[str, str] = get_gguf_hf_weights_map(model, *given)
    return renamed, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _shape(parts: "list[GgufTensor]", expected: tuple[int, ...]) -> tuple[int, ...]:
    """The skeleton's shape, unless the file's numbers are more or fewer: transformers' config lacks some sizes."""
    if prod(expected) == sum(prod(part.shape) for part in parts):
        return expected
    first = parts[0].shape
    return first if len(parts) == 1 else (first[0], sum(part.shape[1] for part in parts), *first[2:])


def stored_tensor(
    path: Path,
    name: str,
    shape: tuple[int, ...],
    parts: "list[GgufTensor]",
    processor: Any,
    renamed: Mapping[str, str],
) -> StoredTensor:
    from gguf import dequantize
    from gguf.quants import quant_shape_to_byte_shape

    def read() -> Tensor:
        with _one_line_errors(path):
            done: dict[str, Any] = {"tensors": {}}
            for part in parts:
                raw = np.fromfile(part.file, np.uint8, count=part.end - part.begin, offset=part.begin)
                values = dequantize(raw.reshape(quant_shape_to_byte_shape(part.shape, part.kind)), part.kind)
                result = processor.process(
                    weights=np.asarray(values, dtype=np.float32),
                    name=part.name,
                    tensor_key_mapping=renamed,
                    parsed_parameters=done,
                )
                if result.name is not None:
                    done["tensors"][name] = torch.from_numpy(np.ascontiguousarray(result.weights))
            tensor: Tensor = done["tensors"][name]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"'{parts[0].name}' in '{path}' has the shape {tuple(tensor.shape)}; expected {shape}"
            )
        return tensor

    return StoredTensor(shape, torch.float32, "+".join(sorted({part.kind.name for part in parts})), read)


@contextmanager
def _replaced(name: str, value: Any) -> Iterator[None]:
    """Make transformers use ``value`` where it imports ``name`` from gguf."""
    import gguf

    original = getattr(gguf, name)
    setattr(gguf, name, value)
    try:
        yield
    finally:
        setattr(gguf, name, original)


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Whatever gguf or transformers make of a strange file becomes one line that names it."""
    try:
        yield
    except IntrudersError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"'{path}' cannot be read as GGUF by transformers: {first_line(error)}"
        ) from None
