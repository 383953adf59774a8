"""A random rank-one term in the place of a trained update: the work of a study's ``kind: random-rank-one``."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import normalize

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.stored.matrices import selected_matrices
from intruders.engine.decide import decide
from intruders.linalg.low_rank import LowRank
from intruders.linalg.pair import Pair
from intruders.linalg.spiked_threshold import Spectrum, spiked_threshold
from intruders.models.base_model import base_model_location
from intruders.studies.runs import Run


def random_rank_one(run: Run) -> list[dict[str, Any]]:
    """Count the intruders of every matrix of the base with a random rank-one term of every size, one row each.

    W = W0 + multiple ||W0||_2 u v^T, with u and v uniform on their spheres, the same at all multiples. Nothing is
    trained, so what is found is due to the size of a term whose directions have nothing to do with W0.
    """
    audit = replace(run.measure.audit, include=run.include, exclude=run.exclude)
    checkpoint = open_checkpoint(base_model_location(run.base))
    audit.require_matches(checkpoint.names(), checkpoint.source)
    generator = torch.Generator().manual_seed(run.seed)
    rows = []
    for stored in selected_matrices(checkpoint, audit):
        matrix = stored.read(checkpoint.tensors[stored.tensor]).float()
        m, n = matrix.shape
        left, right = (
            normalize(torch.randn(size, generator=generator, dtype=torch.float64), dim=0) for size in (m, n)
        )
        values = torch.linalg.svdvals(matrix.double())
        norm = float(values[0])
        theta = spiked_threshold(Spectrum.of_values(values, (m, n), len(values)), audit.k, audit.epsilon)
        known = None
        for multiple in run.multiples:
            term = LowRank((multiple * norm * left).float().reshape(1, m, 1), right.float().reshape(1, 1, n))
            judged = decide(Pair(matrix.unsqueeze(0), term), audit.k, audit.epsilon, known=known)
            known = judged.known
            rows.append(
                {
                    "name": stored.name,
                    "rows": m,
                    "columns": n,
                    "multiple": float(multiple),
                    "predicted_multiple": theta / norm if norm > 0 and math.isfinite(theta) else None,
                    "intruders": int(judged.intruder.sum()),
                }
            )
    return rows
