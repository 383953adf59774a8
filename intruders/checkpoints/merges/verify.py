"""Whether a merged model is what its base and its adapter give, matrix by matrix."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from ...errors import CheckpointError, NonFiniteError
from ...linalg.pair import Pair
from ...system.callers_process import usual_settings
from ...system.progress import Progress, silent
from ..opening.model_sum import ModelSum, parts_of
from ..opening.open import Source, open_checkpoint
from ..pairing.names_of_base import under_common_names
from ..pairing.open_sides import open_sides
from ..pairing.pair_sides import pair_sides
from ..pairing.pairing import PairedMatrix
from ..pairing.side import sides_of
from ..pairing.tied_head import with_own_head
from ..stored.checkpoint import Checkpoint, StoredTensor
from ..stored.matching import match_names
from ..stored.names import tensor_of
from ..stored.read_once import read_once
from ..stored.selection import Selection
from ..stored.tied import is_separated, tied_uses
from .merged_matrix import MergedMatrix
from .other_tensors import added_differences, differences, tensors_not_compared, tensors_only_in
from .rounding import stored_type, type_name
from .verdict import APPLIED, OTHER_WEIGHTS, TOO_SMALL, WRONG, Verdict, judge
from .verification import OtherTensor, Verification, VerifiedMatrix


@usual_settings()
def verify(
    base: Source | None,
    adapter: Source,
    merged: Source,
    *,
    split_fused: bool = False,
    progress: Progress = silent,
) -> Verification:
    """Check that every matrix of a merged model is ``W0 + D``, rounded: the base plus the adapter's update.

    Each number M_i of the merged matrix bounds the scale s at which the update was applied, because M_i is a
    rounding of ``W0_i + s D_i``. The verdict follows from the bounds on s that satisfy all of them. Quantized
    weights allow only a least-squares estimate of s.

    Args:
      base: the model before the merge: a path, hub id, alias, module or state dict. None where the adapter names it.
      adapter: the adapter, or a sum such as ``"A@0.7+B@0.3"``.
      merged: the model that should contain it, as ``base``.
      split_fused: check q, k and v of a fused weight as matrices of their own.
      progress: called with (what is being done, tensors done, in all).

    Returns:
      A verdict for each matrix that the adapter changes, and what the merged model changed besides.

    Raises:
      CheckpointError: one of the three cannot be read, or ``adapter`` is a full checkpoint.
      PairingError: they do not belong together.
      NonFiniteError: base or adapter contains NaN or infinity.

    Examples:
      A merge that left out half of the update:

      >>> base, merged = {"q_proj.weight": torch.eye(4)}, {"q_proj.weight": torch.eye(4) + 0.5}
      >>> adapter = {"q_proj.lora_A.weight": torch.ones(1, 4), "q_proj.lora_B.weight": torch.ones(4, 1)}
      >>> result = verify(base, adapter, merged)
      >>> result.matrices[0].found.verdict, result.exit_status()
      ('applied at another scale', 1)
      >>> tuple(round(end, 2) for end in result.matrices[0].found.scale)
      (0.5, 0.5)
    """
    started = time.perf_counter()
    before, opened = open_sides(base, adapter)
    if isinstance(opened, Checkpoint):
        raise CheckpointError(
            f"'{opened.source}' is a full checkpoint; expected the adapter that was merged; "
            "pass BASE ADAPTER MERGED in this order"
        )
    parts = [part for part, _ in parts_of(opened)]
    before, (*parts, after), renamed = under_common_names(before, [*parts, open_checkpoint(merged)])
    assert isinstance(after, Checkpoint)
    still_one = _said_of_one_tensor(before, after)
    before, is_sum = read_once(with_own_head(before, after)), isinstance(opened, ModelSum)
    selection = Selection(include_embeddings=True, split_fused=split_fused)
    wanted, in_merged = pair_sides(before, opened, selection), pair_sides(before, after, selection)
    merged_name = match_names(before.shapes(), after.shapes()).tuned_of
    touched = {_stored_tensor_of(pair.name, before) for pair in wanted.pairs}
    sides = sides_of(before, parts)
    unchecked = tensors_not_compared(before, sides, is_sum)
    rest = [name for name in before.names() if name not in touched.union(entry.name for entry in unchecked)]
    total = len(wanted.pairs) + len(rest)

    found_of = {pair.name: pair for pair in in_merged.pairs}
    matrices: list[VerifiedMatrix] = []
    for pair in wanted.pairs:
        tensor = _stored_tensor_of(pair.name, before)
        stored = after.tensors.get(merged_name.get(tensor, ""))
        counterpart = found_of.get(tensor + pair.name.removeprefix(tensor_of(pair.name)))
        verdict = _verdict(pair, counterpart, stored, is_sum)
        if verdict.verdict in WRONG and pair.name in still_one:
            verdict = replace(verdict, words=still_one[pair.name])
        matrices.append(VerifiedMatrix(pair.name, pair.shape, verdict))
        progress("verify", len(matrices), total)

    others: list[OtherTensor] = []
    added = {} if is_sum else sides[0].added
    compared = differences(before, {} if is_sum else sides[0].tensors, after, rest, merged_name, added)
    for done, (other, unknown) in enumerate(compared, len(matrices) + 1):
        if other is not None:
            others.append(replace(other, reason=still_one.get(other.name, other.reason)))
        unchecked += [unknown] if unknown is not None else []
        progress("compare other tensors", done, total)
    return Verification(
        base_source=before.source,
        adapter_source=opened.source,
        merged_source=after.source,
        matrices=matrices,
        others=others + added_differences(added, after) + tensors_only_in(after, before, opened, merged_name),
        unchecked=unchecked,
        matched=list(dict.fromkeys(renamed + wanted.matched + in_merged.matched)),
        seconds=time.perf_counter() - started,
    )


def _said_of_one_tensor(base: Checkpoint, merged: Checkpoint) -> dict[str, str]:
    """What is wrong with each use of a tied tensor that a merge left as one and that had to become two, by name."""
    uses = tied_uses(base) if is_separated(base) else None
    if uses is None or not {uses.embedding, uses.head} <= merged.tensors.keys():
        return {}
    embedding, head = merged.tensors[uses.embedding], merged.tensors[uses.head]
    if embedding is not head and not torch.equal(embedding.read(), head.read()):
        return {}
    words = (
        f"'{uses.embedding}' and '{uses.head}' are one tensor in the merged model, and two beneath the adapter; "
        "write it with two (intruders scale --at 1 --as checkpoint)"
    )
    return {uses.embedding: words, uses.head: words}


def _verdict(
    pair: PairedMatrix, counterpart: PairedMatrix | None, stored: StoredTensor | None, is_sum: bool
) -> Verdict:
    """The verdict on one matrix: its update, and the matrix that the merged model has in its place, if any."""
    if stored is None:
        return Verdict(OTHER_WEIGHTS, "missing in the merged model")
    if counterpart is None:
        return Verdict(OTHER_WEIGHTS, f"other shape: {pair.shape}, and {stored.shape} in the merged model")
    if counterpart.shape[1] != pair.shape[1]:
        return Verdict(OTHER_WEIGHTS, f"other shape: {pair.shape} and {counterpart.shape}")
    numbers = stored_type(stored.stored_as)
    both, after = pair.load(), counterpart.load()
    if both is None:
        if after is None or numbers is None:
            return Verdict(TOO_SMALL, "the adapter does not change this matrix")
        return Verdict(OTHER_WEIGHTS, "the adapter does not change this matrix; the merged model does")
    _require_finite(both, pair.name)
    rows = min(pair.shape[0], counterpart.shape[0])  # of embeddings with tokens added, those that both have
    both = both.rows(slice(rows))
    # No pair comes of a matrix that is the base's, rounded.
    merged = both.base.to(stored.dtype) if after is None else after.dense()[:rows]
    matrix = MergedMatrix(both, merged, numbers)
    if numbers is not None and pair.merged is not None and not is_sum:
        for dtype in dict.fromkeys([matrix.dtype, both.base.dtype]):
            if torch.equal(pair.merged(dtype)[:rows].to(merged.dtype), merged):
                return _as_peft_merges(matrix, dtype)
    return judge(matrix, pair.scale, is_sum or pair.rank is None)


def _as_peft_merges(matrix: MergedMatrix, dtype: torch.dtype) -> Verdict:
    """The verdict on a matrix that is bit for bit what PEFT makes of the base in a type."""
    if torch.equal(matrix.pair.base.to(dtype).to(matrix.merged.dtype), matrix.merged):
        return Verdict(TOO_SMALL, "W0 and W round to the same numbers")
    return Verdict(APPLIED, precision=f"PEFT's own merge in {type_name(dtype)}, bit for bit", outside=0)


def _require_finite(both: Pair, name: str) -> None:
    for part, side in zip(both.parts, ("base", "adapter", "adapter"), strict=False):
        if part.numel() and not all(math.isfinite(end) for end in torch.aminmax(part.float())):
            raise NonFiniteError(
                f"'{name}' contains NaN or infinity in the {side}; expected finite numbers; use another copy of it"
            )


def _stored_tensor_of(matrix: str, base: Checkpoint) -> str:
    name = tensor_of(matrix)
    return base.tied.get(name, name)
