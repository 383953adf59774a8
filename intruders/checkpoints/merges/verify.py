"""Whether a merged model is what its base and its adapter give, matrix by matrix: the verdicts, counted and as JSON."""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...errors import CheckpointError, NonFiniteError
from ...system.callers_process import usual_settings
from ...system.plain_values import from_plain, plain
from ...system.progress import Progress, silent
from ...system.result_protocol import JsonResult
from ...system.this_process import ExitStatus
from ..opening.model_sum import ModelSum, parts_of
from ..opening.open import Source, open_checkpoint
from ..pairing.names_of_base import under_common_names
from ..pairing.open_sides import open_sides
from ..pairing.pair_sides import pair_sides
from ..pairing.pairing import PairedMatrix
from ..pairing.side import sides_of
from ..stored.checkpoint import Checkpoint, StoredTensor, read_once
from ..stored.names import match_names, tensor_of
from ..stored.selection import Selection
from ..stored.tied import separated, separated_uses, tied_uses
from .merged_matrix import MergedMatrix, stored_type, type_name
from .other_tensors import OtherTensor, differences, tensors_not_compared, tensors_only_in
from .verdict import (
    APPLIED,
    NOT_PROVED,
    OTHER_WEIGHTS,
    TOO_SMALL,
    VERDICTS,
    WITHIN_QUANTIZATION,
    WRONG,
    Verdict,
    judge,
)


@dataclass(frozen=True)
class VerifiedMatrix:
    """One matrix that the adapter changes, and what the merged model has in its place."""

    name: str
    shape: tuple[int, int]
    found: Verdict

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "shape": list(self.shape), **plain(self.found)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "VerifiedMatrix":
        rows, columns = record["shape"]
        verdict = from_plain(Verdict, record)
        if verdict.scale is not None:  # JSON has no infinity
            low, high = verdict.scale
            ends = (-math.inf if math.isnan(low) else low, math.inf if math.isnan(high) else high)
            verdict = replace(verdict, scale=ends)
        return cls(record["name"], (rows, columns), verdict)


@dataclass(frozen=True)
class Verification(JsonResult):
    """The verdict on every matrix of a merged model, which :func:`verify` returns.

    Attributes:
      base_source: the base, as it was given or named.
      adapter_source: the adapter.
      merged_source: the merged model.
      matrices: the verdict on each matrix.
      others: what the merged model changed besides.
      unchecked: what could not be compared.
      matched: in words, what was matched other than by equal names.
      seconds: the time it took.
    """

    what = "the verification of a merge"
    written_by = "intruders verify --json"

    base_source: str
    adapter_source: str
    merged_source: str
    matrices: list[VerifiedMatrix] = field(repr=False)
    others: list[OtherTensor] = field(repr=False)
    unchecked: list[OtherTensor] = field(repr=False)
    matched: list[str]
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        """How many matrices have which verdict, of those verdicts that were given."""
        counted = Counter(matrix.found.verdict for matrix in self.matrices)
        return {verdict: counted[verdict] for verdict in VERDICTS if counted[verdict]}

    @property
    def scale(self) -> tuple[float, float] | None:
        """The bounds on the scale that satisfy every matrix with the update applied; None without any."""
        applied = [matrix.found for matrix in self.matrices if matrix.found.verdict == APPLIED]
        bounds = [verdict.scale for verdict in applied if verdict.scale is not None]
        return (min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else None

    @property
    def estimate(self) -> float | None:
        """The scale of the update in all quantized matrices together; None without any.

        It may be off by some percent: quantization moves weights the same way in many matrices, which their own
        standard errors do not know.
        """
        quantized = [matrix.found for matrix in self.matrices if matrix.found.quantized]
        told = [(verdict.estimate, verdict.error or math.inf) for verdict in quantized]
        known = [(scale, error) for scale, error in told if scale is not None and 0 < error < math.inf]
        weight = sum(1 / error**2 for _, error in known)
        return sum(scale / error**2 for scale, error in known) / weight if known else None

    def exit_status(self, allow_other: bool = False) -> int:
        """0 where the adapter is applied, 1 where something is wrong, 3 where that could not be told.

        Matrices whose update is too small to tell do not count, unless all are; one that is not proved does.

        Args:
          allow_other: accept a merged model that changed other tensors besides.
        """
        counts = self.counts
        if WRONG & counts.keys() or (self.others and not allow_other):
            return ExitStatus.FAILED.value
        if NOT_PROVED in counts:
            return ExitStatus.NOT_TOLD.value
        told = {APPLIED, WITHIN_QUANTIZATION} & counts.keys()
        return (ExitStatus.DONE if told else ExitStatus.NOT_TOLD).value

    def to_document(self, allow_other: bool = False) -> dict[str, Any]:
        return {
            **self.head(),
            "base": {"source": self.base_source},
            "adapter": {"source": self.adapter_source},
            "merged": {"source": self.merged_source},
            "counts": self.counts,
            "estimate": self.estimate,
            "others_changed": len(self.others),
            "exit_status": self.exit_status(allow_other),
            "seconds": self.seconds,
            "matched": list(self.matched),
            "matrices": [matrix.as_dict() for matrix in self.matrices],
            "others": plain(self.others),
            "unchecked": plain(self.unchecked),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Verification":
        sources = {f"{side}_source": document[side]["source"] for side in ("base", "adapter", "merged")}
        return super().from_document({**document, **sources})


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
    before, (*_, after), renamed = under_common_names(before, [*parts, open_checkpoint(merged)])
    assert isinstance(after, Checkpoint)
    before, still_one = _with_head_as(before, after)
    before, is_sum = read_once(before), isinstance(opened, ModelSum)
    selection = Selection(include_embeddings=True, split_fused=split_fused)
    wanted, in_merged = pair_sides(before, opened, selection), pair_sides(before, after, selection)
    merged_name = match_names(before.shapes(), after.shapes()).tuned_of
    touched = {tensor_of(pair.name) for pair in wanted.pairs}
    sides = [side for side, _ in sides_of(before, opened)[1]]
    unchecked = tensors_not_compared(before, sides, is_sum)
    rest = [name for name in before.names() if name not in touched.union(entry.name for entry in unchecked)]
    saved, added = ({}, {}) if is_sum else (sides[0].tensors, sides[0].added)
    total = len(wanted.pairs) + len(rest) + len(added)

    found_of = {pair.name: pair for pair in in_merged.pairs}
    matrices: list[VerifiedMatrix] = []
    for pair in wanted.pairs:
        stored = after.tensors.get(merged_name.get(tensor_of(pair.name), ""))
        verdict = _verdict(pair, found_of.get(pair.name), stored, is_sum)
        if verdict.verdict in WRONG and pair.name in still_one:
            verdict = replace(verdict, words=still_one[pair.name])
        matrices.append(VerifiedMatrix(pair.name, pair.shape, verdict))
        progress("verify", len(matrices), total)

    others: list[OtherTensor] = []
    compared = differences(before, saved, added, after, rest, merged_name)
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
        others=others + tensors_only_in(after, before, opened, merged_name),
        unchecked=unchecked,
        matched=list(dict.fromkeys(renamed + wanted.matched + in_merged.matched)),
        seconds=time.perf_counter() - started,
    )


def _with_head_as(base: Checkpoint, merged: Checkpoint) -> tuple[Checkpoint, dict[str, str]]:
    """The base with a tensor of its own for a head that it ties, where a merged model has another head beside it.

    Also what is wrong with each use of a tied tensor that a merge left as one and that had to become two, by name.
    """
    apart = separated_uses(base)
    uses = apart or tied_uses(base)
    if uses is None or not {uses.embedding, uses.head} <= merged.tensors.keys():
        return base, {}
    if not torch.equal(merged.read(uses.embedding), merged.read(uses.head)):
        return separated(base, uses), {}
    if apart is None:
        return base, {}
    words = (
        f"'{uses.embedding}' and '{uses.head}' are one tensor in the merged model, and two beneath the adapter; "
        "write it with two (intruders scale --at 1 --as checkpoint)"
    )
    return base, {uses.embedding: words, uses.head: words}


def _verdict(
    pair: PairedMatrix, counterpart: PairedMatrix | None, stored: StoredTensor | None, is_sum: bool
) -> Verdict:
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
    for part, side in zip(both.parts, ("base", "adapter", "adapter"), strict=False):
        if part.numel() and not all(math.isfinite(end) for end in torch.aminmax(part.float())):
            raise NonFiniteError(
                f"'{pair.name}' contains NaN or infinity in the {side}; expected finite numbers; use another copy of it"
            )
    rows = min(pair.shape[0], counterpart.shape[0])  # of embeddings with tokens added, those that both have
    both = both.rows(slice(rows))
    # No pair comes of a matrix that is the base's, rounded.
    merged = both.base.to(stored.dtype) if after is None else after.dense()[:rows]
    matrix = MergedMatrix(both, merged, numbers)
    if numbers is not None and pair.merged is not None and not is_sum:
        for dtype in dict.fromkeys([matrix.dtype, both.base.dtype]):
            if not torch.equal(pair.merged(dtype)[:rows].to(merged.dtype), merged):
                continue
            if torch.equal(both.base.to(dtype).to(merged.dtype), merged):
                return Verdict(TOO_SMALL, "W0 and W round to the same numbers")
            words = f"PEFT's own merge in {type_name(dtype)}, bit for bit"
            return Verdict(APPLIED, precision=words, outside=0)
    return judge(matrix, pair.scale, is_sum or pair.rank is None)
