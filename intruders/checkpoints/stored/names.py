"""Names of tensors and modules: their order, embeddings, layer and kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_DIGITS = re.compile(r"(\d+)")

# Parts that wrappers (torch.compile, FSDP, activation checkpointing, PEFT) put between a module and its weight.
WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"})

# Last module names under which the libraries keep token, position and type embeddings, and output heads. Short names
# are those of a head only where no module stands before them.
_HEAD_NAMES = (
    r"\w*lm_head|lm_head\.decoder|embed_out|score|classifier|qa_outputs|predictions\.decoder|output_projection"
    r"|transformer\.(?:output_layer|ff_out)"
)
_HEAD_OF_ROOT = r"(?:output|head|decoder)"
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens\w*|tokens_embed|embed_positions|positions_embed|embed_in|embeddings?|tok_embeddings"
    r"|token_embedding|token_embd|rel_embeddings|relative_attention_bias|\w*word_embeddings?|\w*position_embeddings?"
    rf"|token_type_embeddings|wte|wpe|shared|{_HEAD_NAMES})(?:\.weight)?$|^{_HEAD_OF_ROOT}\.weight$"
)


def natural_order(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key under which layer 2 comes before layer 10; of equal numbers, such as 1 and 01, the text decides."""
    parts = [
        (0, int(part), "") if part.isdecimal() and len(part) < 19 else (1, 0, part)
        for part in _DIGITS.split(name)
    ]
    return parts, name


_HEAD = re.compile(rf"(?:^|\.)(?:{_HEAD_NAMES})(?:\.weight)?$|^{_HEAD_OF_ROOT}(?:\.weight)?$")
_CLASSES = re.compile(r"(?:^|\.)(?:score|classifier|qa_outputs)(?:\.weight)?$")


def looks_up_tokens(name: str) -> bool:
    """Return whether a tensor of this name is an embedding, and not an output head, which is a linear layer."""
    return is_embedding_or_head(name) and _HEAD.search(name) is None


def scores_tokens(name: str) -> bool:
    """Return whether a tensor of this name is an output head over tokens, and not one over classes."""
    return _HEAD.search(name) is not None and not scores_classes(name)


def scores_classes(name: str) -> bool:
    """Return whether a tensor of this name is an output head over classes."""
    return _CLASSES.search(name) is not None


def is_embedding_or_head(name: str) -> bool:
    """Return whether a tensor of this name looks up or scores tokens or classes."""
    return _EMBEDDING.search(name) is not None


def may_be_same(one: str, other: str) -> bool:
    """Return whether two names may be of one tensor, of which one has a prefix that the other lacks.

    >>> may_be_same("bert.encoder.weight", "encoder.weight"), may_be_same("h.1.q.weight", "h.11.q.weight")
    (True, False)
    """
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


_EXPERT = re.compile(r"\[\d+\]$")
_PART_OF_TENSOR = re.compile(r"(?:\[[^\]]*\])+$")


def tensor_of(matrix: str) -> str:
    """Return the tensor that holds a matrix: its name without an expert's number or the part of a fused weight.

    >>> tensor_of("h.0.experts.weight[3]"), tensor_of("h.0.qkv.weight[q]"), tensor_of("h.0.o.weight")
    ('h.0.experts.weight', 'h.0.qkv.weight', 'h.0.o.weight')
    """
    return _PART_OF_TENSOR.sub("", matrix)


@dataclass(frozen=True)
class ModulePath:
    """The position of one matrix; two matrices of one kind in different layers differ in `layer` only."""

    stack: str  # what stands before the layer's number; "" for a matrix outside the layers
    layer: int | None
    kind: str

    @property
    def layer_label(self) -> str:
        """The layer with what stands before its number; of a matrix outside the layers, its kind.

        >>> [path.layer_label for path in module_paths(["model.layers.2.o.weight", "head.weight"])]
        ['model.layers.2', 'head']
        """
        return self.kind if self.layer is None else f"{self.stack}.{self.layer}".lstrip(".")


def module_paths(names: Sequence[str]) -> list[ModulePath]:
    """Return the path of every name, in order.

    A kind is as short as it can be without standing for two kinds of module of the same model: `q_proj` says
    enough in Llama, but `dense` does not in BERT, nor `c_proj` in GPT-2.
    """
    split = [_split(name) for name in names]
    tails = {tail for _, _, tail in split}
    shared = Counter(suffix for tail in tails for suffix in _suffixes(tail))
    kinds = {tail: _shortest_unshared(tail, shared) for tail in tails}
    return [ModulePath(stack=prefix, layer=layer, kind=kinds[tail]) for prefix, layer, tail in split]


def _split(name: str) -> tuple[str, int | None, tuple[str, ...]]:
    parts = [part for part in _EXPERT.sub("", name).split(".") if part]
    if len(parts) > 1 and parts[-1] == "weight":
        parts = parts[:-1]
    numbers = [i for i, part in enumerate(parts) if part.isdecimal()]
    if not numbers:
        return "", None, tuple(parts) or ("weight",)
    first = numbers[0]
    # Later numbers count experts or blocks within the layer, and are one kind.
    tail = tuple(part for part in parts[first + 1 :] if not part.isdecimal())
    return ".".join(parts[:first]), int(parts[first]), tail or tuple(parts[:first]) or ("weight",)


def _suffixes(tail: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [tail[i:] for i in range(len(tail))]


def _shortest_unshared(tail: tuple[str, ...], shared: Counter[tuple[str, ...]]) -> str:
    for length in range(1, len(tail) + 1):
        if shared[tail[-length:]] == 1:
            return ".".join(tail[-length:])
    return ".".join(tail)
