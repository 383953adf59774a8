"""The matrices of a model, read one by one and stacked by shape: what audits and interventions work on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checkpoints.pairing.pairing import LoadedPair, PairedMatrix, Skipped
from ..errors import NonFiniteError
from ..linalg.pair import Pair

# Equal-shaped matrices are judged together up to this many bytes, so that the calls do not dominate small ones. In a
# larger stack all wait longer for the one that converges last.
STACK_BYTES = 12 * 2**20
# Stacks up to this size are judged by several threads at once; larger matrices keep all cores busy one by one.
SHARED_BYTES = 24 * 2**20


@dataclass(frozen=True)
class Batch:
    """Matrices to be judged together, and what each was divided by."""

    pairs: list[PairedMatrix]
    stack: Pair
    scales: list[float]


def is_small_batch(group: Batch) -> bool:
    return group.stack.base.nbytes <= SHARED_BYTES and group.stack.base.is_cpu


def read_batches(
    pairs: Sequence[PairedMatrix], device: torch.device, skip_non_finite: bool, left_out: list[Skipped]
) -> Iterator[Batch]:
    """Loads matrices one by one and hands them on in stacks of equal shape, kind of update and dtype.

    Matrices come in single precision (double where a side came in double), divided by a power of two where their
    squares would not fit. What has nothing to judge is added to ``left_out``.

    Raises:
      NonFiniteError: a matrix holds NaN or infinity, and such are not to be skipped.
    """
    waiting: dict[object, list[tuple[PairedMatrix, LoadedPair, float]]] = {}
    for matrix in pairs:
        loaded = matrix.load()
        if loaded is None:
            left_out.append(Skipped(matrix.name, "unchanged"))
            continue
        if min(matrix.shape) == 0:
            left_out.append(Skipped(matrix.name, f"empty: shape {matrix.shape}"))
            continue
        wide = _widened(loaded, device)
        del loaded  # what the file holds is not kept in memory beside what is computed with
        largest = _largest_magnitudes(wide)
        side = next((side for side, magnitude in largest.items() if not math.isfinite(magnitude)), None)
        if side is not None:
            if not skip_non_finite:
                raise NonFiniteError(
                    f"'{matrix.name}' holds NaN or infinity in the {side}, so it has no singular vectors; "
                    f"mend the checkpoint, or leave it out: --exclude '{matrix.name}' (audits: or --skip-non-finite)"
                )
            left_out.append(Skipped(matrix.name, f"NaN or infinity in the {side}"))
            continue
        rank = None if wide.left is None else wide.left.shape[1]
        key = (matrix.shape, rank, wide.base.dtype)
        group = waiting.setdefault(key, [])
        group.append((matrix, wide, _scale(wide, largest)))
        if (len(group) + 1) * wide.base.nbytes > STACK_BYTES:
            yield _grouped(waiting.pop(key))
    for group in waiting.values():
        yield _grouped(group)


def _widened(loaded: LoadedPair, device: torch.device) -> LoadedPair:
    """The same pair in single precision, or in double where a side came in double."""
    parts = (loaded.base, loaded.tuned, loaded.left, loaded.right)
    double = any(part is not None and part.dtype == torch.float64 for part in parts)
    dtype = torch.float64 if double else torch.float32

    def moved(part: Tensor | None) -> Tensor | None:
        return None if part is None else part.to(device, dtype)

    return LoadedPair(
        loaded.base.to(device, dtype), moved(loaded.tuned), moved(loaded.left), moved(loaded.right)
    )


def _largest_magnitudes(loaded: LoadedPair) -> dict[str, float]:
    """Of each side; not finite where a number of the side is not."""
    tuned = [part for part in (loaded.tuned, loaded.left, loaded.right) if part is not None and part.numel()]
    # Not Python's maximum, which may pass by a NaN.
    ends = torch.tensor([0.0, *map(_largest_magnitude, tuned)], dtype=torch.float64)
    return {"base": _largest_magnitude(loaded.base), "tuned model": float(ends.max())}


def _largest_magnitude(tensor: Tensor) -> float:
    # One pass without the temporary copy that ``abs`` would make; NaN survives both minimum and maximum.
    low, high = torch.aminmax(tensor)
    return float(torch.maximum(low.abs(), high.abs()))


def _scale(loaded: LoadedPair, largest: dict[str, float]) -> float:
    """A power of two to divide by, so that squares neither overflow nor vanish.

    1 for weights of common size. The size of factors says little of their product's, and does not count.
    """
    magnitude = largest["base"] if loaded.tuned is None else max(largest.values())
    if magnitude == 0 or 2.0**-20 <= magnitude <= 2.0**20:
        return 1.0
    return float(2.0 ** torch.frexp(torch.tensor(magnitude, dtype=torch.float64)).exponent.item())


def _grouped(members: list[tuple[PairedMatrix, LoadedPair, float]]) -> Batch:
    scales = [scale for _, _, scale in members]
    parts: list[Tensor | None] = []
    for name in ("base", "tuned", "left", "right"):
        tensors = [getattr(loaded, name) for _, loaded, _ in members]
        if tensors[0] is None:
            parts.append(None)
            continue
        if name != "right":
            tensors = [t if s == 1.0 else t / s for t, s in zip(tensors, scales, strict=True)]
        parts.append(tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors))
    base, tuned, left, right = parts
    assert base is not None
    return Batch([matrix for matrix, _, _ in members], Pair(base, tuned, left, right), scales)
