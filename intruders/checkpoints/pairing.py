"""Base and tuned, matched matrix by matrix, as a stream that holds one matrix at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, PairingError, SettingError
from .adapters.update import Adapter, Factors, WeightUpdate
from .checkpoint import Checkpoint
from .matching import Matching, match_names
from .memory import has_adapters
from .naming import is_embedding_or_head, some_of
from .open import Source, open_checkpoint, open_source


@dataclass(frozen=True)
class Skipped:
    """A tensor that is not audited, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class LoadedPair:
    """One matrix before and after fine-tuning, in the dtypes of the files.

    Either ``tuned`` is given (dense, same shape as ``base``), or ``left`` and ``right`` are, and the tuned
    matrix is ``base + left @ right`` with every scale folded into the factors.
    """

    base: Tensor  # (m, n)
    tuned: Tensor | None = None  # (m, n)
    left: Tensor | None = None  # (m, r)
    right: Tensor | None = None  # (r, n)


@dataclass(frozen=True)
class MatrixPair:
    """A matrix that both sides have; ``load`` reads it, and answers None when the two are equal."""

    name: str
    shape: tuple[int, int]
    rank: int | None  # of the update, when it is stored as factors
    load: Callable[[], LoadedPair | None] = field(repr=False)


@dataclass(frozen=True)
class Pairing:
    """What is to be audited, in the base's order, and what is left out."""

    base_source: str
    tuned_source: str
    tuned_kind: str  # "checkpoint", "adapter", "module", "state dict"
    pairs: list[MatrixPair]
    skipped: list[Skipped]
    matched: list[str] = field(default_factory=list)  # prefixes that had to be exchanged, in words


@dataclass(frozen=True)
class _Choice:
    """Which matrices the caller wants."""

    include: Sequence[str]
    exclude: Sequence[str]
    include_embeddings: bool

    def reason_to_leave_out(self, name: str) -> str | None:
        if self.include and not any(fnmatchcase(name, pattern) for pattern in self.include):
            return "not included"
        if any(fnmatchcase(name, pattern) for pattern in self.exclude):
            return "excluded"
        if is_embedding_or_head(name) and not self.include_embeddings:
            return "embedding (use --include-embeddings)"
        return None


def open_pair(base: Source | None, tuned: Source | None = None) -> tuple[Checkpoint, Checkpoint | Adapter]:
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
    if base is not None:
        return open_checkpoint(base), opened
    if isinstance(tuned, nn.Module) and has_adapters(tuned):
        return open_checkpoint(tuned), opened
    if not isinstance(opened, Adapter):
        raise CheckpointError(
            f"'{opened.source}' is a full checkpoint, which does not name its base; give the base"
        )
    if opened.base_source is None:
        raise CheckpointError(f"the adapter '{opened.source}' does not name its base; give the base too")
    try:
        return open_checkpoint(opened.base_source), opened
    except CheckpointError as error:
        raise CheckpointError(
            f"the base '{opened.base_source}', which the adapter '{opened.source}' names, cannot be opened; "
            f"give the base too: {error}"
        ) from None


def pair(
    base: Checkpoint,
    tuned: Checkpoint | Adapter,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include_embeddings: bool = False,
) -> Pairing:
    """Every matrix of the base that the tuned side may have changed; the rest is listed with its reason.

    Args:
      base: the model before fine-tuning.
      tuned: the model after it, or the adapter.
      include: shell patterns over the base's tensor names; only these are taken. All, when empty.
      exclude: shell patterns of names that are left out.
      include_embeddings: also take embeddings and output heads.

    Raises:
      PairingError: the two do not belong together; the text says which tensors do not match, and how many do.
      SettingError: ``include`` matches no tensor.
    """
    choice = _Choice(include, exclude, include_embeddings)
    for pattern in include:
        if not any(fnmatchcase(name, pattern) for name in base.names()):
            raise SettingError(
                f"include '{pattern}' matches none of the {len(base.tensors)} tensors of '{base.source}'; "
                f"expected a pattern such as '*.q_proj.*'"
            )
    if isinstance(tuned, Adapter):
        return _pair_adapter(base, tuned, choice)
    return _pair_checkpoints(base, tuned, choice)


def _pair_checkpoints(base: Checkpoint, tuned: Checkpoint, choice: _Choice) -> Pairing:
    matching = match_names(_shapes(base), _shapes(tuned))
    _require_same_architecture(base, tuned, matching)
    pairs: list[MatrixPair] = []
    skipped = [Skipped(name, f"the same tensor as '{other}'") for name, other in base.tied.items()]
    for name in base.names():
        other = matching.tuned_of.get(name)
        reason = _not_a_matrix(base, name) or choice.reason_to_leave_out(name)
        if reason is None and other is None:
            reason = "missing in tuned"
        if reason is None and other is not None and base.shape(name) != tuned.shape(other):
            reason = f"other shape: {base.shape(name)} and {tuned.shape(other)}"
        if reason is not None or other is None:
            skipped.append(Skipped(name, reason or ""))
        else:
            pairs.append(_dense_pair(base, name, tuned, other))
    matched = set(matching.tuned_of.values())
    skipped += [
        Skipped(name, "missing in base")
        for name in tuned.names()
        if name not in matched and name not in base.tied
    ]
    return Pairing(base.source, tuned.source, tuned.kind, pairs, skipped, _in_words(matching))


def _dense_pair(base: Checkpoint, name: str, tuned: Checkpoint, other: str) -> MatrixPair:
    def load() -> LoadedPair | None:
        before, after = base.read(name), tuned.read(other)
        # A base in float32 and a tuned model saved in bfloat16 differ by rounding where training changed
        # nothing.
        same = torch.equal(before, after) or torch.equal(before.to(after.dtype), after)
        return None if same else LoadedPair(before, tuned=after)

    rows, columns = base.shape(name)
    return MatrixPair(name, (rows, columns), None, load)


def _pair_adapter(base: Checkpoint, adapter: Adapter, choice: _Choice) -> Pairing:
    updates = {update.name: update for update in adapter.updates}
    matching = match_names(
        {**_shapes(base), **{name: base.shape(name) for name in base.tied}},
        {name: update.shape for name, update in updates.items()},
    )
    _require_modules(base, adapter, matching)
    pairs: list[MatrixPair] = []
    skipped = [
        Skipped(name, f"the same tensor as '{other}'")
        for name, other in base.tied.items()
        if name not in matching.tuned_of
    ]
    for name in base.names():
        reason = _not_a_matrix(base, name) or choice.reason_to_leave_out(name)
        if reason is None and name not in matching.tuned_of:
            reason = "unchanged"
        if reason is not None:
            skipped.append(Skipped(name, reason))
        else:
            pairs.append(_updated_pair(base, name, updates[matching.tuned_of[name]]))
    skipped += [Skipped(name, reason) for name, reason in adapter.ignored]
    return Pairing(base.source, adapter.source, adapter.kind, pairs, skipped, _in_words(matching))


def _updated_pair(base: Checkpoint, name: str, update: WeightUpdate) -> MatrixPair:
    def load() -> LoadedPair | None:
        before = base.read(name)
        change = update.change(before)
        if isinstance(change, Factors):
            untrained = not change.left.any() or not change.right.any()
            return None if untrained else LoadedPair(before, left=change.left, right=change.right)
        return None if torch.equal(before, change.to(before.dtype)) else LoadedPair(before, tuned=change)

    return MatrixPair(name, update.shape, update.rank, load)


def _require_same_architecture(base: Checkpoint, tuned: Checkpoint, matching: Matching) -> None:
    ours = [name for name in base.names() if _is_inner_matrix(base, name)]
    theirs = [name for name in tuned.names() if _is_inner_matrix(tuned, name)]
    if not ours or not theirs:
        without = base if not ours else tuned
        raise PairingError(
            f"'{without.source}' has no two-dimensional weight apart from embeddings and heads"
        )
    same = {
        name
        for name in ours
        if name in matching.tuned_of and tuned.shape(matching.tuned_of[name]) == base.shape(name)
    }
    if 2 * len(same) >= min(len(ours), len(theirs)):
        return
    matched = set(matching.tuned_of.values())
    shapes = [
        f"{name} {base.shape(name)} and {tuned.shape(matching.tuned_of[name])}"
        for name in ours
        if name in matching.tuned_of and name not in same
    ]
    parts = [f"{len(same)} of {len(ours)} matrices match"]
    for title, names in (
        ("of other shape", shapes),
        ("only in base", [name for name in ours if name not in matching.tuned_of]),
        ("only in tuned", [name for name in theirs if name not in matched]),
    ):
        if names:
            parts.append(f"{title}: {some_of(names)}")
    raise PairingError(
        f"'{base.source}' and '{tuned.source}' are of different architectures: {'; '.join(parts)}"
    )


def _require_modules(base: Checkpoint, adapter: Adapter, matching: Matching) -> None:
    base_of = {other: name for name, other in matching.tuned_of.items()}
    # A head that was added for the task and trained in full is new, and no sign of another base.
    lost = [
        update.name
        for update in adapter.updates
        if update.name not in base_of and update.method != "replaced"
    ]
    if lost:
        raise PairingError(
            f"the adapter '{adapter.source}' is for another base: '{base.source}' lacks {len(lost)} of the "
            f"{len(adapter.updates)} weights it changes: {some_of(lost)}"
        )
    wrong = [
        f"{base_of[update.name]} is {base.shape(base_of[update.name])} and the adapter's is {update.shape}"
        for update in adapter.updates
        if update.name in base_of and base.shape(base_of[update.name]) != update.shape
    ]
    if wrong:
        raise PairingError(
            f"the adapter '{adapter.source}' is for another base: {len(wrong)} of {len(adapter.updates)} "
            "weights of "
            f"'{base.source}' have another shape: {some_of(wrong)}"
        )


def _is_inner_matrix(checkpoint: Checkpoint, name: str) -> bool:
    return _not_a_matrix(checkpoint, name) is None and not is_embedding_or_head(name)


def _not_a_matrix(checkpoint: Checkpoint, name: str) -> str | None:
    dimensions = len(checkpoint.shape(name))
    if dimensions < 2:
        return "one-dimensional"
    if dimensions > 2:
        return f"{dimensions}-dimensional"
    return None if checkpoint.dtype(name).is_floating_point else f"numbers of type {checkpoint.dtype(name)}"


def _shapes(checkpoint: Checkpoint) -> Mapping[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in checkpoint.tensors.items()}


def _in_words(matching: Matching) -> list[str]:
    return [
        f"'{rule.tuned_prefix}' of tuned for '{rule.base_prefix}' of base: {rule.tensors} tensors"
        for rule in matching.rules
    ]
