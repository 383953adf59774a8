"""Where a remedy's result goes, and what writing did to it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoints.adapters.peft_adapter import ADAPTER_CONFIG
from ...checkpoints.opening.open import Source
from ...checkpoints.stored.checkpoint import tensor_in_memory
from ...checkpoints.writing.merged import Elsewhere
from ...checkpoints.writing.shards import write_safetensors
from ...system.result_protocol import JsonResult
from ..remedies.changes import Change


@dataclass(frozen=True)
class Changes:
    """What becomes of a tuned model."""

    matrices: Mapping[str, Change]  # by the base's names
    elsewhere: Elsewhere  # the share of its update that any other tensor keeps


@dataclass(frozen=True)
class Cut:
    """The ranks of updates after writing, by the base's names of the matrices."""

    ranks: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)  # relative, in the Frobenius norm


@dataclass(frozen=True)
class Written:
    """A model that a remedy changed, as an audit opens it."""

    base: Source | None
    tuned: Source
    cut: Cut
    folder: Path | None = None  # None in memory
    lines: list[str] = field(default_factory=list)  # of its model card

    def keep(self, name: str, record: JsonResult) -> None:
        """Save a result beside the weights, and what it says in the model card; in memory there is no place for it."""
        if self.folder is not None:
            record.save(self.folder / name)
            self.lines.extend(record.in_card())


def write_adapter(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> None:
    weights = {name: tensor_in_memory(tensor) for name, tensor in tensors.items()}
    write_safetensors(folder / "adapter_model.safetensors", weights, metadata=metadata)
    text = json.dumps(config, indent=2, sort_keys=True, default=_plain)
    (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")


def _plain(value: object) -> object:
    """Convert sets and enumerations, which a config in memory has, to JSON types."""
    return sorted(value) if isinstance(value, set | frozenset) else str(getattr(value, "value", value))
