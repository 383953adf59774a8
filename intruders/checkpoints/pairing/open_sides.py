"""Both sides of a comparison opened, and the base found where it is left out."""

import os
from dataclasses import replace

from torch import nn

from ...errors import CheckpointError, IntrudersError, PairingError
from ..adapters.adapter import Adapter
from ..adapters.peft_adapter import start_that_changed
from ..formats.memory import addresses_of_matrices, describe_module, has_adapters, module_checkpoint
from ..opening.model_sum import ModelSum, Part, parts_of
from ..opening.named_base import other_base_note
from ..opening.open import Opened, Source, open_checkpoint, open_source
from ..quantized.restore import quantization_of
from ..stored.checkpoint import Checkpoint
from ..stored.selection import Selection
from .names_of_base import with_tied_head
from .pair_sides import pair_sides


def open_sides(
    base: Source | None, tuned: Source | None = None, *, with_embeddings: bool = True
) -> tuple[Checkpoint, Opened]:
    """Open both sides; find the base where it is left out.

    An adapter may come alone, as either: the base that it names is opened, and of a PeftModel its own base weights,
    unless an adapter's start (PiSSA, ...) changed these. Without ``with_embeddings``, a model in memory whose other
    weights are the base's is its adapter alone, which has factors. CheckpointError for a side that cannot be had;
    PairingError for the same tensors in memory.
    """
    base, tuned = named_sides(base, tuned)
    opened = open_source(tuned)
    if has_adapters(tuned):
        before, opened = _open_in_memory(base, tuned, opened, with_embeddings)
        return with_tied_head(before, opened), opened
    # A state dict that was kept before training without copies has what training made of it. A model is compared with
    # itself only by intention.
    after = addresses_of_matrices(tuned)
    if base is not tuned and after and after <= addresses_of_matrices(base):
        raise PairingError(
            "base and tuned are the same tensors in memory, so that no change can be seen; copy the base before "
            "training (copy.deepcopy of the model, or of its state dict)"
        )
    if base is not None:
        before, opened = open_checkpoint(base), _noting_another_base(opened, base)
    else:
        named = _base_named_by(opened)
        try:
            before = open_checkpoint(named)
        except CheckpointError as error:
            raise CheckpointError(
                f"the base '{named}', which the adapter '{opened.source}' names, cannot be opened; "
                f"pass the base too: {error}"
            ) from None
    return with_tied_head(before, opened), opened


def named_sides(base: Source | None, tuned: Source | None) -> tuple[Source | None, Source]:
    """The two sides as they were given; one alone is the tuned one, whose adapter names its base."""
    if tuned is not None:
        return base, tuned
    if base is None:
        raise CheckpointError("no model was given; expected a base and a tuned one, or an adapter")
    return None, base


def _noting_another_base(opened: Opened, base: Source) -> Opened:
    """Add to each adapter a note if it names another base than the one that was given by its name."""
    if not isinstance(base, str | os.PathLike):
        return opened
    noted: list[tuple[Part, float]] = []
    for part, weight in parts_of(opened):
        if isinstance(part, Adapter):
            note = other_base_note(part.source, part.base_source, os.fspath(base))
            part = replace(part, notes=[*part.notes, *note])
        noted.append((part, weight))
    return replace(opened, parts=noted) if isinstance(opened, ModelSum) else noted[0][0]


def _open_in_memory(
    base: Source | None, model: nn.Module, adapters: Opened, with_embeddings: bool
) -> tuple[Checkpoint, Opened]:
    """A model in memory is its own weights with its adapters on them, whatever base it is compared with."""
    start = start_that_changed(model)
    if base is not None:
        before = open_checkpoint(base)
    elif start is None:
        return module_checkpoint(model), adapters
    else:
        try:
            before = open_checkpoint(_base_named_by(adapters))
        except CheckpointError as error:
            raise CheckpointError(
                f"the start '{start}' changed the base's weights in {describe_module(model)}, so the weights before "
                f"training are not in memory; pass the base too ({error})"
            ) from None
    if start is not None:
        note = f"the start '{start}' changed the base in memory; measured from '{before.source}'"
    elif _has_other_weights(model, before, with_embeddings):
        note = (
            f"the weights in memory beneath the adapter are not those of '{before.source}'; it acts on them"
        )
    else:
        return before, adapters
    on_own = [
        (replace(part, start=None, notes=[note, *part.notes]), weight)
        for part, weight in parts_of(adapters)
        if isinstance(part, Adapter)
    ]
    return before, ModelSum(adapters.source, [(module_checkpoint(model), 1.0), *on_own])


def _has_other_weights(model: nn.Module, base: Checkpoint, with_embeddings: bool) -> bool:
    """Return whether a model's own weights differ from the base's: an adapter on a model that was trained before."""
    try:
        own = module_checkpoint(model)
        if quantization_of(own.config):
            return False  # a compressed copy of the base, not a training of it
        pairs = pair_sides(base, own, Selection(include_embeddings=with_embeddings)).pairs
    except IntrudersError:  # merged, or of another architecture, which the pairing with the adapter reports
        return False
    return any(pair.load() is not None for pair in pairs)


def _base_named_by(opened: Opened) -> str:
    adapters = [part for part, _ in parts_of(opened) if isinstance(part, Adapter)]
    if not adapters:
        raise CheckpointError(
            f"'{opened.source}' is a full checkpoint, which does not name its base; pass the base too"
        )
    names = {adapter.base_source for adapter in adapters if adapter.base_source}
    if len(names) != 1:
        stated = f"names {len(names)} bases" if names else "does not name its base"
        raise CheckpointError(f"the adapter '{opened.source}' {stated}; pass the base too")
    return names.pop()


def sides_on_disk(base: object, tuned: object) -> tuple[str | None, str]:
    """Return base and tuned model as texts; one alone is the tuned one, whose adapter names its base."""
    before, after = named_sides(base, tuned)  # type: ignore[arg-type]
    return None if before is None else on_disk(before, "base"), on_disk(after, "tuned")


def on_disk(source: object, name: str) -> str:
    """Return the name or path of a model as text; CheckpointError, which says ``name``, if it is neither."""
    if isinstance(source, str) or (isinstance(source, os.PathLike) and isinstance(os.fspath(source), str)):
        return str(source)
    raise CheckpointError(
        f"{name} is of type {type(source).__name__}; expected a folder, a hub id or a demo model, because every "
        "measurement loads the model itself; save it with save_pretrained, and pass the folder"
    )
