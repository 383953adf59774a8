"""What a tuned model in memory computes with: a dose for every update, and the updates that were learned anew."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch.nn.utils import parametrize

from ..checkpoints.pairing.in_memory import BaseInMemory
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.matrices import MatrixView, put_back
from ..checkpoints.stored.names import module_paths
from ..linalg.low_rank import LowRank
from ..models.half_products import is_plain_linear, linear

# Tensors that are no matrices of the update, such as norms and biases, have one dose together.
ELSEWHERE = "elsewhere"

_BLOCKS = 3
_OF_BITSANDBYTES = ("Linear4bit", "Linear8bitLt")


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
        return {name: [values[position] for position in self.places[name]] for name in self.matrices}

    def elsewhere(self, values: Sequence[float]) -> float | None:
        """Return the dose of other tensors from the vector of all doses; None if no other was tuned."""
        return values[self.places[ELSEWHERE][0]] if ELSEWHERE in self.places else None

    def of(self, doses: Tensor, name: str) -> Tensor:
        """Return the dose of a matrix, or those of its directions: (1,) or (directions,)."""
        places = self.places[name]  # which follow each other
        return doses[places[0] : places[-1] + 1]

    def blocks(self) -> list[int]:
        """Return the block of layers of every dose; HMA (arXiv 2309.06256) has one ratio for each of three."""
        blocks = dose_groups(self.matrices, "block", with_elsewhere=ELSEWHERE in self.places).places
        of_dose = {dose: blocks[name][0] for name, doses in self.places.items() for dose in doses}
        return [of_dose[dose] for dose in range(len(self.names))]


def dose_groups(
    names: Sequence[str], per: str, ranks: Mapping[str, int] | None = None, *, with_elsewhere: bool = False
) -> DoseGroups:
    """Return the groups per "matrix", "direction" (of which ``ranks`` says how many), "layer", "block" or "kind".

    There are three blocks of layers. With ``with_elsewhere`` other tensors were tuned too; they share one dose.
    """
    if per == "direction":
        of_matrix = {name: [f"{name}[{number}]" for number in range((ranks or {})[name])] for name in names}
    else:
        of_matrix = {name: [label] for name, label in zip(names, _labels(names, per), strict=True)}
    if with_elsewhere:
        of_matrix[ELSEWHERE] = [ELSEWHERE]
    labels = list(dict.fromkeys(label for own in of_matrix.values() for label in own))
    position = {label: number for number, label in enumerate(labels)}
    places = {name: tuple(position[label] for label in own) for name, own in of_matrix.items()}
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


# The update of one matrix: factors whose columns are its parts, or dense.
DosedUpdate = LowRank | Tensor


def rates_of(update: DosedUpdate, share: float) -> list[float]:
    """Return for each tensor by how much a step may change every entry, so that it changes D by ``share`` of it.

    Both factors do half of that at most: ``||E R||_F <= ||E||_F ||R||_2``. It is the same for any L c and R / c.
    """
    if isinstance(update, Tensor):
        return [share * update.float().square().mean().sqrt().item()]
    whole = update.norm()
    return [
        share / 2 * whole / (own.numel() ** 0.5 * torch.linalg.matrix_norm(other, 2).item())
        for own, other in ((update.left, update.right), (update.right, update.left))
    ]


@dataclass
class DoseVector:
    """The vector of all doses, shared by every model that they act on."""

    values: Tensor  # (doses,)
    are_off: bool = False  # the base itself
    # Updates that take the place of the tuned model's, by the name of the matrix.
    learned: Mapping[str, DosedUpdate] | None = None
    # What is added to a matrix besides, with the vector and the position of its factor.
    added: "Mapping[str, tuple[DosedUpdate, DoseVector, int]]" = field(default_factory=dict)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Use exactly the base's weights within the block."""
        was, self.are_off = self.are_off, True
        try:
            yield
        finally:
            self.are_off = was

    @contextmanager
    def at(self, values: Tensor, learned: Mapping[str, DosedUpdate] | None = None) -> Iterator[None]:
        """Use other doses, and learned updates, within the block; of the tuned model all are 1, and none is learned."""
        was = self.values, self.learned
        self.values, self.learned = values, learned
        try:
            yield
        finally:
            self.values, self.learned = was


def put_in_doses(
    model: nn.Module,
    base: Checkpoint,
    updates: Mapping[str, DosedUpdate],
    groups: DoseGroups,
    doses: DoseVector,
    others: Iterable[str] = (),
    *,
    is_base: bool = False,
) -> None:
    """Set the weights of a tuned model to the base's, and let it compute with the updates in doses from now on.

    Updates and ``others``, further tuned tensors, are by the base's names. With ``is_base`` the model has the base's
    weights already. Raises PairingError where the model lacks a weight of an update.
    """

    def at_present(name: str, own: Any) -> list[tuple[Any, Tensor]]:
        """Return what is added to a matrix at present, with its doses; ``own`` is its update if none was learned."""
        if doses.are_off:
            return []
        present = [((doses.learned or {}).get(name, own), groups.of(doses.values, name))]
        if name in doses.added:
            update, factors, position = doses.added[name]
            present.append((update, factors.values[position : position + 1]))
        return present

    def branch(name: str, own: DosedUpdate) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            times = _rows_of if isinstance(module, nn.Embedding) else _times
            for update, dose in at_present(name, own):
                output = (output + times(update, inputs[0], dose)).to(output.dtype)
            return output

        return add

    state = model.state_dict(keep_vars=True)
    owners = _owners(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name, module in model.named_modules():
        # Its weight is packed.
        if isinstance(module, nn.Linear) and type(module).__name__ in _OF_BITSANDBYTES:
            shapes[f"{name}.weight"] = (module.out_features, module.in_features)
    held = BaseInMemory.of(base, shapes)
    dense: dict[int, list[_Part]] = {}
    for name, update in updates.items():
        key = held.required_key(name)
        view, tensor = held.views[name], state[key].data
        if not is_base:
            put_back(view, tensor, held.read(name).to(tensor.dtype))
        modules = owners[tensor.data_ptr()]
        if view.expert is None and all(_has_branch(module, of) for module, of in modules):
            for module, _ in modules:
                module.register_forward_hook(branch(name, update))
        else:
            dense.setdefault(tensor.data_ptr(), []).append((name, update, view))
    for other in held.changed(others, state):
        before = other.before.to(other.part.dtype)
        change = other.part.float() - before.float()
        other.part.copy_(before)
        own = held.views.get(other.name)
        in_stack = None if own is None or own.expert is None else own
        dense.setdefault(state[other.key].data_ptr(), []).append((ELSEWHERE, change, in_stack))
    for pointer, parts in dense.items():
        for module, of in owners[pointer]:
            parametrize.register_parametrization(module, of, _Added(parts, at_present), unsafe=True)


def _times(update: DosedUpdate, inputs: Tensor, dose: Tensor) -> Tensor:
    """Return ``a (x D^T)`` for inputs x (..., n); products are in bfloat16 where x is, or else in single precision."""
    if isinstance(update, Tensor):
        return linear(inputs, update.to(inputs.dtype)).float() * dose
    # As the model's own: in single precision they would take most of a step. float16 could overflow.
    dtype = torch.bfloat16 if inputs.dtype is torch.bfloat16 else torch.float32
    inner = linear(inputs.to(dtype), update.right.to(dtype)) * dose
    return linear(inner.to(dtype), update.left.to(dtype))


def _rows_of(update: DosedUpdate, tokens: Tensor, dose: Tensor) -> Tensor:
    if isinstance(update, Tensor):
        return embedding(tokens, update).float() * dose
    return (embedding(tokens, update.left) * dose) @ update.right


# A matrix with its update, and where it is in a tensor; None of a tensor that is no matrix.
_Part = tuple[str, DosedUpdate, MatrixView | None]


def _plus(weight: Tensor, update: DosedUpdate, dose: Tensor, view: MatrixView | None) -> Tensor:
    """Return a tensor with the update of one of its matrices in its dose; a matrix is added in place."""
    matrix = dose * update.float() if isinstance(update, Tensor) else (update.left * dose) @ update.right
    if view is None:
        return (weight + matrix).to(weight.dtype)
    values = (matrix.mT if view.input_first else matrix).to(weight.dtype)
    if view.expert is None:
        return weight.add_(values.reshape(weight.shape))
    index = torch.tensor([view.expert], device=weight.device)
    if view.rows is None:
        return weight.index_add_(0, index, values.reshape(1, *weight.shape[1:]))
    return weight.index_put_((index, view.rows.to(weight.device)), values, accumulate=True)


class _Added(nn.Module):
    """A weight with updates in their doses, computed again whenever it is used."""

    def __init__(self, parts: list[_Part], at_present: Any) -> None:
        super().__init__()
        self._parts, self._at_present = parts, at_present

    def forward(self, weight: Tensor) -> Tensor:
        present = [(*both, view) for name, own, view in self._parts for both in self._at_present(name, own)]
        if present:
            weight = weight.clone()  # once: a stack of experts has many parts
        for update, dose, view in present:
            weight = _plus(weight, update, dose, view)
        return weight


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return modules and names of every tensor by its address in memory; tied tensors have two."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            owners.setdefault(tensor.data_ptr(), []).append((module, name))
    return owners


def _has_branch(module: nn.Module, name: str) -> bool:
    """Return whether the module only computes ``W x`` for a weight W, or only looks its rows up."""
    is_linear = is_plain_linear(module) or type(module).__name__ in ("Conv1D", *_OF_BITSANDBYTES)
    return name == "weight" and (is_linear or type(module) is nn.Embedding)


@dataclass(frozen=True)
class TunedState:
    """``W_m = W0_m + a_m D_m``, with a learned update in the place of some of the tuned model's."""

    doses: Sequence[float]
    learned: Mapping[str, DosedUpdate] | None = None  # by the name of the matrix

    def unit(self) -> dict[str, Any]:
        """Return what a measurement of it is known again by."""
        unit: dict[str, Any] = {"doses": list(self.doses)}
        if self.learned is not None:
            digest = xxhash.xxh3_128()
            for tensor in parameters_of(self.learned):
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
            unit["learned"] = digest.hexdigest()
        return unit


def parameters_of(updates: Mapping[str, DosedUpdate]) -> list[Tensor]:
    """Return the tensors of updates, in their order: both factors of one of low rank, or the matrix."""
    both = [
        (update,) if isinstance(update, Tensor) else (update.left, update.right)
        for update in updates.values()
    ]
    return [tensor for tensors in both for tensor in tensors]


def with_parameters(updates: Mapping[str, DosedUpdate], tensors: Sequence[Tensor]) -> dict[str, DosedUpdate]:
    """Return the updates with other tensors, in the order of :func:`parameters_of`."""
    rest = iter(tensors)
    return {
        name: next(rest) if isinstance(update, Tensor) else LowRank(next(rest), next(rest))
        for name, update in updates.items()
    }
