"""Base and tuned, matched matrix by matrix, as a stream that holds one matrix at a time."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ...errors import CheckpointError, IntrudersError, some_of
from ..adapters.adapter import Adapter
from ..adapters.peft_adapter import start_that_changed
from ..checkpoint import Checkpoint
from ..matrices import not_a_matrix
from ..memory import describe_module, has_adapters, module_checkpoint
from ..model_sum import ModelSum
from ..open import Opened, Source, open_checkpoint, open_source
from ..selection import Selection
from .changed_base import with_checkpoints
from .experts import aligned_experts
from .pairing import PairedMatrix, Pairing, Skipped
from .tied_head import with_tied_head
from .with_adapter import pair_with_adapter
from .with_checkpoint import pair_with_checkpoint
from .with_sum import pair_with_sum

EVERYTHING = Selection()

__all__ = ["PairedMatrix", "Pairing", "Skipped", "open_sides", "pair_sides"]


def open_sides(base: Source | None, tuned: Source | None = None) -> tuple[Checkpoint, Opened]:
    """Open both sides; find the base where it is left out.

    An adapter may come alone, as ``base`` or as ``tuned``: its own ``base_model_name_or_path`` is opened, and of a
    PeftModel its own base weights, unless an adapter's start (PiSSA, ...) changed these: then too what the adapter
    names.

    Raises:
      CheckpointError: either side cannot be found or read, or a base is needed and not named.
    """
    base, tuned = named_sides(base, tuned)
    opened = open_source(tuned)
    if has_adapters(tuned):
        return _open_in_memory(base, tuned, opened)
    if base is not None:
        return with_tied_head(open_checkpoint(base), opened), opened
    named = _base_named_by(opened)
    try:
        return with_tied_head(open_checkpoint(named), opened), opened
    except CheckpointError as error:
        raise CheckpointError(
            f"the base '{named}', which the adapter '{opened.source}' names, cannot be opened; "
            f"pass the base too: {error}"
        ) from None


def named_sides(base: Source | None, tuned: Source | None) -> tuple[Source | None, Source]:
    """The two sides as they were given; one alone is the tuned one, whose adapter names its base."""
    if tuned is not None:
        return base, tuned
    if base is None:
        raise CheckpointError("no model was given; expected a base and a tuned one, or an adapter")
    return None, base


def pair_sides(base: Checkpoint, tuned: Opened, selection: Selection = EVERYTHING) -> Pairing:
    """Every matrix of the base that the tuned side may have changed; the rest is listed with its reason.

    Args:
      base: the model before fine-tuning.
      tuned: the model after it, the adapter, or several with weights.
      selection: which of the base's tensors are taken.

    Raises:
      PairingError: the two do not belong together; the text says which tensors do not match, and how many do.
      SettingError: ``include`` matches no tensor.
    """
    require_selection(base, selection)
    base = with_tied_head(base, tuned)
    return replace(_pair(base, tuned, selection), base_hub=base.hub, tuned_hub=tuned.hub)


def require_selection(base: Checkpoint, selection: Selection) -> None:
    """Raise SettingError for a pattern that matches nothing, and for patterns that leave no matrix of the base."""
    selection.require_matches(base.names(), base.source)
    stored = {name: base.tensors[base.tied.get(name, name)] for name in (*base.names(), *base.tied)}
    matrices = [name for name, one in stored.items() if not_a_matrix(one) is None]
    selection.require_some(matrices, base.source)


def _pair(base: Checkpoint, tuned: Opened, selection: Selection) -> Pairing:
    if isinstance(tuned, ModelSum):
        return _pair_sum(base, tuned, selection)
    base, tuned, notes = aligned_experts(base, tuned)
    if isinstance(tuned, Adapter):
        pairing = pair_with_adapter(base, tuned, selection)
    else:
        pairing = pair_with_checkpoint(base, tuned, selection)
    return replace(pairing, matched=notes + pairing.matched)


def _pair_sum(base: Checkpoint, stack: ModelSum, selection: Selection) -> Pairing:
    """A sum, in which adapters act on the base as the full checkpoints among the parts changed it.

    An adapter that came out of training such a checkpoint further belongs to that one, and one whose start
    changed its base to what the start left. What it multiplies or normalizes is then W1, and its update W - W1.
    """
    notes: list[str] = []
    for part, _ in stack.parts:  # one part with stacked experts decides the names of all
        base, _, note = aligned_experts(base, part)
        notes += note
    checkpoints = [aligned_experts(base, part)[1] for part, _ in stack.parts if isinstance(part, Checkpoint)]
    changed = with_checkpoints(base, [one for one in checkpoints if isinstance(one, Checkpoint)])
    parts: list[tuple[Pairing, float]] = []
    for part, weight in stack.parts:
        if isinstance(part, Adapter) and checkpoints:
            part = replace(part, changed_base=None)
            pairing = pair_with_adapter(changed, part, selection, measured_from=base)
            if any(pair.rank is None for pair in pairing.pairs):
                notes.append(f"'{part.source}' acts on {some_of([one.source for one in checkpoints])}")
        else:
            pairing = _pair(base, part, selection)
        parts.append((pairing, weight))
    summed = pair_with_sum(stack.source, parts)
    return replace(summed, matched=list(dict.fromkeys(notes + summed.matched)))


def _open_in_memory(base: Source | None, model: nn.Module, adapters: Opened) -> tuple[Checkpoint, Opened]:
    """A model in memory is its own weights with its adapters on them, whatever base it is compared with."""
    start = start_that_changed(model)
    if base is not None:
        before = open_checkpoint(base)
    elif start is not None:
        before = _base_before(model, adapters, start)
    else:
        return module_checkpoint(model), adapters
    if start is not None:
        note = f"the start '{start}' changed the base in memory; measured from '{before.source}'"
    elif _has_other_weights(model, before):
        note = (
            f"the weights in memory beneath the adapter are not those of '{before.source}'; it acts on them"
        )
    else:
        return before, adapters
    return before, _on_own_weights(model, adapters, note)


def _has_other_weights(model: nn.Module, base: Checkpoint) -> bool:
    """Whether a model's own weights are not the base's: an adapter on a model that was trained before."""
    try:
        own = module_checkpoint(model)
        if own.config is not None and own.config.get("quantization_config"):
            return False  # a compressed copy of the base, not a training of it
        base, aligned, _ = aligned_experts(base, own)
        assert isinstance(aligned, Checkpoint)
        pairs = pair_with_checkpoint(base, aligned, Selection()).pairs
    except IntrudersError:  # merged, or of another architecture, which the pairing with the adapter reports
        return False
    return any(pair.load() is not None for pair in pairs)


def _base_before(model: nn.Module, adapters: Opened, start: str) -> Checkpoint:
    """The base of a model in memory whose own weights are what an adapter's start left of it.

    Raises:
      CheckpointError: it cannot be opened under the name that the adapter has for it.
    """
    try:
        return open_checkpoint(_base_named_by(adapters))
    except CheckpointError as error:
        raise CheckpointError(
            f"the start '{start}' changed the base's weights in {describe_module(model)}, so the weights before "
            f"training are not in memory; pass the base too ({error})"
        ) from None


def _on_own_weights(model: nn.Module, adapters: Opened, note: str) -> ModelSum:
    """The model in memory: its own weights, on which its adapters act."""
    parts = adapters.parts if isinstance(adapters, ModelSum) else [(adapters, 1.0)]
    on_own = [
        (replace(part, changed_base=None, notes=[note, *part.notes]), weight)
        for part, weight in parts
        if isinstance(part, Adapter)
    ]
    return ModelSum(adapters.source, [(module_checkpoint(model), 1.0), *on_own])


def _base_named_by(opened: Opened) -> str:
    parts = [part for part, _ in opened.parts] if isinstance(opened, ModelSum) else [opened]
    adapters = [part for part in parts if isinstance(part, Adapter)]
    if not adapters:
        raise CheckpointError(
            f"'{opened.source}' is a full checkpoint, which does not name its base; pass the base too"
        )
    names = {adapter.base_source for adapter in adapters if adapter.base_source}
    if len(names) != 1:
        found = f"names {len(names)} bases" if names else "does not name its base"
        raise CheckpointError(f"the adapter '{opened.source}' {found}; pass the base too")
    return names.pop()
