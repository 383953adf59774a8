"""A base and an adapter, matched weight by weight."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...errors import PairingError, some_of
from ...linalg.low_rank import LowRank
from ...linalg.pair import Pair
from ..adapters.adapter import AdaptedWeight, Adapter, Place
from ..adapters.kohya_names import unflattened
from ..checkpoint import Checkpoint
from ..matrices import MatrixView, holds_experts, matrices_of, matrix_shape, not_a_matrix
from ..names import looks_up_tokens
from ..selection import Selection
from .decomposing import warn_of_decompositions
from .matching import Matching, match_names, same_shape
from .model_order import names_in_model_order
from .pairing import PairedMatrix, Pairing, SkipKind, Skipped
from .with_checkpoint import common_rows, dense_pair, rows_in_words

Shape = tuple[int, ...]


def pair_with_adapter(
    base: Checkpoint, adapter: Adapter, selection: Selection, measured_from: Checkpoint | None = None
) -> Pairing:
    """Every matrix that the adapter changes; what it leaves alone is listed as unchanged.

    Args:
      base: the weights that the adapter acts on. It sees no others.
      adapter: the adapter.
      selection: which tensors are taken.
      measured_from: the base that is audited, where the adapter acts on a changed one: the same names and
        shapes as ``base``. What the adapter adds to ``base`` is then given on top of these weights.

    Raises:
      PairingError: the base lacks a weight that the adapter changes, has it in another shape, or is not the
        one that the adapter's initialization left behind.
    """
    if adapter.changed_base is not None and adapter.from_original is not None:
        adapter = _with_start_repeated(adapter)
    elif adapter.changed_base is not None:
        raise PairingError(
            f"the adapter '{adapter.source}' started from its base's own weights ({adapter.changed_base}) "
            "and was "
            "not converted, so that it belongs to the base as that start left it; convert it with PEFT "
            "(path_initial_model_for_weight_conversion), or pass BASE and CHANGED_BASE+ADAPTER"
        )
    shapes = _matrix_shapes(base)
    named = _named(adapter, base, shapes)
    updates = {update.name: update for update in named}
    replaced = adapter.replaced
    matching = match_names(
        shapes,
        {name: stored.shape for name, stored in replaced.tensors.items()}
        | {name: update.full_shape for name, update in updates.items()},
    )
    elsewhere = _require_modules(base, adapter, named, shapes, matching)
    pairs: list[PairedMatrix] = []
    skipped: list[Skipped] = []
    notes = adapter.notes + matching.in_words()
    for name in (*base.names(), *base.tied):
        holder = base.tied.get(name, name)
        reason = not_a_matrix(base.tensors[holder]) or selection.reason_to_leave_out(name)
        other = matching.tuned_of.get(name)
        if reason is None and other is None and holder == name:
            skipped.append(Skipped(name, "unchanged", SkipKind.UNCHANGED))
            continue
        if reason is not None or other is None:
            skipped.append(Skipped(name, reason or f"the same tensor as '{holder}'"))
            continue
        matrices = matrices_of(base, holder, selection.split_fused)
        if other not in updates and replaced.shape(other) != base.shape(holder):
            common = common_rows(base, holder, replaced.shape(other))
            if common is None:
                reason = f"other shape: {base.shape(holder)} and {replaced.shape(other)}"
                skipped.append(Skipped(name, reason, SkipKind.OTHER_SHAPE))
                continue
            matrices = [common]
            notes.append(rows_in_words(base, holder, replaced, other))
        for matrix in matrices:
            matrix = replace(matrix, name=name + matrix.name.removeprefix(holder))
            if other in updates:
                pair = _updated_pair(base, matrix, updates[other])
            else:
                pair = dense_pair(base, matrix, replaced, other)
            pairs.append(pair if measured_from is None else _moved(pair, matrix, measured_from))
    matched = set(matching.tuned_of.values())
    skipped += [
        Skipped(name, "missing in base", SkipKind.NO_COUNTERPART)
        for name in replaced.names()
        if name not in matched
    ]
    skipped += elsewhere + [Skipped(name, reason) for name, reason in adapter.ignored]
    warn_of_decompositions(adapter, pairs)
    return Pairing(base.source, adapter.source, adapter.kind, pairs, skipped, notes)


def _updated_pair(base: Checkpoint, matrix: MatrixView, update: AdaptedWeight) -> PairedMatrix:
    whole = replace(matrix, rows=None)

    def load() -> Pair | None:
        before = whole.read(base.tensors[matrix.tensor])
        change = update.change(before, matrix.expert)
        if isinstance(change, LowRank):
            left = matrix.cut(change.left)
            if not left.any() or not change.right.any():
                return None
            return Pair(matrix.cut(before), LowRank(left, change.right))
        after = matrix.cut(change)
        return (
            None
            if torch.equal(matrix.cut(before), after.to(before.dtype))
            else Pair(matrix.cut(before), after)
        )

    def merged(dtype: torch.dtype) -> Tensor:
        assert update.merged is not None
        return matrix.cut(update.merged(whole.read(base.tensors[matrix.tensor]).to(dtype)))

    return PairedMatrix(
        matrix.name,
        matrix.shape,
        update.rank,
        load,
        update.scale,
        None if update.merged is None else merged,
    )


def _moved(pair: PairedMatrix, matrix: MatrixView, measured_from: Checkpoint) -> PairedMatrix:
    """The same update W - W1 on top of another base: W0 + (W - W1)."""

    def load() -> Pair | None:
        both = pair.load()
        if both is None:
            return None
        return both.moved_to(matrix.read(measured_from.tensors[matrix.tensor]))

    return replace(pair, load=load)


def _named(adapter: Adapter, base: Checkpoint, shapes: dict[str, Shape]) -> list[AdaptedWeight]:
    """The adapter's updates under the base's names, where it writes these otherwise or not at all."""
    updates = adapter.updates + [_decided(adapter, choices, shapes) for choices in adapter.undecided]
    if adapter.bind is not None:
        return _bound(adapter, base, shapes)
    return unflattened(updates, list(shapes), base.config) if adapter.flat_names else updates


def _with_start_repeated(adapter: Adapter) -> Adapter:
    """The adapter on the base as it was before the start, which PEFT repeats as it does when it loads the adapter."""
    note = f"the start '{adapter.changed_base}' of '{adapter.source}' was repeated here, on the base's own weights"
    return replace(
        adapter,
        updates=adapter.from_original or [],
        changed_base=None,
        decomposes=adapter.decomposes or adapter.changed_base == "pissa",
        notes=[note, *adapter.notes],
    )


def _bound(adapter: Adapter, base: Checkpoint, shapes: dict[str, Shape]) -> list[AdaptedWeight]:
    """The updates of an adapter whose modules share tensors, which are known once the base's modules are."""
    assert adapter.bind is not None
    matching = match_names(shapes, {update.name: update.full_shape for update in adapter.updates})
    base_of = {other: name for name, other in matching.tuned_of.items()}
    if any(update.name not in base_of for update in adapter.updates):
        return adapter.updates  # which is refused as for another base
    _require_linear(base, adapter, [base_of[update.name] for update in adapter.updates])
    order = names_in_model_order(base, adapter.source) if adapter.needs_order else [*base.names(), *base.tied]
    modules = {
        matching.tuned_of.get(name, name).removesuffix(".weight"): Place(
            (shape[0], shape[1]), base.dtype(name)
        )
        for name in order
        if name.endswith(".weight") and len(shape := shapes[name]) == 2 and len(base.shape(name)) == 2
    }
    return adapter.bind(modules)


def _decided(adapter: Adapter, choices: list[AdaptedWeight], shapes: dict[str, Shape]) -> AdaptedWeight:
    """The one of ``target_parameters`` that a module's tensors are for.

    PEFT nests the adapters of one module's parameters and does not write which is whose: their shapes tell.
    """
    fitting = [
        update
        for update in choices
        if any(
            (name == update.name or name.endswith(f".{update.name}")) and shape == update.full_shape
            for name, shape in shapes.items()
        )
    ]
    if len(fitting) > 1:
        raise PairingError(
            f"the adapter '{adapter.source}' changes one of {some_of([update.name for update in fitting])}, "
            "which "
            "have the same shape, and does not say which; merge it with PEFT, and pass the merged model"
        )
    return fitting[0] if fitting else choices[0]


def _require_modules(
    base: Checkpoint,
    adapter: Adapter,
    updates: list[AdaptedWeight],
    shapes: dict[str, Shape],
    matching: Matching,
) -> list[Skipped]:
    """Raise unless the base has every weight; whole parts of a pipeline may be elsewhere."""
    base_of = {other: name for name, other in matching.tuned_of.items()}
    present = {update.component for update in updates if update.name in base_of}
    lost = [
        update
        for update in updates
        if update.name not in base_of and (update.component in present or not present)
    ]
    if lost:
        raise PairingError(
            f"the adapter '{adapter.source}' is for another base: '{base.source}' lacks {len(lost)} of the "
            f"{len(updates)} weights it changes: {some_of([update.name for update in lost])}"
        )
    wrong = [
        f"{base_of[update.name]} is {shapes[base_of[update.name]]} and the adapter's is {update.full_shape}"
        for update in updates
        if update.name in base_of and not same_shape(shapes[base_of[update.name]], update.full_shape)
    ]
    if wrong:
        raise PairingError(
            f"the adapter '{adapter.source}' is for another base: {len(wrong)} of {len(updates)} weights of "
            f"'{base.source}' have another shape: {some_of(wrong)}"
        )
    _require_linear(base, adapter, [base_of[update.name] for update in updates if update.needs_linear])
    return [
        Skipped(update.name, f"for another part of the pipeline ({update.component})")
        for update in updates
        if update.name not in base_of
    ]


def _require_linear(base: Checkpoint, adapter: Adapter, names: list[str]) -> None:
    """Raise for a convolution or embedding, whose weight PEFT's code would make otherwise than a linear layer's."""
    others = [name for name in names if len(base.shape(name)) != 2 or looks_up_tokens(name)]
    if others:
        raise PairingError(
            f"the adapter '{adapter.source}' of type {adapter.peft_type} changes {some_of(others)}, no linear layer, "
            "which is not read for this type; merge it with PEFT, and pass the merged model"
        )


def _matrix_shapes(base: Checkpoint) -> dict[str, Shape]:
    """Every tensor's shape as an adapter sees it: (out, in), or (experts, out, in)."""
    result: dict[str, Shape] = {}
    for name in (*base.names(), *base.tied):
        stored = base.tensors[base.tied.get(name, name)]
        input_first = base.tied.get(name, name) in base.input_first
        if len(stored.shape) < 2:
            result[name] = stored.shape
        elif holds_experts(name, stored.shape):
            experts, first, second = stored.shape
            result[name] = (experts, second, first) if input_first else stored.shape
        else:
            result[name] = matrix_shape(stored.shape, input_first)
    return result
