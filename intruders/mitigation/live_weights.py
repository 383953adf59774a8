"""Interventions on a model in memory: put into its weights, measured, and taken out again, without a file."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..checkpoints.pairing.in_memory import in_memory
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.matrices import MatrixView, put_back
from ..checkpoints.writing.merged import Elsewhere, everywhere_as_tuned
from ..linalg.low_rank import LowRank
from ..linalg.pair import Pair
from .remedies.changes import Change
from .remedies.remedy import Case, Remedy
from .remedies.shares import Interpolate

_Matrix = tuple[Case, MatrixView, Tensor]  # a case, where it is in the model's tensor, and that tensor


@dataclass(frozen=True)
class _Other:
    tensor: Tensor  # the model's
    part: Tensor  # of it, with the base's shape
    update_norm: float


class LiveInterventions:
    """The weights of a tuned model, which can be set to what any remedy makes of the matrices that are in use.

    A matrix with a low-rank update is computed from base and update, one at a time. The model's own values of any other
    tensor that was changed are held beside it, and the base's are read when they are needed.
    """

    def __init__(self, model: nn.Module, base: Checkpoint, others: Iterable[str] = ()) -> None:
        """Take a model with the tuned weights, and what they were tuned from.

        ``others`` are the base's names of tensors of which no case is, such as embeddings, norms and biases. Those that
        were tuned follow the shares that ``set`` is given.
        """
        self._tensors = dict(model.state_dict(keep_vars=True))
        self.in_memory = in_memory(base, model)
        # By its address in memory: a tensor, and what it held before.
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        # Names of matrices that differ from the tuned ones, which are computed again.
        self._changed: set[str] = set()
        # Of two names for one tensor the first alone: a share of a share would be left otherwise.
        tuned = {part.part.data_ptr(): part for part in self.in_memory.changed(others, self._tensors)}
        self.others: dict[str, _Other] = {}  # by the base's names
        for part in tuned.values():
            norm = float((part.part.double() - part.before.double()).norm())
            self.others[part.name] = _Other(self._tensors[part.key].data, part.part, norm)
        self._matrices: list[_Matrix] = []

    def use(self, cases: Sequence[Case]) -> None:
        """Take the cases to change; the weights are then the tuned ones, those of low-rank updates to rounding."""
        self.reset()
        self._matrices = [
            (case, self.in_memory.views[case.matrix.name], self._tensors[key].data)
            for case in cases
            for key in [self.in_memory.required_key(case.matrix.name)]
        ]
        for matrix in self._matrices:
            if isinstance(matrix[0].update, LowRank):
                self._write(matrix, Change())

    def set(self, remedy: Remedy, elsewhere: Elsewhere = everywhere_as_tuned) -> None:
        """Make every matrix as the remedy does, and give other tensors the share that they keep."""
        for tensor, own in self._own.values():
            tensor.copy_(own)
        for matrix in self._matrices:
            change = Change() if remedy.changes_nothing else remedy.change(matrix[0])
            if not change.keeps_all or matrix[0].matrix.name in self._changed:
                self._write(matrix, change)
        for name, other in self.others.items():
            share = elsewhere(name)
            if share == 1:
                continue
            self._keep(other.tensor)
            base = self.in_memory.base.read(name).to(other.part.device)
            if share != 0:
                base = base.double() + share * (other.part.double() - base.double())
            other.part.copy_(base.to(other.part.dtype))

    def reset(self) -> None:
        self.set(Interpolate(1.0))

    def _write(self, matrix: _Matrix, change: Change) -> None:
        """Write what a change makes of a matrix, in double precision from the base as it is stored."""
        case, view, tensor = matrix
        name, update = case.matrix.name, case.update
        base = self.in_memory.read(name).to(update.device)
        if isinstance(update, LowRank):
            if change.keeps_all:
                self._changed.discard(name)
            else:
                self._changed.add(name)
            pair = Pair(base, update)
        else:
            self._keep(tensor)
            own = view.of_part(tensor if view.expert is None else tensor[view.expert])
            pair = Pair(base, own.to(update.device))
        put_back(view, tensor, change.applied_to(pair, tensor.dtype))

    def norm_of_others(self, elsewhere: Elsewhere = everywhere_as_tuned) -> float:
        """``||W' - W0||_F`` over the tuned tensors of which no case is."""
        return math.hypot(*(elsewhere(name) * other.update_norm for name, other in self.others.items()))

    def _keep(self, tensor: Tensor) -> None:
        if tensor.data_ptr() not in self._own:
            self._own[tensor.data_ptr()] = (tensor, tensor.clone())
