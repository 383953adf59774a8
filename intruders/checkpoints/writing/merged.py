"""A whole model with changed matrices, planned tensor by tensor.

Experts that a file has one by one are paired, and changed, as stacks where the other side has stacks. The file keeps
its own names and shapes: each of its tensors takes its rows of the matrix.
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ...errors import CheckpointError, some_of
from ...linalg.pair import Pair
from ...linalg.products import made_by_rows
from ..adapters.adapter import Adapter
from ..opening.model_sum import ModelSum, Part, parts_of
from ..opening.open import Opened
from ..pairing.names_of_base import InStacks, positions_in_stacks, under_common_names
from ..pairing.pair_sides import pair_sides
from ..pairing.pairing import SkipKind
from ..pairing.side import Side, sides_of
from ..stored.checkpoint import Checkpoint, StoredTensor
from ..stored.matrices import MatrixView, common_matrices, matrices_of, not_a_matrix, put_back, reason_to_skip
from ..stored.names import Matching, match_names, may_be_same
from ..stored.selection import EVERY_MATRIX
from ..stored.tied import HEADS, separated_uses
from .shards import require_finite

MERGE = "merge it into its base (merge_and_unload in PEFT, save_pretrained), and pass the merged checkpoint"

# A matrix in its new form, computed in double precision and rounded once, from the two matrices as they are stored.
Changed = Callable[[Pair, torch.dtype], Tensor]
# Of the update of a tensor that is not among the changed matrices, by the base's name: the share that stays.
Elsewhere = Callable[[str], float]


def everywhere_as_tuned(name: str) -> float:
    return 1.0


def _require_written(names: Iterable[str], written: Collection[str], source: str) -> None:
    lost = [name for name in dict.fromkeys(names) if name not in written]
    if lost:
        raise CheckpointError(
            f"'{source}' changes {some_of(lost)}, which no tensor of the written checkpoint contains; expected a base "
            f"with the same matrices; {MERGE}"
        )


def planned_checkpoint(
    base: Checkpoint,
    tuned: Opened,
    changes: Mapping[str, Changed],
    elsewhere: Elsewhere = everywhere_as_tuned,
) -> dict[str, StoredTensor]:
    """Every tensor of the tuned model, with the changed matrices in their new form.

    Each is of the type that holds the numbers of base and tuned checkpoint; of adapters, of the base's, with everything
    merged in, embeddings and norms among it. ``elsewhere`` says what share of its update any other tensor keeps.
    CheckpointError for what cannot be merged tensor by tensor, or is not read.
    """
    whole = tuned if isinstance(tuned, Checkpoint) else base
    if whole.ignored:
        raise CheckpointError(
            f"'{whole.source}' has {len(whole.ignored)} matrices that are not read, without which a model cannot be "
            f"written: {some_of([name for name, _ in whole.ignored])}; pass the model as safetensors"
        )
    if isinstance(tuned, Checkpoint):
        return _changed_checkpoint(base, tuned, changes, elsewhere)
    return _merged_checkpoint(base, tuned, changes, elsewhere)


def _changed_checkpoint(
    base: Checkpoint, tuned: Checkpoint, changes: Mapping[str, Changed], elsewhere: Elsewhere
) -> dict[str, StoredTensor]:
    before, (after,), _ = under_common_names(base, [tuned])
    assert isinstance(after, Checkpoint)
    positions = positions_in_stacks(tuned, after)
    # Of tensors that were joined to one, the first.
    own_of = {position.tensor: own for own, position in reversed(positions_in_stacks(base, before).items())}
    matching = match_names(before.shapes(), after.shapes())
    _warn_of_other_names(before, after, matching, lambda name: elsewhere(own_of.get(name, name)))
    base_of = matching.base_of
    views = {name: _matrices(before, name, after.shape(other)) for name, other in matching.tuned_of.items()}
    written: set[str] = set()

    def planned(own: str) -> StoredTensor:
        stored, position = tuned.tensors[own], positions[own]
        name = base_of.get(position.tensor)
        # Experts of another number or size have no common matrices.
        if name is None or (position.expert is not None and not views[name]):
            return stored
        first, second = before.tensors[name], after.tensors[position.tensor]
        dtype = first.dtype
        if dtype.is_floating_point and stored.dtype.is_floating_point:
            # The type that holds the numbers of both: an update may be smaller than the base's type resolves.
            dtype = torch.promote_types(dtype, stored.dtype)
        matrices = [matrix for matrix in views[name] if position.expert in (None, matrix.expert)]
        written.update(matrix.name for matrix in matrices)
        wanted = [(matrix, changes[matrix.name]) for matrix in matrices if matrix.name in changes]

        def read() -> Tensor:
            if not wanted:
                share = elsewhere(own_of.get(name, name))
                return _with_share(stored.read(), position.cut(first), name, share, dtype)
            made = ((view, change, Pair(view.read(first), view.read(second))) for view, change in wanted)
            return _with_changes(stored, position, made, dtype)

        return replace(stored, dtype=dtype, read=read, read_one=None)

    tensors = {own: planned(own) for own in tuned.tensors}
    _require_written(changes, written, tuned.source)
    return tensors


def _warn_of_other_names(
    base: Checkpoint, tuned: Checkpoint, matching: Matching, elsewhere: Elsewhere
) -> None:
    otherwise = matching.named_otherwise(base.shapes(), tuned.shapes())
    changed = [name for name in otherwise if elsewhere(name) != 1]
    if changed:
        warnings.warn(
            f"'{tuned.source}' has no tensor under a known name for {some_of(changed)} of '{base.source}', and "
            "others of the same shape, which stay as they were tuned; pass a tuned model with the names of the base",
            stacklevel=3,
        )


def changed_tensor(
    stored: StoredTensor, base: Checkpoint, name: str, changes: Mapping[str, Changed], share: float
) -> Tensor:
    """Return a tensor stored in full, by the base's ``name``, with its changed matrices or a share of its update."""
    holder = base.tied.get(name, name)
    before = base.tensors[holder]
    views = _matrices(base, holder, stored.shape)
    named = [replace(view, name=name + view.name.removeprefix(holder)) for view in views]
    wanted = [(matrix, changes[matrix.name]) for matrix in named if matrix.name in changes]
    if not wanted:
        return _with_share(stored.read(), before, name, share, stored.dtype)
    made = ((view, change, Pair(view.read(before), view.read(stored))) for view, change in wanted)
    return _with_changes(stored, InStacks(name), made, stored.dtype)


def _with_changes(
    stored: StoredTensor,
    position: InStacks,
    changes: Iterable[tuple[MatrixView, Changed, Pair]],
    dtype: torch.dtype,
) -> Tensor:
    """The tensor at a position, with these matrices in it changed, or the parts of them that it contains."""
    tensor = stored.read().to(dtype, copy=True)
    for matrix, change, pair in changes:
        values = require_finite(change(pair, dtype), matrix.name)
        if position.expert is None:
            put_back(matrix, tensor, values)
        else:
            put_back(replace(matrix, expert=None), tensor, values[position.rows])
    return tensor


def _matrices(base: Checkpoint, name: str, theirs: tuple[int, ...]) -> list[MatrixView]:
    matrices = [] if not_a_matrix(base.tensors[name]) else matrices_of(base, name)
    return common_matrices(matrices, base.shape(name), theirs)


def _merged_checkpoint(
    base: Checkpoint, tuned: Adapter | ModelSum, changes: Mapping[str, Changed], elsewhere: Elsewhere
) -> dict[str, StoredTensor]:
    for part, _ in parts_of(tuned):
        _require_mergeable(part, tuned.source)
    before, sides, _ = sides_of(base, tuned)
    positions = positions_in_stacks(base, before)
    whole = _replaced_whole(before, tuned, sides)
    pairs = {pair.name: pair for pair in pair_sides(base, tuned, EVERY_MATRIX).pairs}
    views = {name: _matrices(before, name, before.shape(name)) for name in before.tensors}
    written: set[str] = set()

    def planned(own: str) -> StoredTensor:
        stored, position = base.tensors[own], positions[own]
        matrices = [view for view in views[position.tensor] if position.expert in (None, view.expert)]
        written.update(matrix.name for matrix in matrices)
        written.update({position.tensor} & whole.keys())
        changed = [(matrix, pairs[matrix.name]) for matrix in matrices if matrix.name in pairs]

        def read() -> Tensor:
            if position.tensor in whole:
                replacement, weight = whole[position.tensor]
                return _with_share(replacement(), stored, own, weight * elsewhere(own), stored.dtype)
            loaded = [(matrix, both) for matrix, pair in changed if (both := pair.load()) is not None]
            if not loaded:
                return stored.read()
            by_share = partial(_matrix_with_share, share=elsewhere(own))
            made = ((view, changes.get(view.name, by_share), both) for view, both in loaded)
            return _with_changes(stored, position, made, stored.dtype)

        return replace(stored, read=read, read_one=None)

    _require_can_be_separated(before, tuned)
    tensors = {own: planned(own) for own in base.tensors}
    _require_written([*pairs, *changes, *whole], written, tuned.source)
    # What an adapter stores in full and the base has no tensor for, such as a new classification head: as tuned.
    for name, stored in (item for side, _ in sides for item in side.added.items()):
        _require_alone(tuned, f"store '{name}' in full")
        tensors[name] = stored
    return tensors


def _require_mergeable(part: Part, source: str) -> None:
    if isinstance(part, Checkpoint):
        raise CheckpointError(
            f"'{source}' is a sum with full checkpoints in it; merge it first, and pass the merged model"
        )
    if part.ignored:
        raise CheckpointError(
            f"'{part.source}' trained {len(part.ignored)} tensors that cannot be merged here "
            f"('{part.ignored[0][0]}': {part.ignored[0][1]}); write an adapter (--as adapter)"
        )


def _require_can_be_separated(base: Checkpoint, tuned: Opened) -> None:
    """Raise where embedding and head become two: not in an encoder-decoder, nor beside a head with a tied bias."""
    uses = separated_uses(base)
    has_encoder = any(name.startswith(("encoder.", "model.encoder.")) for name in base.tensors)
    if uses is not None and (uses.head not in HEADS or has_encoder):
        raise CheckpointError(
            f"'{tuned.source}' makes two tensors of '{uses.embedding}' and '{uses.head}', which in '{base.source}' are "
            "one and in models of its class have to be; write an adapter (--as adapter)"
        )


def _matrix_with_share(pair: Pair, dtype: torch.dtype, *, share: float) -> Tensor:
    """``W0 + share * D``; W and W0 themselves at 1 and 0."""
    if share == 0:
        return pair.base.to(dtype)

    def rows(some: slice) -> Tensor:
        wide = pair.rows(some).double()
        return wide.dense() if share == 1 else wide.base + share * wide.update.dense()

    return made_by_rows(rows, pair.base.shape, dtype, pair.base.device)


def _with_share(tensor: Tensor, base: StoredTensor, name: str, share: float, dtype: torch.dtype) -> Tensor:
    """A tensor of any shape between the base's and the tuned model's; of one with more rows, these stay as tuned."""
    shape = torch.Size(base.shape)
    if not tensor.is_floating_point() or (share == 1 and tensor.dtype == dtype):
        return tensor
    if share == 1:
        return require_finite(tensor.to(dtype), name)
    if tensor.dim() == len(shape) > 0 and tensor.shape[1:] == shape[1:] and len(tensor) > shape[0]:
        common = _with_share(tensor[: shape[0]], base, name, share, dtype)
        return torch.cat([common, tensor[shape[0] :].to(dtype)])
    if tensor.shape != shape:
        return tensor
    if share == 0:
        return base.read().to(dtype)
    size = shape[:1].numel(), shape[1:].numel()  # a number alone counts as a row
    made = _matrix_with_share(Pair(base.read().reshape(size), tensor.reshape(size)), dtype, share=share)
    return require_finite(made.reshape(shape), name)


def _replaced_whole(
    base: Checkpoint, tuned: Adapter | ModelSum, sides: Sequence[tuple[Side, float]]
) -> dict[str, tuple[Callable[[], Tensor], float]]:
    """Tensors without matrices that an adapter stores in full or makes, and its weight in a sum, by base name."""
    whole: dict[str, tuple[Callable[[], Tensor], float]] = {}
    for side, weight in sides:
        _require_matched(base, side)
        for name, stored in side.tensors.items():
            if stored.shape != base.shape(name):
                raise CheckpointError(
                    f"'{side.part.source}' contains '{name}' as {stored.shape} and the base has "
                    f"{base.shape(name)}; write an adapter (--as adapter)"
                )
            if reason_to_skip(name, base.tensors[base.tied.get(name, name)], EVERY_MATRIX) is not None:
                _require_alone(tuned, f"store '{name}' in full")
                whole[name] = stored.read, weight
        for bias, name in side.biases.items():
            _require_alone(tuned, f"change '{bias}'")
            (matrix,), made = matrices_of(side.base, name), side.updates[name].bias
            assert made is not None
            whole[bias] = partial(_made_of, made, matrix, side.base.tensors[name]), weight
    return whole


def _made_of(made: Callable[[Tensor], Tensor], matrix: MatrixView, stored: StoredTensor) -> Tensor:
    return made(matrix.read(stored))


def _require_alone(tuned: Adapter | ModelSum, what: str) -> None:
    if len(parts_of(tuned)) > 1:
        raise CheckpointError(f"'{tuned.source}' is a sum of adapters that {what}; merge it first")


def _require_matched(base: Checkpoint, side: Side) -> None:
    for skipped in side.skipped:
        own = [name for name in base.names() if may_be_same(name, skipped.name) and not side.holds(name)]
        if skipped.name in HEADS and not own:
            raise CheckpointError(
                f"'{side.part.source}' contains '{skipped.name}' in full, and no tensor of '{base.source}' is "
                "known to be the head; write an adapter (--as adapter)"
            )
        if own and skipped.kind == SkipKind.NO_COUNTERPART:
            raise CheckpointError(
                f"'{side.part.source}' contains '{skipped.name}' in full, which may be '{own[0]}' of the base; "
                "expected the same prefix as in its other tensors; write an adapter (--as adapter)"
            )
