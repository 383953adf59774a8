"""The matrices of a model, read one by one and batched by shape: what audits and interventions work on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checkpoints.pairing.pairing import PairedMatrix, SkipKind, Skipped
from ..engine.decide import DENSE_BELOW
from ..errors import NonFiniteError
from ..linalg.pair import Pair

# Equal-shaped matrices are judged together up to this many bytes, so that the calls do not dominate small ones. In a
# larger batch all wait longer for the one that converges last.
BATCH_BYTES = 12 * 2**20
# Batches up to this size are decided by several threads at once; larger matrices keep all cores busy one by one.
SHARED_BYTES = 24 * 2**20


@dataclass(frozen=True)
class Batch:
    """Matrices of equal shape to be decided together."""

    matrices: list[PairedMatrix]
    pair: Pair  # of all of them, each divided by its unit
    units: list[float]  # powers of two


def is_small_batch(batch: Batch) -> bool:
    return batch.pair.base.nbytes <= SHARED_BYTES and batch.pair.base.is_cpu


def device_for(shape: Sequence[int], device: torch.device) -> torch.device:
    """Return where matrices of a shape are decided: small ones on the processor, whatever device the large ones use.

    Their decompositions are many short calls, of which a GPU waits for each.
    """
    return torch.device("cpu") if min(shape) < DENSE_BELOW else device


def read_batches(
    pairs: Sequence[PairedMatrix], device: torch.device, skip_non_finite: bool, left_out: list[Skipped]
) -> Iterator[Batch]:
    """Load matrices one by one and hand them on in batches of equal shape, kind of update and dtype.

    Matrices come in single precision (double where a side came in double), divided by a power of two where their
    squares would not fit. What has nothing to judge is added to ``left_out``.

    Raises:
      NonFiniteError: a matrix holds NaN or infinity, and such are not to be skipped.
    """
    waiting: dict[object, list[tuple[PairedMatrix, Pair, float]]] = {}
    for matrix in pairs:
        loaded = loaded_or_skipped(matrix)
        if isinstance(loaded, Skipped):
            left_out.append(loaded)
            continue
        wide = loaded.widened(device_for(matrix.shape, device))
        del loaded  # what the file holds is not kept in memory beside what is computed with
        largest = largest_magnitudes(wide)
        skipped = skipped_if_not_finite(matrix.name, largest, skip_non_finite)
        if skipped is not None:
            left_out.append(skipped)
            continue
        key = (matrix.shape, wide.rank, wide.base.dtype)
        batch = waiting.setdefault(key, [])
        batch.append((matrix, wide, unit_of(wide.rank, largest)))
        if (len(batch) + 1) * wide.base.nbytes > BATCH_BYTES:
            yield _joined(waiting.pop(key))
    for batch in waiting.values():
        yield _joined(batch)


def loaded_or_skipped(matrix: PairedMatrix) -> Pair | Skipped:
    """Load a matrix, or say why it has nothing to judge."""
    loaded = matrix.load()
    if loaded is None:
        return Skipped(matrix.name, "unchanged", SkipKind.UNCHANGED)
    if min(matrix.shape) == 0:
        return Skipped(matrix.name, f"empty: shape {matrix.shape}")
    return loaded


def skipped_if_not_finite(name: str, largest: dict[str, float], skip_non_finite: bool) -> Skipped | None:
    """Return the reason to skip a matrix, by the largest magnitude of each side; None if all numbers are finite.

    Raises:
      NonFiniteError: some are not, and such matrices are not to be skipped.
    """
    side = next((side for side, magnitude in largest.items() if not math.isfinite(magnitude)), None)
    if side is None:
        return None
    if not skip_non_finite:
        raise non_finite(name, side)
    return Skipped(name, f"NaN or infinity in the {side}", SkipKind.NOT_FINITE)


def non_finite(name: str, side: str) -> NonFiniteError:
    """The error about a matrix without singular values."""
    return NonFiniteError(
        f"'{name}' contains NaN or infinity in the {side}, so it has no singular vectors; "
        f"fix the checkpoint, or leave it out: --exclude '{name}' (audits: or --skip-non-finite)"
    )


def largest_magnitudes(pair: Pair) -> dict[str, float]:
    """Return each side's largest magnitude; not finite where a number of the side is not."""
    return {"base": largest_magnitude(pair.base), "tuned model": largest_magnitude_of(pair.parts[1:])}


def largest_magnitude_of(parts: Sequence[Tensor]) -> float:
    """Return the largest magnitude in several tensors, some of which may be empty."""
    # Not Python's maximum, which may pass by a NaN.
    ends = torch.tensor(
        [0.0, *(largest_magnitude(part) for part in parts if part.numel())], dtype=torch.float64
    )
    return float(ends.max())


def largest_magnitude(tensor: Tensor) -> float:
    """Return the largest magnitude in a tensor; not finite where a number is not."""
    # One pass without the temporary copy that ``abs`` would make; NaN survives both minimum and maximum.
    low, high = torch.aminmax(tensor)
    return float(torch.maximum(low.abs(), high.abs()))


def unit_of(rank: int | None, largest: dict[str, float]) -> float:
    """Return a power of two to divide by, so that squares neither overflow nor vanish.

    1 for weights of common size. The size of factors says little of their product's, and does not count.
    """
    magnitude = max(largest.values()) if rank is None else largest["base"]
    if magnitude == 0 or 2.0**-20 <= magnitude <= 2.0**20:
        return 1.0
    return float(2.0 ** torch.frexp(torch.tensor(magnitude, dtype=torch.float64)).exponent.item())


def _joined(members: list[tuple[PairedMatrix, Pair, float]]) -> Batch:
    return Batch(
        [matrix for matrix, _, _ in members],
        Pair.joined([pair.over(unit) for _, pair, unit in members]),
        [unit for _, _, unit in members],
    )
