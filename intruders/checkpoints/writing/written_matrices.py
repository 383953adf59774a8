"""The matrices that were paired, as the tensors of a written checkpoint contain them.

Experts that a file has one by one are paired, and changed, as stacks where the other side has stacks. The file keeps
its own names and shapes: each of its tensors takes its rows of the matrix.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from ...errors import CheckpointError, some_of
from ..pairing.experts import InStacks, positions_in_stacks
from ..stored.checkpoint import Checkpoint
from ..stored.matrices import MatrixView, put_back


@dataclass(frozen=True)
class WrittenMatrix:
    """A matrix as it was paired, and where a written tensor contains it."""

    matrix: MatrixView
    position: InStacks

    @property
    def name(self) -> str:
        """That of its pair."""
        return self.matrix.name

    def put(self, tensor: Tensor, values: Tensor) -> None:
        """Write the matrix (m, n), or the part of it that the tensor contains, into the tensor."""
        if self.position.expert is None:
            put_back(self.matrix, tensor, values)
        else:
            put_back(replace(self.matrix, expert=None), tensor, values[self.position.rows])


@dataclass(frozen=True)
class WrittenNames:
    """The positions of a file's tensors among those that were paired."""

    positions: Mapping[str, InStacks] = field(repr=False)  # empty where all names are the same

    @classmethod
    def of(cls, own: Checkpoint, paired: Checkpoint) -> WrittenNames:
        """Those of a checkpoint as it is stored, and under the names that it was paired by."""
        return cls({} if paired.tensors is own.tensors else positions_in_stacks(own))

    def position(self, name: str) -> InStacks:
        """The position of the file's tensor of that name."""
        return self.positions.get(name, InStacks(name))

    def own_name(self, paired: str) -> str:
        """The file's tensor, or the first of those, that a paired one was made of."""
        return next((own for own, position in self.positions.items() if position.tensor == paired), paired)


def written_matrices(position: InStacks, matrices: Sequence[MatrixView]) -> list[WrittenMatrix]:
    """Those matrices of a paired tensor that the written tensor at a position of it contains a part of."""
    chosen = matrices if position.expert is None else [m for m in matrices if m.expert == position.expert]
    return [WrittenMatrix(matrix, position) for matrix in chosen]


def require_written(names: Iterable[str], written: Collection[str], source: str) -> None:
    """Raise CheckpointError unless every changed matrix belongs to a tensor that is written."""
    lost = [name for name in dict.fromkeys(names) if name not in written]
    if lost:
        raise CheckpointError(
            f"'{source}' changes {some_of(lost)}, which no tensor of the written checkpoint contains; expected a base "
            "with the same matrices; merge it into its base (merge_and_unload in PEFT, save_pretrained), and pass the "
            "merged checkpoint"
        )
