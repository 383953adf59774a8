"""The formulas by which adapters change a weight, from their stored tensors: LoRA and DoRA, LoHa, LoKr and AdaLoRA.

They give factors where there are some, serve files of LyCORIS that have no config, and need nothing but the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor

from ...errors import CheckpointError
from ...linalg.low_rank import LowRank
from ..stored.checkpoint import StoredTensor
from .adapter import AdaptedWeight, AdapterConfig

Tensors = Mapping[str, StoredTensor]
Scales = Mapping[str, float]


def low_rank(
    name: str,
    down: StoredTensor,
    up: StoredTensor,
    scale: float,
    *,
    transposed: bool = False,
    magnitude: StoredTensor | None = None,
    by_column: bool = False,
) -> AdaptedWeight:
    """D = scale * up @ down; with a magnitude m, DoRA's W = m * (W0 + D) / ||W0 + D||.

    ``down`` is (r, in) or (r, in, kh, kw), ``up`` (out, r) or (out, r, 1, 1). An embedding's weight (tokens, dim) gets
    D^T (``transposed``). m has a number an output, or an input with ``by_column``.
    """
    rank, columns, rows = down.shape[0], prod(down.shape[1:]), up.shape[0]

    def factors() -> LowRank:
        left = scale * widened(up.read()).reshape(rows, rank)  # (out, r)
        right = widened(down.read()).reshape(rank, columns)  # (r, in), a kernel flattened
        return LowRank(right.mT, left.mT) if transposed else LowRank(left, right)

    shape = (columns, rows) if transposed else (rows, columns)
    if magnitude is None:
        return AdaptedWeight(name, shape, rank, scale, "lora", lambda base, expert: factors())

    per_input = transposed or by_column
    return dense(name, shape, rank, scale, "dora", lambda: factors().dense(), magnitude, per_input)


def _decomposed(direction: Tensor, magnitude: Tensor, *, by_column: bool) -> Tensor:
    """m * V / ||V||, by row of V (m, n) or by column, of a convolution by input (DoRA, Liu et al. 2024)."""
    inputs = magnitude.numel() if by_column else 1
    grouped = direction.reshape(direction.shape[0], inputs, -1)  # (m, in, kh * kw), or (m, 1, n)
    norm: Tensor = torch.linalg.vector_norm(grouped, dim=(0, 2) if by_column else (1, 2), keepdim=True)
    factor: Tensor = widened(magnitude).reshape(norm.shape) / norm
    return (grouped * factor).reshape(direction.shape)


def dense(
    name: str,
    shape: tuple[int, int],
    rank: int | None,
    scale: float,
    method: str,
    delta: Callable[[], Tensor],
    magnitude: StoredTensor | None = None,
    by_column: bool = False,
) -> AdaptedWeight:
    """W = W0 + D for a D that is not added as two factors; DoRA's W where there is a magnitude."""

    def change(base: Tensor, expert: int | None) -> Tensor:
        tuned = widened(base) + delta().reshape(shape)
        return tuned if magnitude is None else _decomposed(tuned, magnitude.read(), by_column=by_column)

    return AdaptedWeight(name, shape, None, scale, method, change, factor_rank=rank)


def widened(tensor: Tensor) -> Tensor:
    """Convert to single precision or more, so that folding in the scale does not round half-precision factors."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)


# "q_proj.lora_A.weight", "q_proj.lora_A.default.weight" (a state dict saved by hand), "wte.lora_embedding_A"
_LORA_NAME = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A|B|E|embedding_A|embedding_B|magnitude_vector)"
    r"(?:\.[^.]+)??(?P<kind>\.weight|\.bias)?"
)

# Settings under which B A is not what is added to a weight, and no one weight is what the model computes.
_REFUSED = {
    "layer_replication": "it repeats layers that the base has once; merge it with PEFT, and pass the merged model",
    "arrow_config": "it decides for each input what it adds, so that no one weight stands for it, and PEFT "
    "cannot merge it either; audit the adapters that it chooses among",
    "use_qalora": "it acts on groups of inputs of a GPTQ base, and PEFT cannot merge it; audit an adapter trained "
    "without it",
}
# Settings under which PEFT's own code makes the weight.
BY_PEFT = ("kasa_config", "use_bdlora")


@dataclass(frozen=True)
class LoraTensors:
    """The tensors of one module by part, before they are checked against each other."""

    name: str  # of the module; with ".base_layer" for each that PEFT nests around adapted parameters
    parts: Tensors

    @property
    def module(self) -> str:
        """The module's path in the base."""
        return self.name.replace(".base_layer", "")

    def pair(self, source: str) -> tuple[StoredTensor, StoredTensor, bool]:
        """(A, B, whether they are an embedding's), whose shapes fit together."""
        embedding = "embedding_A" in self.parts
        down, up = (self.parts.get(f"embedding_{part}" if embedding else part) for part in ("A", "B"))
        if down is None or up is None:
            raise CheckpointError(
                f"'{source}' has only one of lora_A and lora_B for '{self.name}'; expected both"
            )
        require_factors(down, up, self.name, source)
        return down, up, embedding


def require_factors(down: StoredTensor, up: StoredTensor, module: str, source: str) -> None:
    """Raise CheckpointError unless the factors of a LoRA multiply."""
    fitting = len(down.shape) >= 2 and len(up.shape) >= 2 and down.shape[0] > 0
    if not fitting or up.shape[1] != down.shape[0] or prod(up.shape[2:]) != 1:
        raise CheckpointError(
            f"'{source}' has the factors {down.shape} and {up.shape} for '{module}'; expected (r, in) and (out, r), "
            "and no grouped convolution, whose LoRA PEFT cannot merge either"
        )


def require_weights(config: AdapterConfig) -> None:
    """Raise CheckpointError for a variant of LoRA of which no one weight is what the model computes."""
    for key, reason in _REFUSED.items():
        if config.values.get(key):
            raise CheckpointError(f"the adapter '{config.source}' uses {key}, and {reason}")


def lora_modules(tensors: Tensors, source: str) -> list[LoraTensors]:
    """The adapter's tensors by module; raises CheckpointError when two adapters are in one file."""
    return [LoraTensors(name, parts) for name, parts in _by_module(tensors, _LORA_NAME, source).items()]


def _by_module(tensors: Tensors, pattern: re.Pattern[str], source: str) -> dict[str, dict[str, StoredTensor]]:
    """Module -> part -> tensor, for the names that match and are of no bias."""
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in tensors.items():
        match = pattern.fullmatch(name)
        if match is None or name.endswith(".bias"):
            continue
        parts = modules.setdefault(match["module"], {})
        if match["part"] in parts:
            raise CheckpointError(
                f"'{source}' contains more than one adapter ('{name}' among them); expected one adapter a file"
            )
        parts[match["part"]] = tensor
    return modules


def lora_scale(module: str, rank: int, config: AdapterConfig) -> float:
    """PEFT's scale of a module's B A, alpha / r or alpha / sqrt(r); CheckpointError for a rank not of the config."""
    expected = config.pattern_value("rank_pattern", module, config.number("r"))
    if rank != expected:
        raise CheckpointError(
            f"'{config.source}' has rank {rank} in '{module}' and its config says {expected:g}; "
            "expected tensors and config of one training"
        )
    alpha = config.pattern_value("alpha_pattern", module, config.number("lora_alpha"))
    return alpha / math.sqrt(rank) if config.flag("use_rslora") else alpha / rank


def module_update(module: LoraTensors, config: AdapterConfig, scales: Scales) -> AdaptedWeight:
    """The update of a module's weight; ``scales`` are by module, where a model in memory has its own."""
    name = module.module
    down, up, embedding = module.pair(config.source)
    scale = scales[name] if name in scales else lora_scale(name, down.shape[0], config)
    magnitude = module.parts.get("magnitude_vector")
    if (magnitude is None) == config.flag("use_dora"):
        raise CheckpointError(
            f"'{config.source}' has use_dora = {config.flag('use_dora')} and "
            f"{'no' if magnitude is None else 'a'} lora_magnitude_vector for '{module.name}'"
        )
    if magnitude is not None and prod(magnitude.shape) != up.shape[0]:
        raise CheckpointError(
            f"'{config.source}' has a lora_magnitude_vector {magnitude.shape} for '{module.name}'; "
            f"expected {up.shape[0]} numbers"
        )
    return low_rank(f"{name}.weight", down, up, scale, transposed=embedding, magnitude=magnitude)


_LYCORIS_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.[^.]+)?"
)


def lycoris_updates(tensors: Tensors, config: AdapterConfig, scales: Scales) -> list[AdaptedWeight]:
    """Those of PEFT's LoHa and LoKr, scaled by alpha / r with the config's r, which whole factors of LoKr have too."""
    updates = []
    for module, parts in _by_module(tensors, _LYCORIS_PART, config.source).items():
        scale = scales.get(module)
        if scale is None:
            rank = config.pattern_value("rank_pattern", module, config.number("r"))
            scale = config.pattern_value("alpha_pattern", module, config.number("alpha"))
            if rank <= 0:
                raise config.wrong("r", "a positive number")
            scale /= rank
        updates.append(lycoris_update(module, parts, config.source, partial(_fixed, scale)))
    return updates


def _fixed(scale: float, rank: int | None) -> float:
    return scale


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


def _adalora(
    module: str, down: StoredTensor, up: StoredTensor, values: StoredTensor, scale: float
) -> AdaptedWeight:
    def change(base: Tensor, expert: int | None) -> LowRank:
        left = scale * widened(up.read()) * widened(values.read()).reshape(1, -1)
        return LowRank(left, widened(down.read()).flatten(1))

    shape = (up.shape[0], prod(down.shape[1:]))
    return AdaptedWeight(f"{module}.weight", shape, down.shape[0], scale, "adalora", change)


def lycoris_update(
    module: str,
    parts: Tensors,
    source: str,
    scale: Callable[[int | None], float],
    magnitude: StoredTensor | None = None,
) -> AdaptedWeight:
    """The update of one module by LoHa's four factors, or by LoKr's two, of which each may be two factors itself."""
    is_loha = any(part.startswith("hada") for part in parts)
    formula, stems = (_loha, ("hada_w1", "hada_w2")) if is_loha else (_lokr, ("lokr_w1", "lokr_w2"))
    for stem in stems:
        if stem not in parts and not {f"{stem}_a", f"{stem}_b"} <= parts.keys():
            raise CheckpointError(f"'{source}' lacks {stem} or its two factors for '{module}'")
    try:
        shapes = {part: torch.empty(stored.shape, device="meta") for part, stored in parts.items()}
        rows, columns = formula(shapes, 1.0).flatten(1).shape
    except (IndexError, RuntimeError, ValueError):
        given = " and ".join(f"{part} {stored.shape}" for part, stored in parts.items())
        raise CheckpointError(
            f"'{source}' has factors for '{module}' that do not multiply: {given}"
        ) from None
    rank = next((parts[f"{stem}_b"].shape[0] for stem in stems if stem not in parts), None)
    value = scale(rank)

    def delta() -> Tensor:
        return formula({part: widened(stored.read()) for part, stored in parts.items()}, value)

    by_column = _is_per_input(magnitude, (rows, columns), module, source)
    method = "loha" if is_loha else "lokr"
    return dense(f"{module}.weight", (rows, columns), rank, value, method, delta, magnitude, by_column)


def _loha(parts: Mapping[str, Tensor], scale: float) -> Tensor:
    """D = scale * w1 * w2, elementwise."""
    first, second = (_factor(parts, f"hada_w{number}", f"hada_t{number}") for number in "12")
    if first.shape != second.shape:
        raise ValueError
    return scale * first * second


def _lokr(parts: Mapping[str, Tensor], scale: float) -> Tensor:
    """D = scale * kron(w1, w2), a kernel's dimensions being w2's alone."""
    first, second = _factor(parts, "lokr_w1"), _factor(parts, "lokr_w2", "lokr_t2")
    if first.dim() != 2 or second.dim() < 2:
        raise ValueError
    return scale * torch.kron(first.reshape(*first.shape, *(1,) * (second.dim() - 2)), second)


def _factor(parts: Mapping[str, Tensor], stem: str, of_core: str = "") -> Tensor:
    """w as it is stored, a @ b, or with a core t (r, r, kh, kw) for a convolution: sum_ij a_ip t_ij.. b_jq."""
    if stem in parts:
        return parts[stem]
    a, b, core = parts[f"{stem}_a"], parts[f"{stem}_b"], parts.get(of_core)
    if a.dim() != 2 or b.dim() != 2 or (core is not None and core.shape[:2] != (len(a), len(b))):
        raise ValueError
    return a @ b if core is None else torch.einsum("ij...,jq,ip->pq...", core, b, a)


def whole_update(module: str, difference: StoredTensor) -> AdaptedWeight:
    """LyCORIS's update of one module that is stored as it is, (m, n) or (out, in, kh, kw), and has no alpha."""
    shape = (difference.shape[0], prod(difference.shape[1:]))
    return dense(f"{module}.weight", shape, None, 1.0, "full", lambda: widened(difference.read()))


def _is_per_input(magnitude: StoredTensor | None, shape: tuple[int, int], module: str, source: str) -> bool:
    """Return whether a LyCORIS ``dora_scale`` is over the inputs, (1, in) or (1, in, 1, 1), and not over the rows."""
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
