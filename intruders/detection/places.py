"""Where a matrix sits in its model, read from its tensor name: stack, layer, and kind of module.

model.layers.3.self_attn.q_proj.weight         stack model.layers   layer 3   kind q_proj
encoder.layer.0.attention.output.dense.weight  stack encoder.layer  layer 0   kind attention.output.dense
lm_head.weight                                 no stack, no layer             kind lm_head
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_EXPERT = re.compile(r"\[\d+\]$")


@dataclass(frozen=True)
class Place:
    """Where one matrix sits; two matrices of one kind in different layers differ in `layer` only."""

    stack: str  # what stands before the layer's number; "" for a matrix outside the layers
    layer: int | None
    kind: str


def places(names: Sequence[str]) -> list[Place]:
    """The place of every name, in order.

    A kind is as short as it can be without standing for two kinds of module of the same model: `q_proj` says
    enough in Llama, but `dense` does not in BERT, nor `c_proj` in GPT-2.
    """
    split = [_split(name) for name in names]
    tails = {tail for _, _, tail in split}
    shared = Counter(suffix for tail in tails for suffix in _suffixes(tail))
    kinds = {tail: _shortest_unshared(tail, shared) for tail in tails}
    return [Place(stack=stack, layer=layer, kind=kinds[tail]) for stack, layer, tail in split]


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
