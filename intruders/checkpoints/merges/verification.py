"""The verification of a merged model as a result: counted, judged as a whole, and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...system.plain_values import from_plain, plain
from ...system.result_protocol import JsonResult
from ...system.this_process import ExitStatus
from ...version import __version__
from .verdict import (
    APPLIED,
    NOT_PROVED,
    VERDICTS,
    WITHIN_QUANTIZATION,
    WRONG,
    Verdict,
)

SCHEMA = 1


@dataclass(frozen=True)
class VerifiedMatrix:
    """One matrix that the adapter changes, and what the merged model has in its place."""

    name: str
    shape: tuple[int, int]
    found: Verdict

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "shape": list(self.shape), **self.found.as_dict()}


@dataclass(frozen=True)
class OtherTensor:
    """A tensor that the adapter leaves alone, and how the merged model has it otherwise."""

    name: str
    reason: str


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

    schema = SCHEMA
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
        bounds = [
            matrix.found.scale
            for matrix in self.matrices
            if matrix.found.verdict == APPLIED and matrix.found.scale is not None
        ]
        return (min(low for low, _ in bounds), max(high for _, high in bounds)) if bounds else None

    @property
    def estimate(self) -> float | None:
        """The scale of the update in all quantized matrices together; None without any.

        It may be off by some percent: quantization moves weights the same way in many matrices, which their own
        standard errors do not know.
        """
        estimates = [
            (matrix.found.estimate, matrix.found.error)
            for matrix in self.matrices
            if matrix.found.is_quantized
            and matrix.found.estimate is not None
            and matrix.found.error is not None
            and 0 < matrix.found.error < math.inf
        ]
        if not estimates:
            return None
        weight = sum(1 / error**2 for _, error in estimates)
        return sum(scale / error**2 for scale, error in estimates) / weight

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
        """Plain JSON values; null for what is not known."""
        return {
            "schema": SCHEMA,
            "intruders_version": __version__,
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
    def from_document(cls, document: Mapping[str, Any]) -> Verification:
        """Make it from its document."""
        matrices = [
            VerifiedMatrix(
                record["name"], (record["shape"][0], record["shape"][1]), Verdict.from_dict(record)
            )
            for record in document["matrices"]
        ]
        return cls(
            base_source=document["base"]["source"],
            adapter_source=document["adapter"]["source"],
            merged_source=document["merged"]["source"],
            matrices=matrices,
            others=from_plain(list[OtherTensor], document["others"]),
            unchecked=from_plain(list[OtherTensor], document["unchecked"]),
            matched=document["matched"],
            seconds=document["seconds"],
        )
