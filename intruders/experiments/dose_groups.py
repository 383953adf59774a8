"""Which matrices share a dose: each its own, each direction, those of a layer, of a third of the layers, of a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checkpoints.stored.names import module_paths

# Tensors that are no matrices of the update, such as norms and biases, have one dose together.
ELSEWHERE = "elsewhere"

_BLOCKS = 3


@dataclass(frozen=True)
class DoseGroups:
    """The positions of every matrix's doses in the vector of all doses.

    >>> groups = dose_groups(["h.0.q.weight", "h.0.k.weight", "h.1.q.weight"], "kind")
    >>> groups.names, groups.places["h.1.q.weight"]
    (['q', 'k'], (0,))
    >>> groups.by_matrix([0.5, 1.0])
    {'h.0.q.weight': [0.5], 'h.0.k.weight': [1.0], 'h.1.q.weight': [0.5]}
    """

    names: list[str]  # of the doses, in the order of the vector
    places: Mapping[str, tuple[int, ...]]  # by matrix: one, or one for each direction of its update

    @property
    def matrices(self) -> list[str]:
        return [name for name in self.places if name != ELSEWHERE]

    def by_matrix(self, values: Sequence[float]) -> dict[str, list[float]]:
        """Return the doses of every matrix from the vector of all doses."""
        return {name: [values[position] for position in self.places[name]] for name in self.matrices}

    def elsewhere(self, values: Sequence[float]) -> float | None:
        """Return the dose of other tensors from the vector of all doses; None if no other was tuned."""
        return values[self.places[ELSEWHERE][0]] if ELSEWHERE in self.places else None

    def everywhere(self, dose: float) -> list[float]:
        """Return the vector with this dose for all."""
        return [dose] * len(self.names)

    def of(self, doses: Tensor, name: str) -> Tensor:
        """Return the dose of a matrix, or those of its directions: (1,) or (directions,)."""
        places = self.places[name]
        if places == tuple(range(places[0], places[0] + len(places))):
            return doses[places[0] : places[0] + len(places)]
        return doses[torch.tensor(places, device=doses.device)]


def dose_groups(
    names: Sequence[str], per: str, ranks: Mapping[str, int] | None = None, *, with_elsewhere: bool = False
) -> DoseGroups:
    """Return the groups of matrices of these names.

    Args:
      names: of the changed matrices.
      per: "matrix", "direction", "layer", "block" (of three, of layers) or "kind".
      ranks: number of directions of each matrix; per direction alone.
      with_elsewhere: whether other tensors were tuned too; they share one dose.
    """
    places: dict[str, tuple[int, ...]] = {}
    labels: list[str] = []
    if per == "direction":
        for name in names:
            count = (ranks or {})[name]
            places[name] = tuple(range(len(labels), len(labels) + count))
            labels += [f"{name}[{direction}]" for direction in range(count)]
    else:
        for name, label in zip(names, _labels(names, per), strict=True):
            if label not in labels:
                labels.append(label)
            places[name] = (labels.index(label),)
    if with_elsewhere:
        places[ELSEWHERE] = (len(labels),)
        labels.append(ELSEWHERE)
    return DoseGroups(labels, places)


def _labels(names: Sequence[str], per: str) -> list[str]:
    if per == "matrix":
        return list(names)
    paths = module_paths(names)
    if per == "kind":
        return [path.kind for path in paths]
    if per == "block":
        layers = 1 + max((path.layer for path in paths if path.layer is not None), default=0)
        return [
            path.kind if path.layer is None else f"{path.stack} {_BLOCKS * path.layer // layers}"
            for path in paths
        ]
    return [path.layer_label for path in paths]
