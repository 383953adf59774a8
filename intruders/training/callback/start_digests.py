"""Digests of what a training's audits count from, kept beside the trace: a resumed script may draw another start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor, nn

from ...audits.audit_settings import AuditSettings
from ...checkpoints.adapters.peft_adapter import start_that_changed
from ...checkpoints.formats.memory import describe_module, has_adapters, state_dict_checkpoint
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.content import Digests, content_digests
from ...errors import SettingError, some_of
from ...system.documents import get_field, read_document
from ...system.files import write_atomically
from .weights_before import audited_in_training

_SCHEMA = 1


@dataclass(frozen=True)
class StartDigests:
    """The content of the weights before training, by name, as far as the audits count from these in memory."""

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
        """Digest a model before training.

        Args:
          model: the model; beneath its adapters, the modules that they train in full and what was unfrozen are
            digested.
          copied: the copies of its matrices that the audits count from, if it has no adapters.
          is_own_base: whether the audits count from the model's own weights at all.
          factors: the factors A of its LoRA.
          settings: those of the audits.
        """
        matrices: Digests = {}
        if is_own_base and has_adapters(model):
            beneath = _beneath_modules_to_save(model)
            if start_that_changed(model) is None:  # such a start may round otherwise in another process
                beneath |= audited_in_training(model, settings)
            matrices = content_digests(state_dict_checkpoint(beneath))
        elif is_own_base and copied is not None:
            matrices = content_digests(copied)
        return cls(matrices, content_digests(state_dict_checkpoint(factors)))

    def write_beside(self, trace: Path) -> None:
        """Keep them for a training that resumes this one."""
        content = json.dumps({"schema": _SCHEMA} | asdict(self), indent=2).encode()
        write_atomically(_file_beside(trace), content)

    def require_same(self, trace: Path, model: nn.Module) -> bool:
        """Compare with the training that is resumed, and return whether the factors A are those that it began with.

        Without a record, as of an earlier version, they count as the same.

        Raises:
          SettingError: a matrix is not what that training began with.
        """
        file = _file_beside(trace)
        document = read_document(file, "the record of a training's start", _SCHEMA)
        if document is None:
            return True
        kept = StartDigests(*(get_field(document, key, str(file), dict) for key in ("matrices", "factors")))
        if changed := _changed(kept.matrices, self.matrices):
            raise SettingError(
                f"the weights of {describe_module(model)} are not those that the resumed training began with "
                f"({some_of(changed)}), and the audits need those; pass base= with the model before fine-tuning, or "
                "set the same seed before you make the model"
            )
        return not _changed(kept.factors, self.factors)


def _file_beside(trace: Path) -> Path:
    return trace.with_name(f"{trace.stem}-start.json")


def _changed(kept: Digests, now: Digests) -> list[str]:
    return [name for name, digest in now.items() if name in kept and kept[name] != digest]


def _beneath_modules_to_save(model: nn.Module) -> dict[str, Tensor]:
    """Return the matrices of which adapters train a copy, by their names in the base."""
    from peft.utils.other import ModulesToSaveWrapper

    return {
        f"{path}.{name}".removeprefix("base_model.model."): parameter
        for path, module in model.named_modules()
        if isinstance(module, ModulesToSaveWrapper)
        for name, parameter in module.original_module.named_parameters()
        if parameter.ndim >= 2
    }
