"""What the audits of a training count from, taken before its first step.

That is the base, opened once, the factors A that an adapter began with, and digests of both.
"""

import json
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...audits.audit_settings import AS_USUAL, AuditSettings
from ...checkpoints.adapters.adapter import Adapter
from ...checkpoints.adapters.by_formula import widened
from ...checkpoints.adapters.peft_adapter import start_that_changed
from ...checkpoints.formats.memory import (
    COMPILED_WRAPPER,
    addresses_of_matrices,
    describe_module,
    has_adapters,
    module_checkpoint,
    state_dict_checkpoint,
    trained_matrices,
    with_copies,
)
from ...checkpoints.opening.model_sum import ModelSum
from ...checkpoints.opening.open import Opened, Source, open_checkpoint, open_source
from ...checkpoints.pairing.open_sides import open_sides
from ...checkpoints.pairing.pair_sides import pair_sides
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.content import Digests, content_digests
from ...checkpoints.stored.selection import EVERY_MATRIX
from ...errors import CheckpointError, SettingError, some_of
from ...system.documents import read_document
from ...system.files import write_atomically
from .sharding import sharded_by, will_be_sharded_by

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


def weights_before(model: nn.Module, is_resumed: bool, settings: AuditSettings) -> Checkpoint | None:
    """Copy the matrices that training will change; None if it changes none that is audited beneath an adapter."""
    start = start_that_changed(model) if has_adapters(model) else None
    if has_adapters(model) and start is None and not audited_in_training(model, settings):
        return None
    if is_resumed:
        raise SettingError(
            f"the weights of {describe_module(model)} are those of a resumed training, and the audits need those "
            "before it; pass base= with the model before fine-tuning"
        )
    own, tuned = (module_checkpoint(model), None) if start is None else open_sides(model, model)
    trained = trained_matrices(model)
    copies = {name: t.detach().cpu().clone() for name, t in trained.items() if name in own.tensors}
    if start is None:
        copied = with_copies(own, copies)
        # Beneath adapters the frozen matrices belong to the base too: an adapter may act on them.
        return replace(own, tensors={**own.tensors, **copied.tensors}) if has_adapters(model) else copied
    # Copies with the adapters merged, each in the order in which it is stored.
    assert isinstance(tuned, ModelSum)
    adapters = replace(tuned, parts=[part for part in tuned.parts if isinstance(part[0], Adapter)])
    for matrix in pair_sides(own, adapters, EVERY_MATRIX).pairs:
        both = matrix.load()
        if both is None:
            copies[matrix.name] = own.read(matrix.name).clone()
            continue
        whole = both.widened().dense().to(widened(both.base).dtype)
        stored = whole.mT if matrix.name in own.input_first else whole
        copies[matrix.name] = stored.reshape(own.shape(matrix.name)).clone()
    return with_copies(own, copies)


def audited_in_training(model: nn.Module, settings: AuditSettings) -> dict[str, Tensor]:
    """Return the matrices that training changes, without adapters, as far as the audits examine them."""
    return {
        name: tensor
        for name, tensor in trained_matrices(model).items()
        if settings.reason_to_leave_out(name) is None
    }


def checkpoint_of_training(model: nn.Module) -> str | None:
    """Return the Trainer's checkpoint that a model was loaded from, whose weights training has changed already."""
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    if not isinstance(name, str) or not name:
        return None
    return name if (Path(name) / "trainer_state.json").is_file() else None


def base_of_sharded(model: nn.Module, base: Source | None) -> Source:
    """Return the base of a model with sharded weights: the given one, or the one that its adapter names."""
    start = start_that_changed(model) if has_adapters(model) else None
    if start is not None:
        raise SettingError(
            f"the adapter's start '{start}' changed the weights beneath it, and these are split over processes, so "
            "that its update cannot be measured during training; audit the saved checkpoints with 'intruders audit'"
        )
    if base is not None:
        return base
    if not has_adapters(model):
        raise SettingError(
            f"{describe_module(model)} is sharded already, and no process has the weights before training; pass "
            "base= with the model before fine-tuning, or pass the callback to the Trainer when you make it"
        )
    configs: Any = model.peft_config
    names = {str(named) for config in configs.values() if (named := config.base_model_name_or_path)}
    if len(names) != 1:
        raise SettingError(
            f"the base beneath the adapter is sharded, and the adapter names {len(names)} bases on disk; expected "
            "one; pass base= with the model before fine-tuning"
        )
    name = names.pop()
    try:
        return open_checkpoint(name)
    except CheckpointError as error:
        raise CheckpointError(
            f"the base beneath the adapter is sharded, and {name!r}, which the adapter names, cannot be opened; "
            f"pass base= with the model before fine-tuning ({error})"
        ) from None


def require_loadable(model: nn.Module, args: Any) -> None:
    """Raise SettingError if the Trainer cannot save and load a state of the model."""
    if getattr(args, "load_best_model_at_end", False) or getattr(args, "metric_for_best_model", None):
        raise SettingError(
            "the Trainer has a best checkpoint of its own (load_best_model_at_end or metric_for_best_model), and a "
            "limit makes the kept state that; pass one of the two"
        )
    if not has_adapters(model):
        return
    active: Any = getattr(model, "active_adapters", None)
    if callable(active) or len(active or ()) > 1:
        raise SettingError(
            "a state of the model cannot be kept: its Trainer loads one adapter of a PeftModel alone; wrap the model "
            "by peft.get_peft_model with one adapter, or leave keep_forgetting_below and keep_intruders_below out"
        )
    if sharded_by(model) is not None:
        return
    from peft import get_peft_model_state_dict

    peft_model: Any = model
    state = model.state_dict(keep_vars=True)
    states = [
        get_peft_model_state_dict(model, state_dict=state, adapter_name=name, save_embedding_layers=False)
        for name in peft_model.peft_config
    ]
    saved = {id(tensor) for of_adapter in states for tensor in of_adapter.values()}
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    # Norms in LongLoRA, for one.
    lost = [name.removeprefix("base_model.model.") for name, tensor in trained if id(tensor) not in saved]
    if lost:
        raise SettingError(
            f"a state of the model cannot be kept: {some_of(lost)} beneath its adapters is trained and not saved "
            "with them; freeze it or name its module in modules_to_save, or leave keep_forgetting_below and "
            "keep_intruders_below out"
        )


def require_matrices(base: Source | None, model: nn.Module, settings: AuditSettings) -> None:
    """Raise what an audit of ``model`` against ``base`` (its own, when None) would raise, by names and shapes alone."""
    if base is not None and has_adapters(model) and start_that_changed(model) is None:
        # Whether the weights beneath the adapter are the base's is left to the audits, which read them.
        sides = open_checkpoint(base), open_source(model)
    else:
        sides = open_sides(base, model)
    pairing = pair_sides(*sides, settings)
    # Matrices that are unfrozen beneath an adapter are not part of it.
    if not pairing.pairs and not (has_adapters(model) and audited_in_training(model, settings)):
        raise SettingError(
            f"include {list(settings.include)} and exclude {list(settings.exclude)} leave none of the matrices that "
            "the training changes (embeddings are not audited); expected at least one; choose other patterns"
        )


class AuditedBase:
    """A base; None stands for the weights in memory, beneath an adapter.

    If it was ``taken_from`` a model, matrices that are unfrozen later have no weights before training.
    """

    def __init__(
        self,
        base: Source | None = None,
        settings: AuditSettings = AS_USUAL,
        taken_from: nn.Module | None = None,
    ) -> None:
        self._base, self._settings = base, settings
        # What is trained of the model that it was taken from, and which matrices of that are known.
        self._trained = None if taken_from is None else _trained_parameters(taken_from)
        self._known = set() if taken_from is None else set(audited_in_training(taken_from, settings))
        # The same, open, once it is known to be what the model acts on.
        self._frozen: Checkpoint | None = None

    def sides(self, tuned: nn.Module | Opened) -> tuple[Checkpoint, Opened]:
        """Return the base and the model as it is now.

        The check that weights beneath an adapter are those of the base reads both. If training leaves them unchanged,
        it runs once. Weights that are split over processes are not read: they count as those of the base.
        """
        if not isinstance(tuned, nn.Module):
            assert self._base is not None
            self._frozen = self._frozen or open_checkpoint(self._base)
            return self._frozen, tuned
        # Names without adapters take long to find where there are many.
        if self._trained is not None and (trained := _trained_parameters(tuned)) != self._trained:
            self._trained = trained
            now_trained = audited_in_training(tuned, self._settings)
            if unfrozen := [name for name in now_trained if name not in self._known]:
                self._known.update(unfrozen)
                warnings.warn(
                    f"{len(unfrozen)} matrices were unfrozen since the weights before training were taken "
                    f"({some_of(unfrozen)}), and the audits leave them out; pass base= with the model before "
                    "fine-tuning",
                    stacklevel=2,
                )
        if self._frozen is not None:
            return self._frozen, open_source(tuned)
        base, now = open_sides(self._base, tuned, with_embeddings=self._settings.include_embeddings)
        acts_on_base = isinstance(now, Adapter) or (
            isinstance(now, ModelSum) and all(isinstance(part, Adapter) for part, _ in now.parts)
        )
        if has_adapters(tuned) and acts_on_base and not trained_matrices(tuned):
            self._frozen = base
        return base, now


def _trained_parameters(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


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
