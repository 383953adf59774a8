"""What the audits of a training count from: the base, the factors A that an adapter began with, and digests of both."""

import json
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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
from ...checkpoints.opening.open import Source
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.content import Digests, content_digests
from ...errors import SettingError, some_of
from ...system.documents import read_document
from ...system.files import write_atomically
from .sharding import sharded_by, will_be_sharded_by
from .weights_before import (
    AuditedBase,
    audited_in_training,
    base_of_sharded,
    checkpoint_of_training,
    require_matrices,
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
    def of(cls, model: nn.Module) -> "StartOfA":
        """Keep the factors of the active adapters of a model that is not split: training moves no other."""
        layers = [module for module in model.modules() if hasattr(module, "lora_A")]
        active = {adapter for layer in layers for adapter in getattr(layer, "active_adapters", ())}
        factors = _factors(dict(model.named_parameters()))
        return cls({factor[0]: tensor for factor, tensor in factors if factor["adapter"] in active})

    def movement(self, tensors: Mapping[str, Tensor]) -> tuple[float | None, dict[str, float]]:
        """Return ``sqrt(sum ||A - A_0||_F^2 / sum ||A_0||_F^2)`` over all modules, and by the base's matrix.

        That of all is None without a LoRA. Sums are over the active adapters, in double precision.
        """
        moved, began = defaultdict[str, float](float), defaultdict[str, float](float)
        for factor, tensor in _factors(tensors):
            start = self.factors.get(factor[0])
            if start is not None and start.shape == tensor.shape:
                now, then = tensor.detach().cpu().double(), start.double()
                moved[f"{factor['module']}.weight"] += float((now - then).square().sum())
                began[f"{factor['module']}.weight"] += float(then.square().sum())
        by_matrix = {name: math.sqrt(moved[name] / size) for name, size in began.items() if size > 0}
        whole = sum(began.values())
        return math.sqrt(sum(moved.values()) / whole) if whole > 0 else None, by_matrix


def _factors(tensors: Mapping[str, Any]) -> Iterator[tuple[re.Match[str], Tensor]]:
    """Yield each factor A with what its name says: the module, as in a model that is not compiled, and the adapter."""
    for name, tensor in tensors.items():
        factor = _FACTOR.match(name.replace(COMPILED_WRAPPER, ""))
        if factor is not None:
            yield factor, tensor


_SCHEMA = 1


def _trained_beneath(model: nn.Module, settings: AuditSettings) -> Checkpoint:
    """Return the matrices that adapters train beside their factors A, as they are before training."""
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
    return state_dict_checkpoint(beneath)


@dataclass
class TrainingStart:
    """The start of one training, taken before its first step; empty on a process that does not audit."""

    base: AuditedBase = field(default_factory=AuditedBase)
    checkpoint: str | None = None  # of an earlier training, whose weights were taken as the base
    factors: StartOfA = field(default_factory=lambda: StartOfA({}))
    # Of the matrices that the audits count from in memory, and of the factors A, by name: a resumed script may draw
    # others. None without a trace, beside which they are kept.
    digests: dict[str, Digests] | None = None

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
    ) -> "TrainingStart":
        """Take the start, by default from the model's own weights, and raise what the first audit would raise."""
        # The model itself, or its state dict, changes as it trains: it stands for the weights that it has now.
        places = addresses_of_matrices(given)
        is_of_model = bool(places) and any(m.data_ptr() in places for m in trained_matrices(model).values())
        base, copied, is_own_base = None if is_of_model else given, None, False
        start = cls()
        if sharded_by(model) is not None:
            base = base_of_sharded(model, base)
        else:
            is_trained = any(p.requires_grad and p.ndim >= 2 for p in model.parameters())
            if not has_adapters(model) and not is_trained:
                raise SettingError(
                    f"the Trainer's {type(model).__name__} has no trainable matrix to audit; unfreeze one before you "
                    "make the callback, or remove the callback"
                )
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
                counted = _trained_beneath(model, settings) if is_own_base and has_adapters(model) else copied
                start.digests = {
                    "matrices": {} if counted is None else content_digests(counted),
                    "factors": content_digests(state_dict_checkpoint(start.factors.factors)),
                }
        return start

    def begin(self, trace: Path | None, model: nn.Module, is_resumed: bool) -> None:
        """Record what a training begins with; of a resumed one, refuse or leave out what it did not begin with."""
        if self.checkpoint is not None and is_resumed:
            raise SettingError(
                f"the model was loaded from '{self.checkpoint}', a checkpoint of the training that is resumed, and the "
                "audits need the weights before it; pass base= with the model before fine-tuning"
            )
        if self.checkpoint is not None:
            warnings.warn(
                f"the weights in '{self.checkpoint}', a checkpoint of an earlier training, count as the base; "
                "pass base= to measure from another model",
                stacklevel=2,
            )
        if self.digests is None or trace is None:
            return
        file = trace.with_name(f"{trace.stem}-start.json")
        if not is_resumed:
            content = {"schema": _SCHEMA, **self.digests}
            write_atomically(file, json.dumps(content, indent=2).encode())
            return
        document = read_document(file, "the record of a training's start", _SCHEMA)
        if document is None:
            return  # without a record they count as the same
        changed, moved = (
            [name for name, digest in now.items() if document.get(kind, {}).get(name, digest) != digest]
            for kind, now in self.digests.items()
        )
        if changed:
            raise SettingError(
                f"the weights of {describe_module(model)} are not those that the resumed training began with "
                f"({some_of(changed)}), and the audits need those; pass base= with the model before fine-tuning, or "
                "set the same seed before you make the model"
            )
        if moved:
            self.factors = StartOfA({})
            warnings.warn(
                "the factors A of the LoRA are not those that the resumed training began with, so that a_movement is "
                "left out; set the same seed before you make the adapter",
                stacklevel=2,
            )
