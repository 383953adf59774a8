"""Base and tuned, matched matrix by matrix, as a stream that holds one matrix at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from ..errors import CheckpointError
from .adapters.update import Adapter
from .checkpoint import Checkpoint
from .experts import aligned_experts
from .memory import has_adapters, module_checkpoint
from .open import Opened, Source, Stack, open_checkpoint, open_source
from .pair_adapter import pair_adapter
from .pair_checkpoints import pair_checkpoints
from .pair_stack import pair_stack
from .records import LoadedPair, MatrixPair, Pairing, Skipped
from .selection import Selection

__all__ = ["LoadedPair", "MatrixPair", "Pairing", "Skipped", "open_pair", "pair"]


def open_pair(base: Source | None, tuned: Source | None = None) -> tuple[Checkpoint, Opened]:
    """Open both sides; find the base where it is left out.

    Without ``base``, an adapter's own ``base_model_name_or_path`` is opened, and of a PeftModel its own base
    weights.

    Raises:
      CheckpointError: either side cannot be found or read, or a base is needed and not named.
    """
    if tuned is None and has_adapters(base):
        base, tuned = None, base
    if tuned is None:
        raise CheckpointError("only one model was given; expected a base and a tuned one, or a PeftModel")
    opened = open_source(tuned)
    if has_adapters(tuned):
        opened = _with_own_base(tuned, opened, base is None)
        return open_checkpoint(tuned if base is None else base), opened
    if base is not None:
        return open_checkpoint(base), opened
    named = _base_named_by(opened)
    try:
        return open_checkpoint(named), opened
    except CheckpointError as error:
        raise CheckpointError(
            f"the base '{named}', which the adapter '{opened.source}' names, cannot be opened; "
            f"give the base too: {error}"
        ) from None


def pair(
    base: Checkpoint,
    tuned: Opened,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include_embeddings: bool = False,
    split_fused: bool = False,
) -> Pairing:
    """Every matrix of the base that the tuned side may have changed; the rest is listed with its reason.

    Args:
      base: the model before fine-tuning.
      tuned: the model after it, the adapter, or several with weights.
      include: shell patterns over the base's tensor names; only these are taken. All, when empty.
      exclude: shell patterns of names that are left out.
      include_embeddings: also take embeddings and output heads.
      split_fused: take q, k and v of a fused weight as matrices of their own, gate and up likewise.

    Raises:
      PairingError: the two do not belong together; the text says which tensors do not match, and how many do.
      SettingError: ``include`` matches no tensor.
    """
    selection = Selection(include, exclude, include_embeddings, split_fused)
    selection.require_matches(base)
    return _pair(base, tuned, selection)


def _pair(base: Checkpoint, tuned: Opened, selection: Selection) -> Pairing:
    if isinstance(tuned, Stack):
        # Beside a full checkpoint, an adapter may belong to that one: D is the same on top of either.
        beside_full = any(isinstance(part, Checkpoint) for part, _ in tuned.parts)
        parts: list[tuple[Pairing, float]] = []
        for part, weight in tuned.parts:
            if isinstance(part, Adapter) and beside_full:
                part = replace(part, changed_base=None)
            parts.append((_pair(base, part, selection), weight))
        return pair_stack(tuned.source, parts)
    base, tuned, notes = aligned_experts(base, tuned)
    if isinstance(tuned, Adapter):
        pairing = pair_adapter(base, tuned, selection)
    else:
        pairing = pair_checkpoints(base, tuned, selection)
    return replace(pairing, matched=notes + pairing.matched)


def _with_own_base(model: nn.Module, opened: Opened, alone: bool) -> Opened:
    """An adapter whose start changed its base (PiSSA, ...) means the base that is in memory with it."""
    parts = opened.parts if isinstance(opened, Stack) else [(opened, 1.0)]
    adapters = [(part, weight) for part, weight in parts if isinstance(part, Adapter)]
    if not any(adapter.changed_base for adapter, _ in adapters):
        return opened
    own = [] if alone else [(module_checkpoint(model), 1.0)]
    return Stack(
        opened.source,
        [*own, *((replace(adapter, changed_base=None), weight) for adapter, weight in adapters)],
    )


def _base_named_by(opened: Opened) -> str:
    parts = [part for part, _ in opened.parts] if isinstance(opened, Stack) else [opened]
    adapters = [part for part in parts if isinstance(part, Adapter)]
    if not adapters:
        raise CheckpointError(
            f"'{opened.source}' is a full checkpoint, which does not name its base; give the base too"
        )
    names = {adapter.base_source for adapter in adapters if adapter.base_source}
    if len(names) != 1:
        found = f"names {len(names)} bases" if names else "does not name its base"
        raise CheckpointError(f"the adapter '{opened.source}' {found}; give the base too")
    return names.pop()
