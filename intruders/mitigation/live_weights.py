"""Interventions on a model in memory: put into its weights, measured, and taken out again, without a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from torch import Tensor, nn

from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.matching import match_names
from ..checkpoints.stored.matrices import MatrixView, every_matrix, put_back
from ..checkpoints.writing.merged import Elsewhere, everywhere_as_tuned
from ..errors import PairingError
from ..linalg.low_rank import LowRank
from ..linalg.pair import Pair
from .remedies.changes import Change
from .remedies.remedy import Case, Remedy


@dataclass(frozen=True)
class _Other:
    """A tuned tensor that no case is of."""

    name: str  # the base's
    tensor: Tensor
    update_norm: float


class LiveInterventions:
    """The weights of a tuned model, which can be set to what any remedy makes of them.

        with LiveInterventions(model, base, cases) as live:
            live.set(ScaledIntruders(0.5))
            ...

    Leaving the block gives the model its own weights back, bit for bit. The model's own values of every tensor that was
    changed are held beside it; the base's are read when they are needed. With ``recomputes`` a matrix with a low-rank
    update is computed again from both instead, one matrix at a time, and nothing is held.
    """

    def __init__(
        self,
        model: nn.Module,
        base: Checkpoint,
        cases: Sequence[Case] = (),
        others: Iterable[str] = (),
        *,
        recomputes: bool = False,
    ) -> None:
        """Args:
          model: with the tuned weights.
          base: what they were tuned from.
          cases: the matrices that remedies change.
          others: the base's names of tensors of which no case is, such as embeddings, norms and biases. Those that were
            tuned follow the shares that ``set`` is given.
          recomputes: whether matrices with low-rank updates are computed again from base and update. The model gets
            them so with its cases: its own weights are the same to rounding, as another merge makes them.

        Raises:
          PairingError: the model lacks a weight of a case.
        """
        self._base = base
        self._tensors = dict(model.state_dict(keep_vars=True))
        self._matching = match_names(
            base.shapes(),
            {name: tuple(tensor.shape) for name, tensor in self._tensors.items()},
        )
        self._views = every_matrix(base)
        # By its address in memory: a tensor, and what it held before.
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        self._recomputes = recomputes
        # By its name: what differs from the tuned matrix, which is computed again.
        self._changed: dict[str, tuple[Case, MatrixView, Tensor]] = {}
        # Of two names for one tensor the first alone: a share of a share would be left otherwise.
        distinct = {
            other.tensor.data_ptr(): other for name in others if (other := self._tuned(name)) is not None
        }
        self._others = list(distinct.values())
        self._matrices: list[tuple[Case, MatrixView, Tensor]] = []
        self.use(cases)

    def __enter__(self) -> LiveInterventions:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reset()

    @property
    def held(self) -> int:
        """The number of tensors whose own values are held beside the model."""
        return len(self._own)

    @property
    def other_names(self) -> list[str]:
        """The base's names of tuned tensors of which no case is."""
        return [other.name for other in self._others]

    def modules_of(self, names: Iterable[str]) -> dict[str, str]:
        """By matrix of the base, the model's module whose whole weight it is; without those that have none such."""
        return {name: module for name in names if (module := self._module_of(name)) is not None}

    def use(self, cases: Sequence[Case]) -> None:
        """Take other cases; the weights are the tuned ones afterwards.

        Raises:
          PairingError: the model lacks a weight of a case.
        """
        self.reset()
        self._matrices = []
        for case in cases:
            matrix = self._views[case.matrix.name]
            name = self._matching.tuned_of.get(matrix.tensor)
            if name is None:
                raise PairingError(
                    f"the model that is measured has no weight '{case.matrix.name}'; pass the base it was made of"
                )
            self._matrices.append((case, matrix, self._tensors[name].data))
            if self._is_recomputed(case):
                self._write(case, matrix, self._tensors[name].data, Change())

    def set(self, remedy: Remedy, elsewhere: Elsewhere = everywhere_as_tuned) -> None:
        """The tuned weights with every matrix as the remedy makes it, and other tensors with the share they keep."""
        self._put_back_own()
        if remedy.changes_nothing:
            self.reset()
            return
        unchanged = dict(self._changed)
        for case, matrix, tensor in self._matrices:
            change = remedy.change(case)
            if change.keeps_all:
                continue
            if self._is_recomputed(case):
                self._changed[case.matrix.name] = (case, matrix, tensor)
                self._write(case, matrix, tensor, change)
                unchanged.pop(case.matrix.name, None)
                continue
            self._keep(tensor)
            if change.share == 0 and change.entries is None:  # W0 itself, which W - D is to rounding alone
                changed = matrix.read(self._base.tensors[matrix.tensor]).double()
                if change.added is not None:
                    changed = changed + change.added.dense().double().to(changed.device)
            else:
                tuned = _matrix_in(matrix, tensor)
                changed = change.applied(tuned.to(case.update.device), case.update)
            put_back(matrix, tensor, changed.to(tensor.dtype))
        self._recompute(unchanged)
        for other in self._others:
            self._set_other(other, elsewhere(other.name))

    def reset(self) -> None:
        """The tuned weights themselves."""
        self._put_back_own()
        self._recompute(dict(self._changed))

    def _put_back_own(self) -> None:
        for tensor, own in self._own.values():
            tensor.copy_(own)

    def _recompute(self, changed: Mapping[str, tuple[Case, MatrixView, Tensor]]) -> None:
        for name, (case, matrix, tensor) in changed.items():
            self._write(case, matrix, tensor, Change())
            del self._changed[name]

    def _is_recomputed(self, case: Case) -> bool:
        return self._recomputes and isinstance(case.update, LowRank)

    def _write(self, case: Case, matrix: MatrixView, tensor: Tensor, change: Change) -> None:
        """Write what a change makes of ``W0 + D``, computed in double precision from the base as it is stored."""
        update = case.update
        assert isinstance(update, LowRank)  # a dense one is put back from what is stored of it
        stored = matrix.read(self._base.tensors[matrix.tensor]).to(update.device)
        put_back(matrix, tensor, change.applied_to(Pair(stored, update), tensor.dtype))

    def norm_of_others(self, elsewhere: Elsewhere = everywhere_as_tuned) -> float:
        """``||W' - W0||_F`` over the tuned tensors of which no case is."""
        return math.hypot(*(elsewhere(other.name) * other.update_norm for other in self._others))

    def _module_of(self, name: str) -> str | None:
        matrix = self._views.get(name)
        tensor_name = (
            None
            if matrix is None or matrix.expert is not None
            else self._matching.tuned_of.get(matrix.tensor)
        )
        return (
            tensor_name.removesuffix(".weight")
            if tensor_name is not None and tensor_name.endswith(".weight")
            else None
        )

    def _set_other(self, other: _Other, share: float) -> None:
        if share == 1:
            return
        self._keep(other.tensor)
        base = self._base.read(other.name).to(other.tensor.device)
        if share != 0:
            base = base.double() + share * (other.tensor.double() - base.double())
        other.tensor.copy_(base.to(other.tensor.dtype))

    def _tuned(self, name: str) -> _Other | None:
        """The model's tensor of that name, if it can be compared with the base's and differs from it."""
        tensor_name = self._matching.tuned_of.get(name)
        tensor = None if tensor_name is None else self._tensors[tensor_name].data
        if tensor is None or tuple(tensor.shape) != self._base.shape(name) or not tensor.is_floating_point():
            return None
        update = float((tensor.double() - self._base.read(name).to(tensor.device).double()).norm())
        return _Other(name, tensor, update) if update > 0 else None

    def _keep(self, tensor: Tensor) -> None:
        if tensor.data_ptr() not in self._own:
            self._own[tensor.data_ptr()] = (tensor, tensor.clone())


def _matrix_in(matrix: MatrixView, tensor: Tensor) -> Tensor:
    """The matrix (m, n), output side first, out of the tensor that holds it."""
    part = tensor if matrix.expert is None else tensor[matrix.expert]
    part = part.flatten(1) if part.dim() > 2 else part
    return matrix.cut(part.mT if matrix.input_first else part)
