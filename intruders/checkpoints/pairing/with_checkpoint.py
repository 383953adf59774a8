"""Two full checkpoints, matched tensor by tensor."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...errors import PairingError, some_of
from ...linalg.pair import Pair
from ..checkpoint import Checkpoint
from ..matrices import MatrixView, matrices_of, not_a_matrix
from ..names import is_embedding_or_head
from ..selection import Selection
from .matching import Matching, match_names
from .pairing import PairedMatrix, Pairing, SkipKind, Skipped


def pair_with_checkpoint(base: Checkpoint, tuned: Checkpoint, selection: Selection) -> Pairing:
    """Every matrix that both have in one shape; embeddings with tokens added, on the rows that both have.

    Raises:
      PairingError: fewer than half of the smaller one's matrices are in the other.
    """
    matching = match_names(_shapes(base), _shapes(tuned))
    _require_same_architecture(base, tuned, matching)
    base = replace(base, input_first=base.input_first | _input_first_in(tuned, base, matching))
    pairs: list[PairedMatrix] = []
    skipped = [Skipped(name, f"the same tensor as '{other}'") for name, other in base.tied.items()]
    notes = matching.in_words()
    for name, stored in base.tensors.items():
        reason = not_a_matrix(stored) or selection.reason_to_leave_out(name)
        other = matching.tuned_of.get(name)
        if reason is not None:
            skipped.append(Skipped(name, reason))
            continue
        if other is None:
            skipped.append(Skipped(name, "missing in tuned", SkipKind.NO_COUNTERPART))
            continue
        matrices = matrices_of(base, name, selection.split_fused)
        if base.shape(name) != tuned.shape(other):
            common = common_rows(base, name, tuned.shape(other))
            if common is None:
                reason = f"other shape: {base.shape(name)} and {tuned.shape(other)}"
                skipped.append(Skipped(name, reason, SkipKind.OTHER_SHAPE))
                continue
            matrices = [common]
            notes.append(rows_in_words(base, name, tuned, other))
        pairs += [dense_pair(base, matrix, tuned, other) for matrix in matrices]
    matched = set(matching.tuned_of.values())
    skipped += [
        Skipped(name, "missing in base", SkipKind.NO_COUNTERPART)
        for name in tuned.names()
        if name not in matched and name not in base.tied
    ]
    return Pairing(base.source, tuned.source, tuned.kind, pairs, skipped, notes)


def _input_first_in(tuned: Checkpoint, base: Checkpoint, matching: Matching) -> set[str]:
    """The base's weights that are stored (in, out) as far as the tuned model's shapes tell.

    A few square weights alone do not say which of their sides is the output; beside others they do.
    """
    return {
        name
        for name, other in matching.tuned_of.items()
        if other in tuned.input_first and tuned.shape(other) == base.shape(name)
    }


def dense_pair(base: Checkpoint, matrix: MatrixView, tuned: Checkpoint, other: str) -> PairedMatrix:
    """The matrix before and after, read in full on both sides."""

    def load() -> Pair | None:
        before, after = matrix.read(base.tensors[matrix.tensor]), matrix.read(tuned.tensors[other])
        # A base in float32 and a tuned model saved in bfloat16 differ by rounding where nothing was trained.
        same = torch.equal(before, after) or torch.equal(before.to(after.dtype), after)
        return None if same else Pair(before, after)

    return PairedMatrix(matrix.name, matrix.shape, None, load)


def common_rows(base: Checkpoint, name: str, other: tuple[int, ...]) -> MatrixView | None:
    """The tokens that both embeddings have, when only their number differs."""
    shape = base.shape(name)
    if len(shape) != 2 or len(other) != 2 or shape[1] != other[1] or not is_embedding_or_head(name):
        return None
    rows = min(shape[0], other[0])
    (whole,) = matrices_of(base, name)
    return replace(whole, shape=(rows, shape[1]), rows=torch.arange(rows))


def rows_in_words(base: Checkpoint, name: str, tuned: Checkpoint, other: str) -> str:
    """On which rows two embeddings are compared."""
    counts = base.shape(name)[0], tuned.shape(other)[0]
    return f"'{name}' on the first {min(counts)} tokens; base has {counts[0]}, tuned {counts[1]}"


def _require_same_architecture(base: Checkpoint, tuned: Checkpoint, matching: Matching) -> None:
    ours = [name for name in base.names() if _is_inner_matrix(base, name)]
    theirs = [name for name in tuned.names() if _is_inner_matrix(tuned, name)]
    if not ours or not theirs:
        without = base if not ours else tuned
        raise PairingError(
            f"'{without.source}' has no two-dimensional weight of floating-point numbers apart from "
            "embeddings "
            "and heads; expected a model"
        )
    tuned_of = matching.tuned_of
    same = {name for name in ours if name in tuned_of and tuned.shape(tuned_of[name]) == base.shape(name)}
    if 2 * len(same) >= min(len(ours), len(theirs)):
        return
    shapes = [
        f"{name} {base.shape(name)} and {tuned.shape(tuned_of[name])}"
        for name in ours
        if name in tuned_of and name not in same
    ]
    matched = set(tuned_of.values())
    parts = [f"{len(same)} of {len(ours)} matrices match"]
    for title, names in (
        ("of other shape", shapes),
        ("only in base", [name for name in ours if name not in tuned_of]),
        ("only in tuned", [name for name in theirs if name not in matched]),
    ):
        if names:
            parts.append(f"{title}: {some_of(names)}")
    raise PairingError(
        f"'{base.source}' and '{tuned.source}' are of different architectures: {'; '.join(parts)}"
    )


def _is_inner_matrix(checkpoint: Checkpoint, name: str) -> bool:
    return not_a_matrix(checkpoint.tensors[name]) is None and not is_embedding_or_head(name)


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
