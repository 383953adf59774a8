"""How large an update of a base may be before any training, from the spectra of its matrices."""

import math
import os
from collections import defaultdict
from dataclasses import dataclass
from statistics import median

import torch

from ..checkpoints.opening.open import open_checkpoint
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.matrices import selected_matrices
from ..checkpoints.stored.names import module_paths
from ..checkpoints.stored.selection import AS_AUDITED
from ..errors import CheckpointError, NonFiniteError
from ..linalg.spiked_threshold import spectrum_of, spiked_threshold
from ..system.progress import Progress


@dataclass(frozen=True)
class Room:
    """The size at which an update of one matrix is expected to have an intruder."""

    name: str
    threshold: float  # ||D||_2
    norm: float  # ||W0||_2


def room_lines(base: str | os.PathLike[str], k: int, epsilon: float, progress: Progress) -> list[str]:
    """Predict how large an update may be: the least and the median critical norm of each module type."""
    rooms = rooms_of(open_checkpoint(base), k, epsilon, progress)
    if not rooms:
        raise CheckpointError(f"'{base}' has no weight matrices; expected a model to be fine-tuned")
    by_kind: dict[str, list[Room]] = defaultdict(list)
    for module, room in zip(module_paths([room.name for room in rooms]), rooms, strict=True):
        by_kind[module.kind].append(room)
    lines = []
    for kind, members in sorted(by_kind.items(), key=lambda item: min(room.threshold for room in item[1])):
        least = min(members, key=lambda room: room.threshold)
        if math.isfinite(least.threshold):
            middle = median(room.threshold for room in members)
            lines.append(
                f"  - {kind}: {least.threshold:.3g} ({least.threshold / least.norm:.2g} of the largest singular value "
                f"of {least.name}), {middle:.3g} in the median of {len(members)}"
            )
    return [
        "An intruder is predicted where the largest singular value of a module's update, alpha/r B A, is above:",
        *lines,
        (
            "This is for an update in directions that have nothing to do with the base (the spiked-matrix threshold of "
            f"its spectrum, k = {k}, epsilon = {epsilon:g}); a trained update follows the base more."
        ),
    ]


def rooms_of(checkpoint: Checkpoint, k: int, epsilon: float, progress: Progress) -> list[Room]:
    """Measure every matrix of the base but embeddings and heads. NonFiniteError for NaN or infinity in one."""
    matrices = selected_matrices(checkpoint, AS_AUDITED)
    rooms = []
    for done, matrix in enumerate(matrices, start=1):
        weights = matrix.read(checkpoint.tensors[matrix.tensor]).float()
        if not bool(torch.isfinite(weights).all()):
            raise NonFiniteError(f"'{matrix.name}' of '{checkpoint.source}' contains NaN or infinity")
        spectrum = spectrum_of(weights, k)
        norm = float(spectrum.leading[0])
        if norm > 0:
            rooms.append(Room(matrix.name, spiked_threshold(spectrum, k, epsilon), norm))
        progress("spectra of the base", done, len(matrices))
    return rooms
