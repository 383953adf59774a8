"""LoHa, LoKr and AdaLoRA, by the formulas of PEFT's own ``get_delta_weight``.

They give factors, or serve files of LyCORIS that have no config. Nothing but the adapter's file is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from ...errors import CheckpointError
from ...linalg.low_rank import LowRank
from ..stored.checkpoint import StoredTensor
from .adapter import AdaptedWeight
from .adapter_config import AdapterConfig
from .formulas import dense, kronecker_delta, product, widened
from .lora import lora_modules

Tensors = Mapping[str, StoredTensor]
Scales = Mapping[str, float]

_LYCORIS_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.[^.]+)?"
)


def loha_updates(tensors: Tensors, config: AdapterConfig, scales: Scales) -> list[AdaptedWeight]:
    """D = alpha / r * (w1_a w1_b) * (w2_a w2_b), elementwise."""
    modules = by_module(tensors, _LYCORIS_PART)
    return [
        hadamard(name, parts, config.source, _scale(name, config, scales)) for name, parts in modules.items()
    ]


def lokr_updates(tensors: Tensors, config: AdapterConfig, scales: Scales) -> list[AdaptedWeight]:
    """D = alpha / r * kron(w1, w2)."""
    modules = by_module(tensors, _LYCORIS_PART)
    return [
        kronecker(name, parts, config.source, _scale(name, config, scales)) for name, parts in modules.items()
    ]


def adalora_updates(tensors: Tensors, config: AdapterConfig, scales: Scales) -> list[AdaptedWeight]:
    """D = alpha / (init_r + 1e-5) * B (E * A), of which pruning leaves some rows."""
    alpha, rank = config.number("lora_alpha"), config.number("init_r")
    # PEFT's own 1e-5, which keeps a rank of zero from dividing.
    scale = (alpha if alpha > 0 else rank) / (rank + 1e-5)
    updates = []
    for module in lora_modules(tensors, config.source):
        values = module.parts.get("E")
        if values is not None and prod(values.shape) == 0:  # pruned to nothing
            continue
        down, up, _ = module.pair(config.source)
        if values is None or prod(values.shape) != down.shape[0]:
            raise CheckpointError(
                f"'{config.source}' has no lora_E of {down.shape[0]} numbers for '{module.name}'"
            )
        updates.append(_adalora(module.name, down, up, values, scales.get(module.name, scale)))
    return updates


def by_module(tensors: Tensors, pattern: re.Pattern[str]) -> dict[str, dict[str, StoredTensor]]:
    """module -> part -> tensor, for the names that match."""
    result: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        if match := pattern.fullmatch(name):
            result.setdefault(match["module"], {})[match["part"]] = tensor
    return result


def hadamard(
    module: str,
    parts: Tensors,
    source: str,
    scale: Callable[[int | None], float],
    magnitude: StoredTensor | None = None,
) -> AdaptedWeight:
    """LoHa's update of one module, from ``hada_w1_a``, ``hada_w1_b``, ``hada_w2_a`` and ``hada_w2_b``."""
    pairs = []
    for number in "12":
        a, b, core = (parts.get(f"hada_{key}") for key in (f"w{number}_a", f"w{number}_b", f"t{number}"))
        if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2:
            raise CheckpointError(
                f"'{source}' lacks a factor hada_w{number} for '{module}'; expected all four"
            )
        pairs.append((a, b, core))
    (a, b, core), (other_a, other_b, other_core) = pairs
    shape, rank = _product_shape(a, b, core, module, source), b.shape[0]
    if _product_shape(other_a, other_b, other_core, module, source) != shape:
        raise CheckpointError(f"'{source}' has hada_w1 and hada_w2 of different shapes for '{module}'")
    value = scale(rank)

    def delta() -> Tensor:
        return value * product(a, b, core) * product(other_a, other_b, other_core)

    by_column = _is_per_input(magnitude, shape, module, source)
    return dense(f"{module}.weight", shape, rank, value, "loha", delta, magnitude, by_column)


def kronecker(
    module: str,
    parts: Tensors,
    source: str,
    scale: Callable[[int | None], float],
    magnitude: StoredTensor | None = None,
) -> AdaptedWeight:
    """LoKr's update of one module, from ``lokr_w1`` and ``lokr_w2`` or the factors of either."""
    first = _kronecker_factor(module, parts, "1", source)
    second = _kronecker_factor(module, parts, "2", source)
    shape = (first.shape[0] * second.shape[0], first.shape[1] * prod(second.shape[1:]))
    rank = first.rank if first.rank is not None else second.rank
    value = scale(rank)

    def delta() -> Tensor:
        return kronecker_delta(first.read(), second.read(), value)

    by_column = _is_per_input(magnitude, shape, module, source)
    return dense(f"{module}.weight", shape, rank, value, "lokr", delta, magnitude, by_column)


def whole_update(module: str, difference: StoredTensor) -> AdaptedWeight:
    """LyCORIS's update of one module that is stored as it is, (m, n) or (out, in, kh, kw), and has no alpha."""
    shape = (difference.shape[0], prod(difference.shape[1:]))
    return dense(f"{module}.weight", shape, None, 1.0, "full", lambda: widened(difference.read()))


@dataclass(frozen=True)
class _Factor:
    """w1 or w2 of a Kronecker product, stored whole or as two factors itself."""

    shape: tuple[int, ...]
    rank: int | None
    read: Callable[[], Tensor]


def _kronecker_factor(module: str, parts: Tensors, number: str, source: str) -> _Factor:
    whole, a, b = (parts.get(f"lokr_w{number}{end}") for end in ("", "_a", "_b"))
    core = parts.get("lokr_t2") if number == "2" else None
    if whole is not None and (len(whole.shape) == 2 or (number == "2" and len(whole.shape) > 2)):
        stored = whole
        return _Factor(whole.shape, None, lambda: widened(stored.read()))
    if a is None or b is None or len(a.shape) != 2 or len(b.shape) != 2:
        raise CheckpointError(f"'{source}' lacks lokr_w{number} or its two factors for '{module}'")
    left, right = a, b
    rows, columns = _product_shape(a, b, core, module, source)
    shape = (rows, columns) if core is None else (rows, b.shape[1], *core.shape[2:])
    return _Factor(shape, b.shape[0], lambda: product(left, right, core))


def _is_per_input(magnitude: StoredTensor | None, shape: tuple[int, int], module: str, source: str) -> bool:
    """Return whether it is a LyCORIS ``dora_scale`` over the inputs, (1, in) or (1, in, 1, 1), and not over the rows.

    Raises:
      CheckpointError: it has not a number for each of the inputs or rows of a weight of this shape.
    """
    if magnitude is None:
        return False
    numbers, is_kernel = prod(magnitude.shape), len(magnitude.shape) > 2
    per_input = len(magnitude.shape) >= 2 and magnitude.shape[0] == 1
    columns = numbers > 0 and shape[1] % numbers == 0 if is_kernel else numbers == shape[1]
    if not (columns if per_input else numbers == shape[0]):
        raise CheckpointError(
            f"'{source}' has a dora_scale of shape {magnitude.shape} for '{module}'; "
            f"expected one number for each output or input of a weight {shape}"
        )
    return per_input


def _product_shape(
    a: StoredTensor, b: StoredTensor, core: StoredTensor | None, module: str, source: str
) -> tuple[int, int]:
    """(out, in * kh * kw) of ``product(a, b, core)``."""
    if core is None and a.shape[1] == b.shape[0]:
        return a.shape[0], b.shape[1]
    if core is not None and len(core.shape) >= 2 and core.shape[:2] == (a.shape[0], b.shape[0]):
        return a.shape[1], b.shape[1] * prod(core.shape[2:])
    raise CheckpointError(
        f"'{source}' has factors for '{module}' that do not multiply: {a.shape} and {b.shape}"
    )


def _scale(module: str, config: AdapterConfig, scales: Scales) -> Callable[[int | None], float]:
    """alpha / r, r being the config's, which LoKr has even where its factors are stored whole."""
    if module in scales:
        return lambda rank: scales[module]
    rank = config.pattern_value("rank_pattern", module, config.number("r"))
    alpha = config.pattern_value("alpha_pattern", module, config.number("alpha"))
    if rank <= 0:
        raise config.wrong("r", "a positive number")
    return lambda _: alpha / rank


def _adalora(
    module: str, down: StoredTensor, up: StoredTensor, values: StoredTensor, scale: float
) -> AdaptedWeight:
    def change(base: Tensor, expert: int | None) -> LowRank:
        left = scale * widened(up.read()) * widened(values.read()).reshape(1, -1)
        return LowRank(left, widened(down.read()).flatten(1))

    shape = (up.shape[0], prod(down.shape[1:]))
    return AdaptedWeight(f"{module}.weight", shape, down.shape[0], scale, "adalora", change)
