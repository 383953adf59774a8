"""What each part of the tuned side acts on: the second stage of pairing.

An adapter sees no other weights than those that it acts on. That is the base or, in a sum with full checkpoints, the
base as these changed it: an adapter that came out of training such a checkpoint further belongs to that one, and one
whose start changed its base belongs to what the start left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ...errors import PairingError, some_of
from ..adapters.adapter import Adapter
from ..adapters.formulas import widened
from ..opening.model_sum import Part
from ..stored.checkpoint import Checkpoint, StoredTensor
from ..stored.matching import match_names


@dataclass(frozen=True)
class Acting:
    """A part of the tuned side, and the weights that it acts on."""

    part: Part
    base: Checkpoint
    # The names of the checkpoints that made ``base`` out of the base that is audited; empty where it is that base.
    made_by: tuple[str, ...] = ()


def acting_parts(base: Checkpoint, parts: Sequence[Part]) -> list[Acting]:
    """Each part with the weights that it acts on.

    Raises:
      PairingError: an adapter belongs to its base as a start left it, which cannot be repeated on this one.
    """
    checkpoints = [part for part in parts if isinstance(part, Checkpoint)]
    adapters = [part for part in parts if isinstance(part, Adapter)]
    if not checkpoints or not adapters:
        return [Acting(_on_original(part) if isinstance(part, Adapter) else part, base) for part in parts]
    changed = with_checkpoints(base, checkpoints)
    sources = tuple(checkpoint.source for checkpoint in checkpoints)
    return [
        Acting(replace(part, start=None), changed, sources)
        if isinstance(part, Adapter)
        else Acting(part, base)
        for part in parts
    ]


def with_checkpoints(base: Checkpoint, checkpoints: Sequence[Checkpoint]) -> Checkpoint:
    """W1 = W0 + sum_i (W_i - W0) under the base's names: of a single checkpoint its own tensors, as stored.

    A tensor that a checkpoint lacks, or has in another shape, stays the base's.
    """
    shapes = base.shapes()
    others: dict[str, list[StoredTensor]] = {name: [] for name in shapes}
    for checkpoint in checkpoints:
        matching = match_names(shapes, checkpoint.shapes())
        for name, other in matching.tuned_of.items():
            if checkpoint.tensors[other].shape == shapes[name]:
                others[name].append(checkpoint.tensors[other])
    tensors = {name: _changed(stored, others[name]) for name, stored in base.tensors.items()}
    return replace(base, tensors=tensors)


def acts_on_in_words(acting: Acting) -> str:
    """Name the checkpoints of the sum that an adapter acts on."""
    return f"'{acting.part.source}' acts on {some_of(list(acting.made_by))}"


def _on_original(adapter: Adapter) -> Adapter:
    """The adapter on the base as it was before the start, which PEFT repeats as it does when it loads the adapter."""
    if adapter.start is None:
        return adapter
    if adapter.start.repeated is None:
        raise PairingError(
            f"the adapter '{adapter.source}' started from its base's own weights ({adapter.start.name}) and was not "
            "converted, so that it belongs to the base as that start left it; convert it with PEFT "
            "(path_initial_model_for_weight_conversion), or pass BASE and CHANGED_BASE+ADAPTER"
        )
    note = (
        f"the start '{adapter.start.name}' of '{adapter.source}' was repeated here, on the base's own weights"
    )
    return replace(
        adapter,
        updates=adapter.start.repeated,
        start=None,
        beneath={},  # what the start left, and not the base's own
        decomposes=adapter.decomposes or adapter.start.name == "pissa",
        notes=[note, *adapter.notes],
    )


def _changed(stored: StoredTensor, others: list[StoredTensor]) -> StoredTensor:
    if len(others) < 2:
        return others[0] if others else stored

    def read() -> Tensor:
        before = widened(stored.read())
        return before + sum((widened(other.read()) - before for other in others), before.new_zeros(()))

    return replace(stored, read=read, read_one=None)
