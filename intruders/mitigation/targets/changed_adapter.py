"""A LoRA adapter in a folder, with new factors where it changes."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...checkpoints.adapters.peft_adapter import adapter_in
from ...checkpoints.formats.memory import describe_module
from ...checkpoints.opening.open import Source
from ...checkpoints.pairing.names_of_base import with_experts_as
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.names import looks_up_tokens, may_be_same, tensor_of
from ...checkpoints.stored.tied import HEADS
from ...checkpoints.writing.companions import TOKENIZER, companions, copy_files
from ...checkpoints.writing.lora_adapter import (
    LoraAdapter,
    Rank,
    Rewritten,
    is_beneath_factors,
    lora_adapter,
    modules_and_tensors,
    not_matched,
    retrained_tokens,
    rewritten,
)
from ...checkpoints.writing.merged import MERGE, Elsewhere, changed_tensor
from ...errors import CheckpointError, SettingError, some_of
from ...linalg.low_rank import LowRank
from ...system.progress import Progress
from ..remedies.changes import Change
from .target import Changes, Cut, Written, write_adapter


@dataclass(frozen=True)
class LoraContent:
    """The LoRA adapter that was given, with new factors where it changes."""

    base: Checkpoint
    adapter: LoraAdapter
    modules: dict[str, str]  # base's matrix -> the adapter's module
    in_full: dict[str, str]  # the adapter's tensor -> the base's
    rank: Rank
    beside: Path | None  # the adapter's folder, which may have a tokenizer

    @classmethod
    def of(
        cls, base: Checkpoint, adapter: LoraAdapter, rank: Rank, beside: Path | None = None
    ) -> "LoraContent":
        """Build the target; raise PairingError if the adapter is of other modules than the base's."""
        base = with_experts_as(adapter.rest, base)
        return cls(base, adapter, *modules_and_tensors(base, adapter), rank, beside)

    def rewritten(self, changes: Changes) -> tuple[Rewritten, Cut]:
        """The new adapter, and what became of its ranks."""
        # What is done to an embedding is done to the head that is tied to it and stored in the adapter too.
        own = {*self.modules, *self.in_full.values()}
        tied = {name: other for name, other in self.base.tied.items() if name in own}
        changed = dict(changes.matrices)
        changed |= {name: changed[other] for name, other in tied.items() if other in changed}

        def elsewhere(name: str) -> float:
            return changes.elsewhere(tied.get(name, name))

        self._require_written(changed, elsewhere)
        shares, updates = dict[str, float](), dict[str, Callable[[LowRank], LowRank]]()
        for name, module in self.modules.items():
            change = changed.get(name) or Change(share=elsewhere(name))
            if not change.is_a_share:
                updates[module] = change.updated
            elif change.share != 1:
                shares[module] = change.share
        in_full = {own: self._in_full(own, name, changed, elsewhere) for own, name in self.in_full.items()}
        content = rewritten(self.adapter, updates, self.rank, shares, in_full)
        content.tensors.update(self._factors_of_heads(content.tensors))
        names = {module: name for name, module in self.modules.items()}
        return content, Cut(
            {names.get(module, module): rank for module, rank in content.ranks.items()},
            {names.get(module, module): error for module, error in content.errors.items()},
        )

    def _factors_of_heads(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The factors of heads whose embeddings are changed alike: PEFT has one tensor for each A and the other's B."""
        factors: dict[str, Tensor] = {}
        for name, other in self.base.tied.items():
            if name in self.modules and other in self.modules:
                head, embedding = (self.adapter.modules[self.modules[use]] for use in (name, other))
                crossed = zip(head.tensor_names(), reversed(embedding.tensor_names()), strict=True)
                factors |= {own: tensors[theirs].mT.contiguous() for own, theirs in crossed}
        return factors

    def _in_full(self, own: str, name: str, changed: Mapping[str, Change], elsewhere: Elsewhere) -> Tensor:
        """A tensor that the adapter stores in full, with its changed matrices or its share of the update."""
        stored = self.adapter.rest[own]
        if not is_beneath_factors(own):
            changes = {matrix: change.applied_to for matrix, change in changed.items()}
            return changed_tensor(stored, self.base, name, changes, elsewhere(name))
        # The factors carry the change. The weight beneath them is the base's, or what a start left of it.
        change = changed.get(name) or Change(share=elsewhere(name))
        share = change.share if change.is_a_share else 1.0
        return changed_tensor(stored, self.base, name, {}, share)

    def _require_written(self, changed: Iterable[str], elsewhere: Elsewhere) -> None:
        """Refuse what no tensor of the adapter can store: it would stay as it was tuned."""
        lost = [n for n in changed if n not in self.modules and tensor_of(n) not in self.in_full.values()]
        if lost:
            raise CheckpointError(
                f"'{self.adapter.source}' changes {some_of(lost)}, for which it has no tensor of its own; expected "
                "LoRA factors or a tensor stored in full under a name of the base; write a checkpoint (--as checkpoint)"
            )
        everything = self.base.names()
        # PEFT stores retrained tokens of an embedding as complete rows, of which no share can be kept.
        for own, weight in retrained_tokens(self.adapter).items():
            if any(elsewhere(name) != 1 for name in everything if may_be_same(name, weight)):
                raise SettingError(
                    f"'{self.adapter.source}' retrained single tokens ('{own}'), of which no share can be written; "
                    f"{MERGE}"
                )
        # A tensor stored in full whose counterpart keeps a share. A classifier's new head has no counterpart.
        names = set(everything) - set(self.in_full.values())
        for own, plain in not_matched(self.adapter, self.in_full).items():
            counterparts = [name for name in names if may_be_same(name, plain)]
            if plain in HEADS and not counterparts:
                counterparts = [name for name in everything if looks_up_tokens(name)] or everything
            if any(elsewhere(name) != 1 for name in counterparts):
                raise CheckpointError(
                    f"'{self.adapter.source}' contains '{own}' in full, and no tensor of '{self.base.source}' is known "
                    f"to be what it was trained from, so no share of its update can be written; {MERGE}"
                )

    def write(self, folder: Path, changes: Changes, progress: Progress, metadata: Mapping[str, str]) -> Cut:
        content, cut = self.rewritten(changes)
        write_adapter(folder, content.tensors, content.config, metadata)
        if self.beside is not None:
            copy_files(companions(self.beside, TOKENIZER), folder)
        return cut


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
        cls, base: Checkpoint, model: nn.Module, name: str, rank: Rank, sides: tuple[Source | None, Source]
    ) -> "ModelTarget":
        """Build the target; raise SettingError for a name that is taken, CheckpointError for other than plain LoRA."""
        peft: Any = model
        if name in peft.peft_config:
            raise SettingError(f"the model has an adapter '{name}' already; pass another adapter_name")
        if not name or "." in name:
            raise SettingError(f"adapter_name is {name!r}; expected a name without dots")
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
    def writing(self, changes: Changes, progress: Progress) -> Iterator[Written]:
        """Put the new adapter into the model and make it the active one; the other stays as it is."""
        from peft import set_peft_model_state_dict

        content, cut = self.content.rewritten(changes)
        peft: Any = self.model
        config = copy.deepcopy(peft.peft_config[self.old_name])
        for name in ("r", "lora_alpha", "rank_pattern", "alpha_pattern"):
            setattr(config, name, content.config[name])
        # The values that the new layers start from are overwritten; some starts cost minutes, or need data.
        config.init_lora_weights = False
        peft.add_adapter(self.new_name, config)
        set_peft_model_state_dict(self.model, content.tensors, adapter_name=self.new_name)
        peft.set_adapter(self.new_name)
        yield Written(*self.sides, cut)


def active_lora(model: nn.Module) -> tuple[str, LoraAdapter]:
    """Name and content of the one active adapter of a PeftModel; CheckpointError if there are several."""
    source = describe_module(model)
    peft: Any = model
    active = [peft.active_adapters] if isinstance(peft.active_adapters, str) else list(peft.active_adapters)
    if len(active) != 1:
        raise CheckpointError(f"{source} has {len(active)} active adapters; make one active with set_adapter")
    name = active[0]
    tensors, config, _ = adapter_in(model, name, source)
    return name, lora_adapter(tensors, config)
