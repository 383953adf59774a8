"""The simplest mechanism: a random rank-one term of growing size, added to a real base matrix.

W = W0 + multiple ||W0||_2 u v^T, with u and v uniform on their spheres. Nothing is trained here, so what is found is
due to the size of a term whose directions have nothing to do with W0, and to that alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..audits.audit_settings import AS_USUAL, AuditSettings
from ..checkpoints.opening.open import open_checkpoint
from ..checkpoints.stored.matrices import selected_matrices
from ..checkpoints.stored.selection import Selection
from ..engine.decide import decide
from ..linalg.low_rank import LowRank
from ..linalg.pair import Pair
from ..linalg.spiked_threshold import Spectrum, spiked_threshold
from ..models.base_model import base_model_location


@dataclass(frozen=True)
class RankOneTerm:
    """The intruders of one matrix under one term of one size."""

    name: str
    rows: int
    columns: int
    multiple: float  # ||D||_2 / ||W0||_2
    predicted_multiple: float | None  # of the first intruder, from the spectrum of W0; None if there is none
    intruders: int


def random_rank_one(
    base: str,
    multiples: Sequence[float],
    *,
    audit: AuditSettings = AS_USUAL,
    seed: int = 0,
) -> list[RankOneTerm]:
    """Count the intruders of every matrix of ``base`` at every multiple, in the same directions at all of them.

    Raises CheckpointError when the base cannot be read, SettingError when ``audit.include`` matches
    none of its tensors.
    """
    generator = torch.Generator().manual_seed(seed)
    terms = []
    for name, matrix in _matrices(base, audit):
        m, n = matrix.shape
        left = torch.nn.functional.normalize(torch.randn(m, generator=generator, dtype=torch.float64), dim=0)
        right = torch.nn.functional.normalize(torch.randn(n, generator=generator, dtype=torch.float64), dim=0)
        values = torch.linalg.svdvals(matrix.double())
        norm = float(values[0])
        theta = spiked_threshold(Spectrum.of_values(values, (m, n), len(values)), audit.k, audit.epsilon)
        predicted = theta / norm if norm > 0 and theta < float("inf") else None
        known = None
        for multiple in multiples:
            term = LowRank((multiple * norm * left).float().reshape(1, m, 1), right.float().reshape(1, 1, n))
            judged = decide(Pair(matrix.unsqueeze(0), term), audit.k, audit.epsilon, known=known)
            known = judged.known
            terms.append(RankOneTerm(name, m, n, float(multiple), predicted, int(judged.intruder.sum())))
    return terms


def _matrices(base: str, selection: Selection) -> Iterator[tuple[str, Tensor]]:
    checkpoint = open_checkpoint(base_model_location(base))
    selection.require_matches(checkpoint.names(), checkpoint.source)
    for matrix in selected_matrices(checkpoint, selection):
        yield matrix.name, matrix.read(checkpoint.tensors[matrix.tensor]).float()
