"""Which side of a weight the ``dora_scale`` of a file without a config scales.

(out,), (out, 1), (out, 1, 1, 1)   the outputs, as DoRA has it
(1, in), (1, in, 1, 1)             the inputs, as LyCORIS has it before 3.2 and where it is told so
(1, out, 1, 1)                     the outputs, as PEFT stores it of a convolution and diffusers converts it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..stored.checkpoint import StoredTensor


def scales_inputs(
    scale: StoredTensor, down: StoredTensor, up: StoredTensor, per_input: bool | None
) -> bool | None:
    """Return whether a module's ``dora_scale`` is over its inputs; None where that cannot be known.

    Args:
      scale: the module's.
      down: (r, in), or (r, in, kh, kw) of a convolution.
      up: (out, r), or (out, r, 1, 1).
      per_input: whether the others in its file are over the inputs, as :func:`dora_is_per_input` tells.
    """
    if len(scale.shape) < 2 or scale.shape[0] != 1:
        return False
    inputs, outputs = down.shape[1], up.shape[0]
    if len(scale.shape) == 2 or scale.shape[1] != outputs:
        return True
    return per_input if inputs == outputs > 1 else False


def dora_is_per_input(modules: Iterable[Mapping[str, StoredTensor]]) -> bool | None:
    """Return whether the file's ``dora_scale`` are over inputs, by those modules that tell; None if none does."""
    told: set[bool | None] = set()
    for parts in modules:
        scale, down, up = (parts.get(part) for part in ("dora_scale", "down", "up"))
        if scale is None or down is None or up is None or min(len(down.shape), len(up.shape)) < 2:
            continue
        if len(scale.shape) == 1:
            told.add(False)
        elif scale.shape and scale.shape[0] == 1:
            told.add(scales_inputs(scale, down, up, None))
    told.discard(None)
    return told.pop() if len(told) == 1 else None
