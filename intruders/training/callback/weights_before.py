"""The model before a training, with which its audits compare: taken while it is available, and opened once."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...audits.audit_settings import AS_USUAL, AuditSettings
from ...checkpoints.adapters.adapter import Adapter
from ...checkpoints.adapters.by_formula import widened
from ...checkpoints.adapters.peft_adapter import start_that_changed
from ...checkpoints.formats.memory import (
    describe_module,
    has_adapters,
    module_checkpoint,
    trained_matrices,
    with_copies,
)
from ...checkpoints.opening.model_sum import ModelSum
from ...checkpoints.opening.open import Opened, Source, open_checkpoint, open_source
from ...checkpoints.pairing.open_sides import open_sides
from ...checkpoints.pairing.pair_sides import pair_sides
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.selection import EVERY_MATRIX
from ...errors import CheckpointError, SettingError, some_of
from .sharding import sharded_by


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
