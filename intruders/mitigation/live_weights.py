"""Interventions on a model in memory: put into its weights, measured, and taken out again, without a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from torch import Tensor, nn

from ..checkpoints.pairing.in_memory import BaseInMemory
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.matrices import MatrixView, put_back
from ..checkpoints.writing.merged import Elsewhere, everywhere_as_tuned
from ..linalg.low_rank import LowRank
from ..linalg.pair import Pair
from .remedies.changes import Change
from .remedies.remedy import Case, Remedy


@dataclass(frozen=True)
class _Other:
    """A tuned tensor that no case is of."""

    name: str  # the base's
    tensor: Tensor  # the model's
    part: Tensor  # of it, with the base's shape
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
        self._tensors = dict(model.state_dict(keep_vars=True))
        self._base = BaseInMemory.of(
            base, {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        )
        # By its address in memory: a tensor, and what it held before.
        self._own: dict[int, tuple[Tensor, Tensor]] = {}
        self._recomputes = recomputes
        # By its name: what differs from the tuned matrix, which is computed again.
        self._changed: dict[str, tuple[Case, MatrixView, Tensor]] = {}
        # Of two names for one tensor the first alone: a share of a share would be left otherwise.
        tuned = {part.part.data_ptr(): part for part in self._base.changed(others, self._tensors)}
        self._others = [
            _Other(
                part.name,
                self._tensors[part.key].data,
                part.part,
                float((part.part.double() - part.before.double()).norm()),
            )
            for part in tuned.values()
        ]
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
        keys = {name: self._base.key_of_matrix(name) for name in names}
        return {
            name: key.removesuffix(".weight")
            for name, key in keys.items()
            if key is not None and key.endswith(".weight") and self._base.views[name].expert is None
        }

    def use(self, cases: Sequence[Case]) -> None:
        """Take other cases; the weights are the tuned ones afterwards.

        Raises:
          PairingError: the model lacks a weight of a case.
        """
        self.reset()
        self._matrices = []
        for case in cases:
            key = self._base.required_key(case.matrix.name)
            matrix = self._base.views[case.matrix.name]
            self._matrices.append((case, matrix, self._tensors[key].data))
            if self._is_recomputed(case):
                self._write(case, matrix, self._tensors[key].data, Change())

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
                changed = self._base.read(case.matrix.name).double()
                if change.added is not None:
                    changed = changed + change.added.dense().double().to(changed.device)
            else:
                tuned = matrix.of_part(tensor if matrix.expert is None else tensor[matrix.expert])
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
        stored = self._base.read(case.matrix.name).to(update.device)
        put_back(matrix, tensor, change.applied_to(Pair(stored, update), tensor.dtype))

    def norm_of_others(self, elsewhere: Elsewhere = everywhere_as_tuned) -> float:
        """``||W' - W0||_F`` over the tuned tensors of which no case is."""
        return math.hypot(*(elsewhere(other.name) * other.update_norm for other in self._others))

    def _set_other(self, other: _Other, share: float) -> None:
        if share == 1:
            return
        self._keep(other.tensor)
        base = self._base.base.read(other.name).to(other.part.device)
        if share != 0:
            base = base.double() + share * (other.part.double() - base.double())
        other.part.copy_(base.to(other.part.dtype))

    def _keep(self, tensor: Tensor) -> None:
        if tensor.data_ptr() not in self._own:
            self._own[tensor.data_ptr()] = (tensor, tensor.clone())
