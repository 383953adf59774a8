"""What the audits of a training count from: the base, the factors A that an adapter began with, and digests of both."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...audits.audit_settings import AuditSettings
from ...checkpoints.adapters.peft_adapter import start_that_changed
from ...checkpoints.formats.memory import (
    COMPILED_WRAPPER,
    addresses_of_matrices,
    describe_module,
    has_adapters,
    state_dict_checkpoint,
    trained_matrices,
)
from ...checkpoints.opening.open import Opened, Source
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.content import Digests, content_digests
from ...errors import SettingError, some_of
from ...system.documents import read_document
from ...system.files import write_atomically
from ...system.plain_values import from_plain
from .sharding import sharded_by, will_be_sharded_by
from .weights_before import (
    AuditedBase,
    audited_in_training,
    base_of_sharded,
    checkpoint_of_training,
    question_checkpoint,
    require_matrices,
    require_trained_matrix,
    weights_before,
)

_FACTOR = re.compile(
    r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?:embedding_)?A\.(?P<adapter>[^.]+)(?:\.weight)?$"
)


class StartOfA:
    """The factors A of a model's LoRA as they are now, by name, kept to measure from."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.factors = {
            factor[0]: tensor.detach().cpu().clone() for factor, tensor in _factors(tensors) if tensor.numel()
        }

    @classmethod
    def of(cls, model: nn.Module) -> StartOfA:
        """Keep the factors of a model's active adapters, whose weights are not split over processes.

        An adapter that is not active is not part of the update, nor does training move it.
        """
        layers = [module for module in model.modules() if hasattr(module, "lora_A")]
        active = {adapter for layer in layers for adapter in getattr(layer, "active_adapters", ())}
        factors = _factors(dict(model.named_parameters()))
        return cls({factor[0]: tensor for factor, tensor in factors if factor["adapter"] in active})

    def movement(self, tensors: Mapping[str, Tensor]) -> float | None:
        """Return ``sqrt(sum ||A - A_0||_F^2 / sum ||A_0||_F^2)`` over all modules; None without a LoRA."""
        squares = self._squares(tensors).values()
        return _ratio(sum(moved for moved, _ in squares), sum(start for _, start in squares))

    def by_matrix(self, tensors: Mapping[str, Tensor]) -> dict[str, float]:
        """Return ``||A - A_0||_F / ||A_0||_F`` by the name of the base's matrix."""
        ratios = {name: _ratio(*squares) for name, squares in self._squares(tensors).items()}
        return {name: ratio for name, ratio in ratios.items() if ratio is not None}

    def _squares(self, tensors: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Return ``||A - A_0||_F^2`` and ``||A_0||_F^2`` by matrix, in double precision, over its active adapters."""
        squares: dict[str, tuple[float, float]] = {}
        for factor, tensor in _factors(tensors):
            start = self.factors.get(factor[0])
            if start is not None and start.shape == tensor.shape:
                now, then = tensor.detach().cpu().double(), start.double()
                moved, began = squares.get(f"{factor['module']}.weight", (0.0, 0.0))
                squares[f"{factor['module']}.weight"] = (
                    moved + float((now - then).square().sum()),
                    began + float(then.square().sum()),
                )
        return squares


def _factors(tensors: Mapping[str, Any]) -> Iterator[tuple[re.Match[str], Tensor]]:
    """Yield each factor A with what its name says: the module, as in a model that is not compiled, and the adapter."""
    for name, tensor in tensors.items():
        factor = _FACTOR.match(name.replace(COMPILED_WRAPPER, ""))
        if factor is not None:
            yield factor, tensor


def _ratio(moved: float, start: float) -> float | None:
    return math.sqrt(moved / start) if start > 0 else None


_SCHEMA = 1


@dataclass(frozen=True)
class StartDigests:
    """The content of the weights before training, by name, as far as the audits count from these in memory.

    It is kept beside the trace, since a resumed script may draw another start.
    """

    matrices: Digests = field(default_factory=dict)
    factors: Digests = field(default_factory=dict)  # the factors A of a LoRA

    @classmethod
    def of(
        cls,
        model: nn.Module,
        copied: Checkpoint | None,
        is_own_base: bool,
        factors: Mapping[str, Tensor],
        settings: AuditSettings,
    ) -> StartDigests:
        """Digest the matrices that the audits count from: copies, or what adapters train beside their factors A."""
        matrices: Digests = {}
        if is_own_base and has_adapters(model):
            from peft.utils.other import ModulesToSaveWrapper

            beneath = {
                f"{path}.{name}".removeprefix("base_model.model."): parameter
                for path, module in model.named_modules()
                if isinstance(module, ModulesToSaveWrapper)
                for name, parameter in module.original_module.named_parameters()
                if parameter.ndim >= 2
            }
            if start_that_changed(model) is None:  # such a start may round otherwise in another process
                beneath |= audited_in_training(model, settings)
            matrices = content_digests(state_dict_checkpoint(beneath))
        elif copied is not None:
            matrices = content_digests(copied)
        return cls(matrices, content_digests(state_dict_checkpoint(factors)))


def _changed(kept: Digests, now: Digests) -> list[str]:
    return [name for name, digest in now.items() if name in kept and kept[name] != digest]


@dataclass
class TrainingStart:
    """The start of one training, taken before its first step; empty on a process that does not audit."""

    base: AuditedBase = field(default_factory=AuditedBase)
    checkpoint: str | None = None  # of an earlier training, whose weights were taken as the base
    factors: StartOfA | None = None
    digests: StartDigests | None = None  # where a trace is written, which a resumed training adds to

    @classmethod
    def of(
        cls,
        model: nn.Module,
        given: Source | None,
        settings: AuditSettings,
        *,
        is_first: bool,
        is_resumed: bool,
        has_trace: bool,
    ) -> TrainingStart:
        """Take the start, and raise what the first audit would raise as far as is known.

        Without a ``given`` base it is that of the weights that the model has now. Only the first process audits; the
        others need no copy of the weights.
        """
        # The model itself, or its state dict, changes as it trains: it stands for the weights that it has now.
        places = addresses_of_matrices(given)
        is_of_model = bool(places) and any(m.data_ptr() in places for m in trained_matrices(model).values())
        base, copied, is_own_base = None if is_of_model else given, None, False
        start = cls()
        if sharded_by(model) is not None:
            base = base_of_sharded(model, base)
        else:
            require_trained_matrix(model)
            if will_be_sharded_by() is not None and has_adapters(model):
                base = base_of_sharded(model, base)
            elif base is None:
                base = copied = weights_before(model, is_resumed, settings)
                is_own_base = True
                start.checkpoint = None if base is None else checkpoint_of_training(model)
            require_matrices(base, model, settings)
            if not is_resumed:
                start.factors = StartOfA.of(model)
        if is_first:
            start.base = AuditedBase(base, settings, taken_from=model if is_own_base else None)
            if has_trace:
                factors = {} if start.factors is None else start.factors.factors
                start.digests = StartDigests.of(model, copied, is_own_base, factors, settings)
        return start

    def begin(self, trace: Path | None, model: nn.Module, is_resumed: bool) -> None:
        """Record what a training begins with; of a resumed one, refuse or leave out what it did not begin with."""
        if self.checkpoint is not None:
            question_checkpoint(self.checkpoint, is_resumed)
        if self.digests is None or trace is None:
            return
        file = trace.with_name(f"{trace.stem}-start.json")
        if not is_resumed:
            content = {"schema": _SCHEMA} | asdict(self.digests)
            write_atomically(file, json.dumps(content, indent=2).encode())
            return
        document = read_document(file, "the record of a training's start", _SCHEMA)
        if document is None:
            return  # without a record they count as the same
        kept = from_plain(StartDigests, document)
        if changed := _changed(kept.matrices, self.digests.matrices):
            raise SettingError(
                f"the weights of {describe_module(model)} are not those that the resumed training began with "
                f"({some_of(changed)}), and the audits need those; pass base= with the model before fine-tuning, or "
                "set the same seed before you make the model"
            )
        if _changed(kept.factors, self.digests.factors):
            self.factors = None
            warnings.warn(
                "the factors A of the LoRA are not those that the resumed training began with, so that a_movement is "
                "left out; set the same seed before you make the adapter",
                stacklevel=2,
            )

    def movement(
        self, tuned: nn.Module | Opened, gathered: Mapping[str, Tensor] | None
    ) -> tuple[float | None, dict[str, float]]:
        """Return how far the factors A have moved in all, and by matrix; of a split model they are ``gathered``."""
        if self.factors is None:
            return None, {}
        now = dict(tuned.named_parameters()) if isinstance(tuned, nn.Module) else gathered or {}
        return self.factors.movement(now), self.factors.by_matrix(now)
