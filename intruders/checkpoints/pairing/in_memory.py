"""Which tensor of a model in memory has which tensor or matrix of the base, and at which position.

The two differ where transformers holds experts in stacks that the base stores one by one.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...errors import PairingError
from ..stored.checkpoint import Checkpoint
from ..stored.matrices import MatrixView, selected_matrices
from ..stored.names import match_names
from ..stored.selection import EVERY_MATRIX
from .names_of_base import InStacks, positions_in_stacks, with_experts_as


@dataclass(frozen=True)
class ChangedPart:
    """A tensor of the base that a model in memory has with other values."""

    name: str  # the base's
    key: str  # the model's name of the tensor that has it
    part: Tensor  # of that tensor; what is written to it is in the model
    before: Tensor  # the base's values, as stored, on the part's device


@dataclass(frozen=True)
class BaseInMemory:
    """The base's tensors and matrices in the tensors of a model in memory."""

    base: Checkpoint  # under its own names
    views: Mapping[str, MatrixView]  # of the base's matrices, by name: how they are cut out of ``stored``
    stored: Checkpoint  # the base's tensors in the form that they have in memory
    _positions: Mapping[str, InStacks]
    _key_of: Mapping[str, str]  # a name in ``stored`` -> the model's
    # Of ``stored``, those that the model may have under names not known here.
    _otherwise: frozenset[str] = frozenset()

    @classmethod
    def of(cls, base: Checkpoint, shapes: Mapping[str, tuple[int, ...]]) -> "BaseInMemory":
        """Match the base with the tensors of a model, of which name and shape are given."""
        stored = with_experts_as(shapes, base)
        matching = match_names(stored.shapes(), shapes)
        otherwise = frozenset(matching.named_otherwise(stored.shapes(), shapes))
        views = {view.name: view for view in selected_matrices(base, EVERY_MATRIX)}
        positions = positions_in_stacks(base, stored)
        for name, view in views.items():
            position = positions[view.tensor]
            if position.expert is not None:
                rows = torch.arange(stored.shape(position.tensor)[1])[position.rows]
                view = replace(view, expert=position.expert, rows=rows)
            views[name] = replace(view, tensor=position.tensor)
        return cls(base, views, stored, positions, matching.tuned_of, otherwise)

    def key_of_matrix(self, name: str) -> str | None:
        """The model's name of the tensor that has this matrix of the base; None if it has none."""
        view = self.views.get(name)
        return None if view is None else self._key_of.get(view.tensor)

    def required_key(self, name: str) -> str:
        """The model's name of the tensor that has this matrix of the base; PairingError if it has none."""
        key = self.key_of_matrix(name)
        if key is not None:
            return key
        if name in self.views:
            self._require_known(name, self.views[name].tensor)
        raise PairingError(f"the model that is measured has no weight '{name}'; pass the base it was made of")

    def modules_of(self, names: Iterable[str]) -> dict[str, str]:
        """By matrix of the base, the model's module whose whole weight it is; without those that have none such."""
        keys = {name: self.key_of_matrix(name) for name in names}
        return {
            name: key.removesuffix(".weight")
            for name, key in keys.items()
            if key is not None and key.endswith(".weight") and self.views[name].expert is None
        }

    def _require_known(self, name: str, tensor: str) -> None:
        if tensor in self._otherwise:
            raise PairingError(
                f"the model that is measured has '{name}' of '{self.base.source}' under another name, which "
                "transformers gave it on loading and which is not known here; write the changed model (intruders "
                "scale, intruders mitigate), and measure that (intruders evaluate)"
            )

    def read(self, name: str) -> Tensor:
        """The matrix (m, n) of the base, as it is stored."""
        view = self.views[name]
        return view.read(self.stored.tensors[view.tensor])

    def changed(self, names: Iterable[str], state: Mapping[str, Tensor]) -> Iterator[ChangedPart]:
        """Yield those of these tensors that the model has with other values; PairingError for an unknown name."""
        for name in names:
            position = self._positions.get(name, InStacks(name))
            key = self._key_of.get(position.tensor)
            if key is None:
                self._require_known(name, position.tensor)
                continue
            tensor = state[key].data
            part = tensor if position.expert is None else tensor[position.expert][position.rows]
            if not part.is_floating_point() or tuple(part.shape) != self.base.shape(name):
                continue
            before = self.base.read(name).to(part.device)
            if not torch.equal(part, before.to(part.dtype)):
                yield ChangedPart(name, key, part, before)


def in_memory(base: Checkpoint, model: nn.Module) -> BaseInMemory:
    return BaseInMemory.of(base, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
