"""The projection of a scale search where the base is known whole: no product with anything as large as the matrices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.batched import Batched
from ..linalg.coordinates import Coordinates
from ..linalg.small_cores import eigh
from ..linalg.spiked_threshold import Spectrum
from ..linalg.svd import leading_count
from ..linalg.whole_base import WholeBase
from .projection import Projection, at_scales, followed_count

# The least distance of two squared values that is divided by, as a share of the largest.
_APART = 1e-12
# Directions of the update that are followed at most.
_FOLLOWED = 24
# Nodes that stand for the singular values beyond the leading ones in a prediction.
_NODES = 64


@dataclass(frozen=True)
class RitzVectors(Batched):
    """The vectors of a batch's projections, in coordinates of the whole bases."""

    base: Tensor  # (batch, b, b): as in Projection
    cross: Tensor
    update: Tensor
    further: Tensor  # (batch, c, a): the basis beyond its first coordinates, which are the bases'

    def at(self, scales: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The ``count`` leading ones at a scale each: eigenvalues ``(batch, count)``, vectors ``(batch, count, a)``."""
        squares, vectors = eigh(at_scales(self.base, self.cross, self.update, scales))
        vectors = vectors.mT.flip(-2)[:, :count]
        shown = self.base.shape[-1] - self.further.shape[-2]
        rows = vectors[..., shown:] @ self.further
        rows[..., :shown] += vectors[..., :shown]
        return squares.flip(-1)[:, :count], rows


def project_in_coordinates(
    coordinates: Coordinates, whole: WholeBase, k: int, epsilon: float
) -> tuple[list[Projection], RitzVectors]:
    """Project a batch of tuned matrices on the leading base vectors, and on what the updates bring in."""
    _, m, n = whole.shape
    shown = leading_count(k, m, n)
    spectral = coordinates.left.square().sum(-2).sqrt()  # (batch, r): the update's singular values
    count, left_out = followed_count(spectral, spectral.norm(dim=-1), _FOLLOWED)
    left, through = (part[..., :count] for part in (coordinates.left, coordinates.through()))
    poles = coordinates.poles()
    # A vector of W with the value z is (z^2 - W0 W0^T)^-1 of what these span. It comes in at the k-th value.
    apart = ((poles[:, k - 1 : k] - poles) / poles[:, :1]).nan_to_num(0.0).clamp_min(_APART)
    nearby = torch.cat([left, through], -1) / apart.unsqueeze(-1)
    further, own = _ritz_of_rest(poles, nearby, shown)
    base = torch.diag_embed(torch.cat([poles[:, :shown], own], -1))
    along = torch.cat([left[:, :shown], further @ left], -2)  # (batch, b, d): D's directions on the basis
    mixed = torch.cat([through[:, :shown], further @ through], -2) @ along.mT
    own = along @ along.mT
    spectra = [Spectrum.of_values(values, (m, n), shown).grouped(_NODES) for values in coordinates.values]
    largest = zip(coordinates.values[:, 0].tolist(), spectral[:, 0].tolist(), strict=True)
    # They are kept for all matrices of a model, and a step of the search needs no more than single precision of them.
    others = further[..., shown : coordinates.values.shape[-1]].float()
    projections = [
        Projection.of(base[i], mixed[i], own[i], spectra[i], both, left_out[i], shown, k, epsilon, others[i])
        for i, both in enumerate(largest)
    ]
    return projections, RitzVectors(base, mixed + mixed.mT, own, further)


def _ritz_of_rest(poles: Tensor, columns: Tensor, shown: int) -> tuple[Tensor, Tensor]:
    """Ritz vectors ``(batch, c, a)`` of the base, and their values, in what ``columns`` have beyond ``shown`` rows."""
    rest = torch.linalg.qr(columns[:, shown:]).Q.mT  # (batch, c, a - shown)
    squares, vectors = eigh((rest * poles[:, None, shown:]) @ rest.mT)
    rows = vectors.mT.flip(-2) @ rest
    return torch.nn.functional.pad(rows, (shown, 0)), squares.flip(-1)
