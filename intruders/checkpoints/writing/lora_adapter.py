"""A PEFT LoRA adapter with some of its modules' factors replaced, at whatever ranks they need."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ...errors import CheckpointError, SettingError
from ...linalg.low_rank import LowRank
from ..adapters.adapter import AdapterConfig, fields_of_base, usual_and_pattern
from ..adapters.by_formula import BY_PEFT, LoraFactors, factors, lora_modules, lora_scale
from ..adapters.peft_adapter import stored_adapter
from ..adapters.peft_types import changes_the_base
from ..stored.checkpoint import Checkpoint, StoredTensor, Tensors
from ..stored.matrices import shapes_for_adapters
from ..stored.names import match_names
from .shards import require_finite

Rank = int | str | None  # a number, "keep", or None for what the update needs

_PREFIX = "base_model.model."
# Add something else than B A, or hold tensors beside it that fit one rank alone.
_VARIANTS = (*BY_PEFT, "monteclora_config")
# Of tensors that are none of the base's: biases of B, rows of embeddings.
_OF_UPDATES = re.compile(r"\.(?:lora_B|token_adapter)\.")


def check_rank(rank: object) -> None:
    is_number = isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1
    if rank is not None and rank != "keep" and not is_number:
        raise SettingError(f"rank is {rank!r}; expected 'keep', or a number of 1 or more")


@dataclass(frozen=True)
class LoraModule(LoraFactors):
    """One module's factors as PEFT stores them."""

    scale: float  # on B A: alpha / r or alpha / sqrt(r), unless a model in memory has its own

    def update(self) -> LowRank:
        """D, output side first, the scale folded in."""
        return factors(self.down, self.up, self.scale, self.is_embedding)

    def tensors(self, update: LowRank) -> tuple[Tensor, Tensor]:
        """PEFT's A and B for D, in the shapes and dtype of the module's own."""
        left, right = update.left, update.right
        down, up = (left.mT, right.mT) if self.is_embedding else (right, left)
        # Alpha 0: there is no update, and none is left.
        up = up / self.scale if self.scale else torch.zeros_like(up)
        rank = down.shape[0]
        return (
            down.reshape(rank, *self.down.shape[1:]).to(self.down.dtype).contiguous(),
            up.reshape(self.up.shape[0], rank, *self.up.shape[2:]).to(self.up.dtype).contiguous(),
        )

    def tensor_names(self) -> tuple[str, str]:
        kind = "lora_embedding_{}" if self.is_embedding else "lora_{}.weight"
        return f"{_PREFIX}{self.name}.{kind.format('A')}", f"{_PREFIX}{self.name}.{kind.format('B')}"


@dataclass(frozen=True)
class LoraAdapter:
    """A plain LoRA adapter: every module's update is its scale times B A."""

    source: str
    config: dict[str, Any] = field(repr=False)
    modules: dict[str, LoraModule] = field(repr=False)
    rest: dict[str, StoredTensor] = field(repr=False)  # biases, modules saved in full: copied as they are


@dataclass(frozen=True)
class Rewritten:
    """An adapter after some of its updates were replaced."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    ranks: dict[str, int]  # by module
    # Relative Frobenius error by module: of each whose rank was cut, 0 for the others.
    errors: dict[str, float]


def plain_lora(path: Path, source: str, base: Checkpoint) -> LoraAdapter | None:
    """The adapter with a config at a path; None if there is none, or an update is not its scale times B A."""
    stored = stored_adapter(path, source, base.config or {})
    if stored is None or _not_plain(AdapterConfig(stored.config, source)) is not None:
        return None
    named = {} if stored.config.get("base_model_name_or_path") else fields_of_base(base.source)
    return lora_adapter(stored.open(), AdapterConfig(stored.config | named, source))


def lora_adapter(tensors: Tensors, config: AdapterConfig) -> LoraAdapter:
    """The adapter of these tensors (PEFT's names) and config."""
    source, unfit = config.source, _not_plain(config)
    if unfit is not None:
        raise CheckpointError(
            f"'{source}' {unfit}, so that no LoRA adapter is the same; merge it, and mitigate the merged model"
        )
    inner = {name.removeprefix(_PREFIX): stored for name, stored in tensors.items()}
    modules: dict[str, LoraModule] = {}
    taken: set[int] = set()
    for module in lora_modules(inner, source):
        scale = lora_scale(module.module, module.rank, config)
        modules[module.name] = LoraModule(**vars(module), scale=scale)
        taken |= {id(module.down), id(module.up)}
    rest = {name: stored for name, stored in tensors.items() if id(stored) not in taken}
    return LoraAdapter(source, dict(config.values), modules, rest)


def modules_and_tensors(base: Checkpoint, adapter: LoraAdapter) -> tuple[dict[str, str], dict[str, str]]:
    """Base matrix -> module of the adapter, and tensor that the adapter stores in full -> tensor of the base.

    They are matched as the readers match them, with the weights beneath factors (``is_beneath_factors``).
    """
    by_weight = {f"{_plain(name)}.weight": module for name, module in adapter.modules.items()}
    # All at once: norms and biases alone do not tell a prefix.
    weights = {
        _plain(name): stored.shape for name, stored in adapter.rest.items() if not _OF_UPDATES.search(name)
    }
    for weight, module in by_weight.items():
        left, right = (module.up.shape[0], prod(module.down.shape[1:]))
        weights[weight] = (right, left) if module.is_embedding else (left, right)
    own = {_plain(name): name for name in adapter.rest}
    matched = match_names(shapes_for_adapters(base), weights).tuned_of.items()
    modules = {name: by_weight[weight].name for name, weight in matched if weight in by_weight}
    return modules, {own[short]: name for name, short in matched if short in own}


def not_matched(adapter: LoraAdapter, in_full: Collection[str]) -> dict[str, str]:
    """The adapter's name of a tensor stored in full that is not among ``in_full`` -> its name in the model."""
    rest = (name for name in adapter.rest if name not in in_full and not _OF_UPDATES.search(name))
    return {name: _plain(name) for name in rest}


def is_beneath_factors(name: str) -> bool:
    """Return whether an adapter's tensor is a weight that its factors are added to; a bias there was trained."""
    return ".base_layer." in name and not name.endswith(".bias")


def _plain(name: str) -> str:
    return name.removeprefix(_PREFIX).replace(".base_layer", "")


def retrained_tokens(adapter: LoraAdapter) -> dict[str, str]:
    """The rows of embeddings that the adapter stores (``trainable_token_indices``), to the embedding's weight."""
    marked = {own: own.removeprefix(_PREFIX).partition(".token_adapter.") for own in adapter.rest}
    return {own: f"{module}.weight" for own, (module, mark, _) in marked.items() if mark}


def rewritten(
    adapter: LoraAdapter,
    changes: Mapping[str, Callable[[LowRank], LowRank]],
    rank: Rank = None,
    shares: Mapping[str, float] = MappingProxyType({}),
    in_full: Mapping[str, Tensor] = MappingProxyType({}),
) -> Rewritten:
    """The adapter with the updates of some modules changed (every scale folded in), or scaled by a share.

    ``rank`` None gives each changed module the rank that it needs; "keep" cuts each back to the rank that it had; a
    number gives every module that rank, so that no pattern of ranks is needed. Cuts are the best ones in the
    Frobenius norm. Modules keep their scales, and those not changed their tensors. Of a module in ``shares`` B alone
    is scaled, with the bias that ``lora_bias`` trains beside it, so that rank and A stay as they are. Tensors
    ``in_full`` take the place of those that are stored in full. Updates are changed one by one: all of a large model's
    in double precision are as much as a few of its matrices.
    """
    tensors = {
        name: stored.read() if name not in in_full else in_full[name].to(stored.dtype)
        for name, stored in adapter.rest.items()
    }
    ranks: dict[str, int] = {}
    errors: dict[str, float] = {}
    for name, module in adapter.modules.items():
        change, bias = changes.get(name), f"{_PREFIX}{name}.lora_B.bias"
        if name in shares and bias in tensors:
            scaled = (shares[name] * tensors[bias].double()).to(tensors[bias].dtype)
            tensors[bias] = require_finite(scaled, bias)
        if change is None and (not isinstance(rank, int) or rank == module.rank):
            down, up = module.down.read(), module.up.read()
            if name in shares:
                up = require_finite((shares[name] * up.double()).to(up.dtype), name)
            errors[name] = 0.0
        else:
            wanted = module.rank if rank == "keep" else rank if isinstance(rank, int) else None
            whole = module.update().scaled(shares.get(name, 1)) if change is None else change(module.update())
            cut, errors[name] = whole.cut(wanted)
            down, up = (require_finite(factor, name) for factor in module.tensors(cut))
        ranks[name] = down.shape[0]
        tensors |= dict(zip(module.tensor_names(), (down, up), strict=True))
    return Rewritten(_config(adapter, ranks), tensors, ranks, errors)


def _config(adapter: LoraAdapter, ranks: Mapping[str, int]) -> dict[str, Any]:
    """The adapter's config with the ranks and alphas that are not the usual ones in the patterns, by full name."""
    config = dict(adapter.config)
    alphas: dict[str, float] = {}
    for name, module in adapter.modules.items():
        alpha = module.scale * (ranks[name] ** 0.5 if config.get("use_rslora") else ranks[name])
        # 16 rather than 16.000000000000004: alphas are whole numbers nearly always.
        is_whole = abs(alpha - round(alpha)) < 1e-9 * max(1.0, abs(alpha))
        alphas[name] = round(alpha) if is_whole else alpha
    config["r"], config["rank_pattern"] = usual_and_pattern(ranks)
    config["lora_alpha"], config["alpha_pattern"] = usual_and_pattern(alphas)
    # PEFT runs the start when it loads the adapter, before the stored factors replace what it made: an orthogonal one
    # fails at odd ranks, and others cost a decomposition of every matrix.
    config["init_lora_weights"] = True
    if config.get("eva_config") is not None:
        config["eva_config"] = None
    return config


def _not_plain(config: AdapterConfig) -> str | None:
    if config.peft_type != "LORA":
        return f"is a PEFT adapter of type {config.peft_type}"
    if config.flag("use_dora"):
        return "is a DoRA adapter"
    if config.names("target_parameters"):
        return "adapts parameters (target_parameters)"
    if changes_the_base(config.values.get("init_lora_weights")):
        return f"repeats its start when it is loaded (init_lora_weights = {config.values['init_lora_weights']!r})"
    variant = next((key for key in _VARIANTS if config.values.get(key)), None)
    return None if variant is None else f"is a variant of LoRA ({variant})"
