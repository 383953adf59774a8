"""What was found about the leading vectors of a stack of matrices, and how findings are put together."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from .known import KnownBase


@dataclass(frozen=True)
class Findings:
    """About the k leading vectors of each matrix of a stack."""

    values: Tensor  # (batch, k): singular values of the tuned matrices
    lower: Tensor  # (batch, k): proved interval of the max cosine
    upper: Tensor  # (batch, k)
    intruder: Tensor  # (batch, k), bool
    certificate: list[list[str]]  # [batch][k]
    ambiguous: Tensor  # (batch, k), bool
    base_values: Tensor  # (batch, d): leading singular values of the base matrices
    similarity: Tensor  # (batch, d, k): |<x_i, y_j>| of leading vectors
    known: KnownBase | None  # what was learnt of the bases alone

    def with_rows(self, index: Tensor, other: Findings) -> Findings:
        """The same with ``other``'s about the matrices at ``index``, but for what is known of bases."""
        certificate = list(self.certificate)
        for row, place in enumerate(index.tolist()):
            certificate[place] = other.certificate[row]
        tensors = {
            name: value.index_copy(0, index, getattr(other, name).to(value.dtype))
            for name, value in self._tensors().items()
        }
        return Findings(certificate=certificate, known=self.known, **tensors)

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}
