"""What an adapter changes besides the matrices that doses act on: with it, the measured model would be another one."""

from collections.abc import Iterator, Sequence

import torch

from ..checkpoints.adapters.adapter import Adapter
from ..checkpoints.opening.model_sum import parts_of
from ..checkpoints.opening.open import Opened
from ..checkpoints.pairing.pair_sides import pair_sides
from ..checkpoints.pairing.side import Side, sides_of
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.names import match_names, may_be_same, tensor_of
from ..checkpoints.stored.selection import EVERY_MATRIX
from ..checkpoints.stored.tied import HEADS, tied_uses, ties
from ..checkpoints.writing.merged import MERGE
from ..errors import SettingError, some_of

_UNTIE = "save the base with a head of its own (tie_word_embeddings false), and pass that"


def require_only_matrices(sides: tuple[Checkpoint, Opened]) -> None:
    """Refuse an adapter that changes more of its base than matrices of their own.

    An adapter's updates are added to the base in doses. A bias, a retrained token, or a head stored in full that the
    base has no tensor for would be left out. PEFT computes with a changed embedding and an unchanged head where the
    base has one tensor for both. Raises SettingError, which names the tensors.
    """
    base, tuned = sides
    if not any(isinstance(part, Adapter) for part, _ in parts_of(tuned)):
        return
    pairing = pair_sides(*sides, EVERY_MATRIX)
    paired = {tensor_of(pair.name) for pair in pairing.pairs}
    uses = tied_uses(base)
    shared = [] if uses is None else sorted(paired & {uses.embedding, uses.head})
    if shared:
        raise SettingError(
            f"'{tuned.source}' changes '{shared[0]}', which in '{base.source}' is the embedding and the output head "
            f"at once, so that no dose acts on one of them; {_UNTIE}"
        )
    # A classifier's new head is in no base, and no language model computes with it.
    unpaired = {*base.names(), *HEADS} - paired
    for adapter, side, _ in _adapters(base, tuned):
        own = {side.own_names.get(name) for name in paired}
        others = pairing.biases + [name for name, _ in adapter.ignored]
        others += [
            name
            for name in adapter.replaced.names()
            if name not in own and not _is_among(name, paired) and _is_among(name, unpaired)
        ]
        if others:
            raise SettingError(
                f"'{adapter.source}' also changes {some_of(others)}, which no dose acts on; expected an adapter of "
                f"matrices alone; {MERGE}"
            )


def require_same_head(sides: tuple[Checkpoint, Opened]) -> None:
    """Refuse a checkpoint with an output head of its own on a base whose embedding is the head.

    The base has no tensor that the head was tuned from, so the head would stay as tuned in every dose.
    """
    base, tuned = sides
    if not isinstance(tuned, Checkpoint) or ties(tuned.config) is not False or tied_uses(base) is None:
        return
    if head := next((name for name in HEADS if name in tuned.tensors), None):
        raise SettingError(
            f"'{tuned.source}' has an output head of its own, '{head}', and in '{base.source}' the embedding is the "
            f"head, so no dose leads from one to the other; {_UNTIE}"
        )


def require_same_vocabulary(sides: tuple[Checkpoint, Opened]) -> None:
    """Refuse a tuned model with more or fewer rows than its base in a tensor that doses would have to lead to.

    Such a tensor, an embedding that was resized, is no matrix of the base. In a checkpoint it would stay as tuned in
    every dose, which is right only if the common rows are the base's. An adapter that stores one is added to the
    base, which has no room for it.
    """
    base, tuned = sides
    for adapter, side, before in _adapters(base, tuned):
        for name, stored in side.tensors.items():
            if _is_resized(before.shape(name), stored.shape):
                raise _other_rows(adapter.source, name, stored.shape, base, before.shape(name), "so")
    if not isinstance(tuned, Checkpoint):
        return
    for name, other in match_names(base.shapes(), tuned.shapes()).tuned_of.items():
        shape, after = base.shape(name), tuned.shape(other)
        if not _is_resized(shape, after):
            continue
        rows = min(shape[0], after[0])
        if not torch.equal(base.read(name)[:rows].float(), tuned.read(other)[:rows].float()):
            why = "and the common ones were tuned, so"
            raise _other_rows(tuned.source, other, after, base, shape, why)


def _adapters(base: Checkpoint, tuned: Opened) -> Iterator[tuple[Adapter, Side, Checkpoint]]:
    """Yield each adapter of a tuned model, its tensors by the names of the base, and the base under these names."""
    before, sides, _ = sides_of(base, tuned)
    for side, _ in sides:
        if isinstance(side.part, Adapter):
            yield side.part, side, before


def _is_resized(before: Sequence[int], after: Sequence[int]) -> bool:
    return len(before) == len(after) == 2 and before[0] != after[0] and before[1] == after[1]


def _other_rows(
    source: str, name: str, after: Sequence[int], base: Checkpoint, before: Sequence[int], why: str
) -> SettingError:
    return SettingError(
        f"'{source}' has {after[0]:,} rows in '{name}' and '{base.source}' has {before[0]:,}, {why} no dose leads "
        f"from one to the other; resize the base to {after[0]:,} tokens (resize_token_embeddings), save it, and pass "
        "that"
    )


def _is_among(name: str, names: set[str]) -> bool:
    return any(may_be_same(own, name) for own in names)  # an adapter's own name may have another prefix
