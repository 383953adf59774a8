"""Where mitigated weights go: a LoRA adapter (in a folder or a model), or a full checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...checkpoints.adapters.adapter import Adapter
from ...checkpoints.adapters.peft_adapter import ADAPTER_CONFIG
from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.locate import locate
from ...checkpoints.model_sum import ModelSum
from ...checkpoints.open import Opened, Source
from ...checkpoints.writing.lora_adapter import (
    LoraAdapter,
    Rank,
    Rewritten,
    is_plain_lora,
    modules_of_pairs,
    read_lora_folder,
    rewritten,
)
from ...checkpoints.writing.shards import planned, write_safetensors
from ...errors import CheckpointError
from ...linalg.low_rank import LowRank
from .adapter_in_model import active_lora, add_adapter
from .new_adapter import NewLoraTarget
from .target import Written


@dataclass(frozen=True)
class LoraTarget:
    """The LoRA adapter that was given, with new factors where it changes."""

    adapter: LoraAdapter
    modules: dict[str, str]  # base's matrix -> the adapter's module
    rank: Rank
    own_name: str | None = None  # of the adapter, in a model

    @classmethod
    def in_model(cls, base: Checkpoint, model: nn.Module, rank: Rank) -> LoraTarget:
        """Raises CheckpointError when the model's active adapter is no plain LoRA."""
        name, adapter = active_lora(model)
        return cls(adapter, modules_of_pairs(base, adapter), rank, name)

    @classmethod
    def in_folder(cls, base: Checkpoint, folder: Path, source: str, rank: Rank) -> LoraTarget:
        adapter = read_lora_folder(folder, source)
        return cls(adapter, modules_of_pairs(base, adapter), rank)

    def content(self, updates: Mapping[str, LowRank]) -> tuple[Rewritten, Written]:
        """The new adapter, of the changed updates by matrix."""
        content = rewritten(
            self.adapter, {self.modules[name]: update for name, update in updates.items()}, self.rank
        )
        names = {module: name for name, module in self.modules.items()}
        known = {module: names.get(module, module) for module in content.ranks}
        return content, Written(
            {known[module]: rank for module, rank in content.ranks.items()},
            {known[module]: error for module, error in content.errors.items()},
        )

    def write(self, folder: Path, updates: Mapping[str, LowRank]) -> Written:
        content, written = self.content(updates)
        tensors = [planned(name, tensor) for name, tensor in content.tensors.items()]
        write_safetensors(folder / "adapter_model.safetensors", tensors)
        config = json.dumps(content.config, indent=2, sort_keys=True, default=_plain)
        (folder / ADAPTER_CONFIG).write_text(config + "\n", encoding="utf-8")
        return written

    def put_into(self, model: nn.Module, adapter_name: str, updates: Mapping[str, LowRank]) -> Written:
        assert self.own_name is not None
        content, written = self.content(updates)
        add_adapter(model, self.own_name, adapter_name, content)
        return written


def _plain(value: object) -> object:
    """Sets and enumerations, which a config in memory holds, as JSON has them."""
    return sorted(value) if isinstance(value, set | frozenset) else str(getattr(value, "value", value))


def lora_target(
    base: Checkpoint, tuned: Opened, given: Source | None, model: nn.Module | None, rank: Rank
) -> LoraTarget | NewLoraTarget:
    """The adapter that was given, where it is a plain LoRA in PEFT's format; else a new one.

    Raises:
      CheckpointError, SettingError: as the two targets do.
    """
    if model is not None:
        if isinstance(tuned, ModelSum) and any(isinstance(part, Checkpoint) for part, _ in tuned.parts):
            raise CheckpointError(
                f"the weights beneath the adapter in '{tuned.source}' are not those of '{base.source}', so the update "
                "is not what the adapter alone adds; merge the adapter, and mitigate the merged model"
            )
        return LoraTarget.in_model(base, model, rank)
    if isinstance(tuned, Adapter) and isinstance(given, str | os.PathLike):
        path = locate(os.fspath(given))
        folder = path if path.is_dir() else path.parent
        if is_plain_lora(folder, tuned.source):
            return LoraTarget.in_folder(base, folder, tuned.source, rank)
    return NewLoraTarget.of(base, tuned, rank)
