"""Interventions on a model in memory: put into its weights, measured, and taken out again, without a file."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from torch import Tensor, nn

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.matrices import MatrixView, matrices_of, put_back
from ..checkpoints.pairing.matching import match_names
from ..errors import PairingError
from .remedies.remedy import Case, Remedy


class LiveInterventions:
    """The weights of a tuned model that have intruders, which can be set to what any remedy makes of them.

        with LiveInterventions(model, base, cases) as live:
            live.set(ScaledIntruders(0.5))
            ...

    Leaving the block gives the model its own weights back.
    """

    def __init__(self, model: nn.Module, base: Checkpoint, cases: Sequence[Case]) -> None:
        """Raises PairingError when the model lacks a weight of a case."""
        tensors = dict(model.state_dict(keep_vars=True))
        matching = match_names(
            {name: base.shape(name) for name in base.names()},
            {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        )
        views = {matrix.name: matrix for name in base.names() for matrix in _matrices(base, name)}
        self._matrices: list[tuple[Case, MatrixView, Tensor]] = []
        self._own: dict[int, tuple[Tensor, Tensor]] = {}  # what a tensor held before
        for case in cases:
            matrix = views[case.matrix.name]
            name = matching.tuned_of.get(matrix.tensor)
            if name is None:
                raise PairingError(
                    f"the model that is measured has no weight '{case.matrix.name}'; pass the base it was made of"
                )
            tensor = tensors[name].data
            self._matrices.append((case, matrix, tensor))
            if id(tensors[name]) not in self._own:
                self._own[id(tensors[name])] = (tensor, tensor.clone())

    def __enter__(self) -> LiveInterventions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reset()

    def set(self, remedy: Remedy) -> None:
        """The tuned weights with every matrix as the remedy makes it."""
        self.reset()
        if remedy.changes_nothing:
            return
        for case, matrix, tensor in self._matrices:
            tuned = _matrix_in(matrix, tensor)
            changed = remedy.change(case).applied(tuned.to(case.update.device), case.update)
            put_back(matrix, tensor, changed.to(tensor.dtype))

    def reset(self) -> None:
        """The tuned weights themselves."""
        for tensor, own in self._own.values():
            tensor.copy_(own)


def _matrices(base: Checkpoint, name: str) -> list[MatrixView]:
    return matrices_of(base, name) if len(base.shape(name)) >= 2 else []


def _matrix_in(matrix: MatrixView, tensor: Tensor) -> Tensor:
    """The matrix (m, n), output side first, out of the tensor that holds it."""
    part = tensor if matrix.expert is None else tensor[matrix.expert]
    part = part.flatten(1) if part.dim() > 2 else part
    return matrix.cut(part.mT if matrix.input_first else part)
