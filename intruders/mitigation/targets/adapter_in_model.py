"""A mitigated LoRA adapter put into a PeftModel, beside the one that it came from."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...checkpoints.formats.memory import describe_module, tensors_of_adapter
from ...checkpoints.opening.open import Source
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.writing.lora_adapter import LoraAdapter, Rank, Rewritten, lora_adapter
from ...checkpoints.writing.merged import Elsewhere, everywhere_as_tuned
from ...errors import CheckpointError, SettingError
from ...system.progress import Progress
from .adapter_folder import LoraContent
from .target import ChangedMatrix, Written

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class ModelTarget:
    """A PeftModel, whose active adapter gets a sibling of another name, which becomes the active one."""

    form = "adapter"

    model: nn.Module
    old_name: str
    new_name: str
    content: LoraContent
    sides: tuple[Source | None, Source]

    @classmethod
    def of(
        cls,
        base: Checkpoint,
        model: nn.Module,
        name: str,
        rank: Rank,
        sides: tuple[Source | None, Source],
    ) -> ModelTarget:
        """Build the target; raise CheckpointError if the model's active adapter is not a plain LoRA, or ties two."""
        old_name, adapter = active_lora(model)
        content = LoraContent.of(base, adapter, rank)
        tied = next((own for own in base.tied if own in {*content.modules, *content.in_full.values()}), None)
        if tied is not None:
            raise CheckpointError(
                f"{adapter.source} changes '{tied}' with '{base.tied[tied]}', and PEFT gives a tied head no second "
                "adapter; pass out, the folder to write"
            )
        return cls(model, old_name, name, content, sides)

    @contextmanager
    def writing(
        self,
        changed: Mapping[str, ChangedMatrix],
        progress: Progress,
        elsewhere: Elsewhere = everywhere_as_tuned,
    ) -> Iterator[Written]:
        content, cut = self.content.rewritten(changed, elsewhere)
        add_adapter(self.model, self.old_name, self.new_name, content)
        yield Written(*self.sides, cut)


def active_lora(model: nn.Module) -> tuple[str, LoraAdapter]:
    """Name and content of the one active adapter of a PeftModel.

    Raises:
      CheckpointError: several adapters are active, or it is no plain LoRA.
    """
    from peft import get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer

    source = describe_module(model)
    peft: Any = model
    active = [peft.active_adapters] if isinstance(peft.active_adapters, str) else list(peft.active_adapters)
    if len(active) != 1:
        raise CheckpointError(f"{source} has {len(active)} active adapters; make one active with set_adapter")
    name = active[0]
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    scales = {
        path.removeprefix(_PREFIX): float(module.scaling[name])
        for path, module in model.named_modules()
        if isinstance(module, LoraLayer) and name in module.scaling
    }
    config = peft.peft_config[name].to_dict()
    return name, lora_adapter(tensors_of_adapter(state), config, f"{source}, adapter '{name}'", scales)


def check_name(model: nn.Module, adapter_name: str) -> None:
    peft: Any = model
    if adapter_name in peft.peft_config:
        raise SettingError(f"the model has an adapter '{adapter_name}' already; pass another adapter_name")
    if not adapter_name or "." in adapter_name:
        raise SettingError(f"adapter_name is {adapter_name!r}; expected a name without dots")


def add_adapter(model: nn.Module, old: str, adapter_name: str, content: Rewritten) -> None:
    """Put the adapter into the model under ``adapter_name`` and make it the active one; ``old`` stays as it is."""
    from peft import set_peft_model_state_dict

    peft: Any = model
    config = copy.deepcopy(peft.peft_config[old])
    config.r, config.lora_alpha = content.config["r"], content.config["lora_alpha"]
    config.rank_pattern, config.alpha_pattern = (
        content.config["rank_pattern"],
        content.config["alpha_pattern"],
    )
    # The values that the new layers start from are overwritten; some starts cost minutes, or need data.
    config.init_lora_weights = False
    peft.add_adapter(adapter_name, config)
    set_peft_model_state_dict(model, content.tensors, adapter_name=adapter_name)
    peft.set_adapter(adapter_name)
