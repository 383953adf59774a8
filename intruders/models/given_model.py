"""A model or an adapter as it was given, and what its files say of it before any weights are loaded."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checkpoints.adapters.adapter import AdapterConfig
from ..checkpoints.adapters.peft_adapter import stored_adapter
from ..checkpoints.opening.model_sum import is_sum
from ..checkpoints.stored.json_file import read_json_object
from ..checkpoints.stored.locate import locate
from ..checkpoints.writing.training_record import FinetunedFolder
from ..errors import CheckpointError
from .base_model import base_model_location

_HEAD = re.compile(r"\.(?:score|classifier)(?:\.out_proj|\.out)?\.weight$")


@dataclass(frozen=True)
class GivenModel:
    """A model's folder or Hub id, or an adapter and the base that it is put on; its files are read when asked."""

    source: str
    base: str | None = None  # as given; without it, the one that an adapter names

    @cached_property
    def path(self) -> Path:
        return locate(self.source)

    @cached_property
    def adapter(self) -> AdapterConfig | None:
        """The settings of an adapter in PEFT's form; None for another model, CheckpointError for a sum of models."""
        if is_sum(self.source):
            raise CheckpointError(
                f"{self.source!r} is a sum of models or has a weight, and this measurement needs a plain model; write "
                "it with 'intruders scale BASE SUM --at 1 --out FOLDER', and pass that folder"
            )
        stored = stored_adapter(self.path, self.source)
        return None if stored is None else AdapterConfig(stored.config, self.source)

    @cached_property
    def is_classifier(self) -> bool:
        """Whether it was trained as a sequence classifier."""
        if self.adapter is not None:
            return self.adapter.values.get("task_type") == "SEQ_CLS"
        file = self.path / "config.json"
        architectures = read_json_object(file).get("architectures") if file.is_file() else None
        return any(name.endswith("ForSequenceClassification") for name in architectures or [])

    @cached_property
    def location(self) -> str:
        """Where the model is that transformers loads first: an adapter's base, or the model itself."""
        if self.adapter is None:
            return base_model_location(self.source)
        named = self.base or self.adapter.base_source
        if not named:
            raise CheckpointError(f"adapter {self.source!r} does not name its base; pass it with --base")
        try:
            return base_model_location(named)
        except CheckpointError as error:
            raise CheckpointError(f"adapter {self.source!r}: {error}; pass the base with --base") from error

    @property
    def with_language_head(self) -> str:
        """Where a language model's head is: a classifier that was trained in full has none, and its base has one."""
        if self.adapter is None and self.is_classifier:
            return base_model_location(self.base or self.training.base or self.source)
        return self.location

    @cached_property
    def training(self) -> FinetunedFolder:
        return FinetunedFolder.of(self.source)

    def weights(self) -> list[str]:
        """All sources of the weights of the opened model: the model, what it is put on, and its head."""
        return list(dict.fromkeys([self.source, self.location, self.with_language_head]))

    def tensors_of_adapter(self) -> dict[str, Any]:
        from peft import load_peft_weights

        return dict(load_peft_weights(str(self.path), device="cpu"))

    def classes_of_head(self) -> int | None:
        """Count the classes of the head that an adapter was trained with; None if it has stored none."""
        tensors = self.tensors_of_adapter()
        return next((len(tensors[name]) for name in tensors if _HEAD.search(name)), None)
