"""Where a tensor is in a model, as far as remedies ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...checkpoints.stored.names import is_embedding_or_head, module_paths


@dataclass(frozen=True)
class Position:
    """A layer of a stack, or none.

    >>> positions_of(["h.0.w", "h.1.w", "norm"])["h.1.w"]
    Position(layer=1, layers=2, is_embedding_or_head=False)
    """

    layer: int | None  # counted from 0; None outside of the layers
    layers: int  # how many there are in its stack; 0 outside of them
    is_embedding_or_head: bool = False


def positions_of(names: Iterable[str]) -> Mapping[str, Position]:
    """Return the position of every name; the layers of encoder and decoder are counted separately."""
    listed = list(names)
    paths = module_paths(listed)
    layers: dict[str, int] = {}
    for path in paths:
        if path.layer is not None:
            layers[path.stack] = max(layers.get(path.stack, 0), path.layer + 1)
    return {
        name: Position(
            path.layer,
            0 if path.layer is None else layers[path.stack],
            path.layer is None and is_embedding_or_head(name),
        )
        for name, path in zip(listed, paths, strict=True)
    }
