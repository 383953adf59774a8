"""The formulas by which adapters change a weight, from their stored tensors: LoRA and DoRA, LoHa, LoKr and AdaLoRA.

They give factors where there are some, serve files of LyCORIS that have no config, and need nothing but the file.
"""

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
from ..stored.checkpoint import StoredTensor, Tensors
from .adapter import AdaptedWeight, AdapterConfig


def factors(down: StoredTensor, up: StoredTensor, scale: float, transposed: bool = False) -> LowRank:
    """D = scale * up @ down, of (r, in) and (out, r), a kernel's sides flattened; D^T where ``transposed``."""
    left, right = scale * widened(up.read()).flatten(1), widened(down.read()).flatten(1)
    return LowRank(right.mT, left.mT) if transposed else LowRank(left, right)


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
    shape = (columns, rows) if transposed else (rows, columns)
    made = partial(factors, down, up, scale, transposed)
    if magnitude is None:
        return AdaptedWeight(name, shape, rank, scale, "lora", lambda base, expert: made())
    per_input = transposed or by_column
    return dense(name, shape, rank, scale, "dora", lambda: made().dense(), magnitude, per_input)


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
REFUSED_SETTINGS = {
    "layer_replication": "it repeats layers that the base has once; merge it with PEFT, and pass the merged model",
    "arrow_config": "it decides for each input what it adds, so that no one weight stands for it, and PEFT "
    "cannot merge it either; audit the adapters that it chooses among",
    "use_qalora": "it acts on groups of inputs of a GPTQ base, and PEFT cannot merge it; audit an adapter trained "
    "without it",
}
# Settings under which PEFT's own code makes the weight.
BY_PEFT = ("kasa_config", "use_bdlora")


@dataclass(frozen=True)
class LoraFactors:
    """The tensors of one module, of which A and B multiply."""

    name: str  # of the module; with ".base_layer" for each that PEFT nests around adapted parameters
    down: StoredTensor  # A: (r, in), with a kernel's sides behind; of an embedding (r, tokens)
    up: StoredTensor  # B: (out, r), likewise
    is_embedding: bool
    magnitude: StoredTensor | None  # DoRA's
    values: StoredTensor | None  # AdaLoRA's E

    @property
    def module(self) -> str:
        return self.name.replace(".base_layer", "")

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def unfit(source: str, has: str, module: str, expected: str) -> CheckpointError:
    return CheckpointError(f"'{source}' has {has} for '{module}'; expected {expected}")


def require_factors(down: StoredTensor, up: StoredTensor, module: str, source: str) -> None:
    fitting = len(down.shape) >= 2 and len(up.shape) >= 2 and down.shape[0] > 0
    if not fitting or up.shape[1] != down.shape[0] or prod(up.shape[2:]) != 1:
        expected = "(r, in) and (out, r), and no grouped convolution, whose LoRA PEFT cannot merge either"
        raise unfit(source, f"the factors {down.shape} and {up.shape}", module, expected)


def lora_modules(tensors: Tensors, source: str) -> list[LoraFactors]:
    """The adapter's factors by module, without those that AdaLoRA pruned to nothing.

    CheckpointError when two adapters are in one file, and for factors that do not fit together.
    """
    modules = []
    for name, parts in _by_module(tensors, _LORA_NAME, source).items():
        is_embedding, values = "embedding_A" in parts, parts.get("E")
        if values is not None and prod(values.shape) == 0:
            continue
        down, up = (parts.get(f"embedding_{part}" if is_embedding else part) for part in ("A", "B"))
        if down is None or up is None:
            raise unfit(source, "only one of lora_A and lora_B", name, "both")
        require_factors(down, up, name, source)
        modules.append(LoraFactors(name, down, up, is_embedding, parts.get("magnitude_vector"), values))
    return modules


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
    if module in config.scales:
        return config.scales[module]
    expected = config.pattern_value("rank_pattern", module, config.number("r"))
    if rank != expected:
        raise CheckpointError(
            f"'{config.source}' has rank {rank} in '{module}' and its config says {expected:g}; "
            "expected tensors and config of one training"
        )
    alpha = config.pattern_value("alpha_pattern", module, config.number("lora_alpha"))
    return alpha / math.sqrt(rank) if config.flag("use_rslora") else alpha / rank


def module_update(module: LoraFactors, config: AdapterConfig) -> AdaptedWeight:
    name, magnitude, outputs = module.module, module.magnitude, module.up.shape[0]
    scale = lora_scale(name, module.rank, config)
    if (magnitude is None) == config.flag("use_dora"):
        raise CheckpointError(
            f"'{config.source}' has use_dora = {config.flag('use_dora')} and "
            f"{'no' if magnitude is None else 'a'} lora_magnitude_vector for '{module.name}'"
        )
    if magnitude is not None and prod(magnitude.shape) != outputs:
        has = f"a lora_magnitude_vector {magnitude.shape}"
        raise unfit(config.source, has, module.name, f"{outputs} numbers")
    is_embedding = module.is_embedding
    return low_rank(
        f"{name}.weight", module.down, module.up, scale, transposed=is_embedding, magnitude=magnitude
    )


_LYCORIS_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2))(?:\.[^.]+)?"
)


def lycoris_updates(tensors: Tensors, config: AdapterConfig) -> list[AdaptedWeight]:
    """Those of PEFT's LoHa and LoKr, scaled by alpha / r with the config's r, which whole factors of LoKr have too."""
    updates = []
    for module, parts in _by_module(tensors, _LYCORIS_PART, config.source).items():
        scale = config.scales.get(module)
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


def adalora_updates(tensors: Tensors, config: AdapterConfig) -> list[AdaptedWeight]:
    """D = alpha / (init_r + 1e-5) * B (E * A), of which pruning leaves some rows."""
    alpha, rank = config.number("lora_alpha"), config.number("init_r")
    # PEFT's own 1e-5, which keeps a rank of zero from dividing.
    usual = (alpha if alpha > 0 else rank) / (rank + 1e-5)
    modules = lora_modules(tensors, config.source)
    return [_adalora(module, config.source, config.scales.get(module.name, usual)) for module in modules]


def _adalora(module: LoraFactors, source: str, scale: float) -> AdaptedWeight:
    down, up, values = module.down, module.up, module.values
    if values is None or prod(values.shape) != module.rank:
        raise CheckpointError(f"'{source}' has no lora_E of {module.rank} numbers for '{module.name}'")

    def change(base: Tensor, expert: int | None) -> LowRank:
        left = scale * widened(up.read()) * widened(values.read()).reshape(1, -1)
        return LowRank(left, widened(down.read()).flatten(1))

    shape = (up.shape[0], prod(down.shape[1:]))
    return AdaptedWeight(f"{module.name}.weight", shape, module.rank, scale, "adalora", change)


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
    # torch.kron cannot view the product of a core, which is not contiguous.
    return scale * torch.kron(first.reshape(*first.shape, *(1,) * (second.dim() - 2)), second.contiguous())


def _factor(parts: Mapping[str, Tensor], stem: str, of_core: str = "") -> Tensor:
    """w as it is stored, a @ b, or with a core t (r, r, kh, kw) for a convolution: sum_ij a_ip t_ij.. b_jq."""
    if stem in parts:
        return parts[stem]
    a, b, core = parts[f"{stem}_a"], parts[f"{stem}_b"], parts.get(of_core)
    if a.dim() != 2 or b.dim() != 2 or (core is not None and core.shape[:2] != (len(a), len(b))):
        raise ValueError
    return a @ b if core is None else torch.einsum("ij...,jq,ip->pq...", core, b, a)


def _is_per_input(magnitude: StoredTensor | None, shape: tuple[int, int], module: str, source: str) -> bool:
    """Return whether a LyCORIS ``dora_scale`` is over the inputs, (1, in) or (1, in, 1, 1), and not over the rows."""
    if magnitude is None:
        return False
    numbers, is_kernel = prod(magnitude.shape), len(magnitude.shape) > 2
    per_input = len(magnitude.shape) >= 2 and magnitude.shape[0] == 1
    columns = numbers > 0 and shape[1] % numbers == 0 if is_kernel else numbers == shape[1]
    if not (columns if per_input else numbers == shape[0]):
        expected = f"one number for each output or input of a weight {shape}"
        raise unfit(source, f"a dora_scale of shape {magnitude.shape}", module, expected)
    return per_input
