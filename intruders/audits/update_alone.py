"""What the update of an adapter says without its base: ranks, norms, and two adapters beside each other."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..checkpoints.adapters.adapter import AdaptedWeight, Adapter
from ..checkpoints.opening.open import Source, open_source
from ..checkpoints.stored.names import tensor_of
from ..errors import CheckpointError, PairingError, SettingError
from ..linalg.chance import chance_share
from ..linalg.low_rank import LowRank
from ..linalg.spectrum import effective_rank, rank_of_energy, stable_rank
from ..linalg.svd import Components
from ..settings.numbers import is_number
from ..system.callers_process import usual_settings
from ..system.plain_values import plain
from ..system.result_protocol import JsonResult

ENERGY = 0.99

_NO_FACTORS = "its update has no low-rank factors without the base"


@dataclass(frozen=True)
class ModuleUpdate:
    """The update D = scale * B A of one weight, from its factors alone."""

    name: str
    shape: tuple[int, int]
    rank: int  # of the factors
    scale: float | None  # on B A, as the adapter has it
    frobenius: float
    spectral: float
    effective_rank: float
    stable_rank: float
    energy_rank: int  # the smallest that keeps the share of the squared singular values; 0 of a dead module

    @property
    def rank_in_use(self) -> float:
        """The effective rank as a share of the factors' rank."""
        return self.effective_rank / self.rank

    @property
    def is_dead(self) -> bool:
        """Whether the update is zero."""
        return self.spectral == 0


@dataclass(frozen=True)
class UpdateAlone(JsonResult):
    """The updates of one adapter, module by module, without its base.

    Attributes:
      source: the adapter, as it was given.
      energy: the share of the squared singular values that ``energy_rank`` keeps.
      modules: one record per adapted module.
      not_measured: names of weights whose update is not known without the base, each with the reason.
      start: the initialization that changed the base, such as PiSSA: D is B A, beside that base. None without one.
    """

    what = "the saved update of an adapter"

    source: str
    energy: float
    modules: list[ModuleUpdate] = field(repr=False)
    not_measured: dict[str, str] = field(default_factory=dict)
    start: str | None = None

    @property
    def dead(self) -> list[str]:
        """The weights that the adapter has factors for and does not change."""
        return [module.name for module in self.modules if module.is_dead]

    @property
    def frobenius(self) -> float:
        """``||D||_F`` over all modules together."""
        return math.sqrt(sum(module.frobenius**2 for module in self.modules))

    def lora_settings(self) -> dict[str, Any]:
        """The arguments of PEFT's ``LoraConfig`` that keep ``energy`` in every module, at each module's scale.

        A dead module gets rank 1, the smallest that PEFT accepts.
        """
        ranks: dict[str, int] = {}
        alphas: dict[str, float] = {}
        for module in self.modules:
            # Experts of one weight share a rank in PEFT: the largest that any of them needs.
            name = tensor_of(module.name).removesuffix(".weight")
            ranks[name] = max(ranks.get(name, 1), module.energy_rank)
            alphas[name] = ranks[name] * (1.0 if module.scale is None else module.scale)
        if not ranks:
            return {}
        rank, rank_pattern = _usual_and_exceptions(ranks)
        alpha, alpha_pattern = _usual_and_exceptions(alphas)
        return {"r": rank, "lora_alpha": alpha, "rank_pattern": rank_pattern, "alpha_pattern": alpha_pattern}

    def to_document(self) -> dict[str, Any]:
        modules = [
            plain(module) | {"rank_in_use": module.rank_in_use, "is_dead": module.is_dead}
            for module in self.modules
        ]
        return {
            "schema": self.schema,
            "source": self.source,
            "start": self.start,
            "energy": self.energy,
            "frobenius": self.frobenius,
            "modules": modules,
            "not_measured": self.not_measured,
            "lora_config": self.lora_settings(),
        }


@dataclass(frozen=True)
class ModuleOverlap:
    """The updates of one weight by two adapters."""

    name: str
    shape: tuple[int, int]
    ranks: tuple[int, int]  # dimensions of the subspaces compared
    cosine: float | None  # of the updates as vectors; None where one of them is zero
    left: float | None  # overlap of the column spaces (outputs), 0 to 1
    left_chance: float
    right: float | None  # overlap of the row spaces (inputs)
    right_chance: float


@dataclass(frozen=True)
class UpdateOverlap(JsonResult):
    """Two adapters beside each other, without their base.

    Attributes:
      first: one adapter, as it was given.
      second: the other.
      energy: the share of the squared singular values that the compared subspaces keep.
      cosine: of all updates together, as long vectors; None where one adapter changes nothing.
      modules: one record per module that both adapt.
      only_in_first: names of modules that only the first adapts.
      only_in_second: names of modules that only the second adapts.
      not_measured: names of weights whose update is not known without the base, each with the reason.
    """

    what = "the saved overlap of two adapters"

    first: str
    second: str
    energy: float
    cosine: float | None
    modules: list[ModuleOverlap] = field(repr=False)
    only_in_first: list[str] = field(default_factory=list)
    only_in_second: list[str] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)


@usual_settings()
def inspect_update(source: Source, energy: float = ENERGY) -> UpdateAlone:
    """Measure the update of an adapter without its base.

    Every number is exact to rounding: ``D = scale * B A`` (m, n) is decomposed by a QR of either factor and an SVD of
    the r x r core, in double precision. The product B A is never formed.

    Args:
      source: an adapter: a path, a Hub id or an alias, or a state dict.
      energy: share of the squared singular values that ``energy_rank`` keeps, above 0 and at most 1.

    Returns:
      Ranks and norms per module, and the settings of PEFT's ``LoraConfig`` that keep the energy.

    Raises:
      CheckpointError: the source cannot be read, or is not one adapter.
      SettingError: the energy is out of range.

    Examples:
      >>> adapter = {"q_proj.lora_A.weight": torch.eye(2, 3), "q_proj.lora_B.weight": torch.eye(4, 2)}
      >>> module = inspect_update(adapter).modules[0]
      >>> module.rank, round(module.effective_rank, 6), module.energy_rank
      (2, 2.0, 2)
    """
    return update_of(_opened(source), energy)


def update_of(adapter: Adapter, energy: float = ENERGY) -> UpdateAlone:
    """As :func:`inspect_update`, of an adapter that is open."""
    check_energy(energy)
    modules: list[ModuleUpdate] = []
    not_measured = dict.fromkeys(adapter.replaced.tensors, "saved in full")
    for name, weight, update in _updates(adapter, not_measured):
        values = update.singular_values()
        frobenius = values.square().sum().sqrt()
        modules.append(
            ModuleUpdate(
                name=name,
                shape=(update.shape[0], update.shape[1]),
                rank=update.rank,
                scale=weight.scale,
                frobenius=float(frobenius),
                spectral=float(values[0]),
                effective_rank=float(effective_rank(values)),
                stable_rank=float(stable_rank(frobenius, values[0])),
                energy_rank=int(rank_of_energy(values, energy)),
            )
        )

    return UpdateAlone(adapter.source, energy, modules, not_measured, adapter.start)


@usual_settings()
def compare_updates(first: Source, second: Source, energy: float = ENERGY) -> UpdateOverlap:
    """Compare the updates of two adapters without their base.

    The cosine is ``<D, E> / (||D|| ||E||)`` with Frobenius products. The overlap of two subspaces with orthonormal
    bases U (m, i) and V (m, j) is ``||U^T V||_F^2 / min(i, j)`` (Hu et al. 2021, section 7.2), and that of random
    subspaces is ``max(i, j) / m`` on average. Each subspace has the dimensions that keep ``energy`` of its update.

    Args:
      first: an adapter, as :func:`inspect_update`.
      second: another one of the same base.
      energy: share of the squared singular values that a subspace keeps, above 0 and at most 1.

    Returns:
      The numbers of every module that both change, and the modules that only one of them changes.

    Raises:
      CheckpointError: one cannot be read, or is not one adapter.
      PairingError: they have no module in common, or one with two shapes.
      SettingError: the energy is out of range.

    Examples:
      >>> adapter = {"q_proj.lora_A.weight": torch.ones(1, 3), "q_proj.lora_B.weight": torch.ones(4, 1)}
      >>> round(compare_updates(adapter, adapter).cosine, 6)
      1.0
    """
    check_energy(energy)
    adapters = _opened(first), _opened(second)
    not_measured: dict[str, str] = {}
    updates: list[dict[str, LowRank]] = []
    only: list[list[str]] = []
    for adapter, other in (adapters, adapters[::-1]):
        # What one changes and the other does not: a module that could not be measured in the other is changed by both.
        changed = {weight.name for weight in other.updates}
        measured = list(_updates(adapter, not_measured))
        updates.append({name: update for name, _, update in measured})
        only.append([name for name, weight, _ in measured if weight.name not in changed])
    shared = [name for name in updates[0] if name in updates[1]]
    if not shared:
        raise PairingError(
            f"'{adapters[0].source}' and '{adapters[1].source}' have no module in common; expected two adapters of "
            "one base with the same module names; audit them against their base instead"
        )
    modules, inner = [], 0.0
    for name in shared:
        ours, theirs = (of_adapter[name] for of_adapter in updates)
        if ours.shape != theirs.shape:
            raise PairingError(
                f"'{name}' is {tuple(ours.shape)} in '{adapters[0].source}' and {tuple(theirs.shape)} in "
                f"'{adapters[1].source}'; expected two adapters of one base; choose others"
            )
        product = ours.inner(theirs)
        modules.append(_overlap(name, product, ours.svd, theirs.svd, energy))
        inner += product
    norms = [
        math.hypot(*(of_adapter[name].norm() for name in [*shared, *own]))
        for of_adapter, own in zip(updates, only, strict=True)
    ]
    return UpdateOverlap(
        first=adapters[0].source,
        second=adapters[1].source,
        energy=energy,
        cosine=_cosine(inner, *norms),
        modules=modules,
        only_in_first=only[0],
        only_in_second=only[1],
        not_measured=not_measured,
    )


def check_energy(energy: float) -> None:
    if not is_number(energy) or not 0 < energy <= 1:
        raise SettingError(f"energy is {energy!r}; expected a share above 0 and at most 1, such as {ENERGY}")


def _opened(source: Source) -> Adapter:
    opened = open_source(source)
    if isinstance(opened, Adapter):
        return opened
    raise CheckpointError(
        f"'{opened.source}' is a {'full checkpoint' if opened.kind == 'checkpoint' else 'sum or a model'}; "
        "expected one adapter; pass an adapter, or compare two models with intruders audit"
    )


def _updates(adapter: Adapter, not_measured: dict[str, str]) -> Iterator[tuple[str, AdaptedWeight, LowRank]]:
    """Each update that comes as finite factors, with its name; the others go to ``not_measured``."""
    for weight in adapter.updates:
        if weight.rank is None or -1 in weight.shape or 0 in (*weight.shape, weight.rank):
            not_measured[weight.name] = _NO_FACTORS
            continue
        for expert in [None] if weight.experts is None else range(weight.experts):
            name = weight.name if expert is None else f"{weight.name}[{expert}]"
            # A base without numbers: an update that reads them has no numbers either.
            update = weight.change(torch.empty(weight.shape, device="meta"), expert)
            if not isinstance(update, LowRank) or update.left.is_meta or update.right.is_meta:
                not_measured[name] = _NO_FACTORS
            elif not (update.left.isfinite().all() and update.right.isfinite().all()):
                not_measured[name] = "its factors contain NaN or infinity"
            else:
                yield name, weight, update


def _overlap(name: str, inner: float, first: Components, second: Components, energy: float) -> ModuleOverlap:
    i, j = (int(rank_of_energy(svd.values, energy)) for svd in (first, second))
    m, n = first.left.shape[-1], first.right.shape[-1]

    def shared(ours: torch.Tensor, theirs: torch.Tensor) -> float | None:
        return None if 0 in (i, j) else float((ours[:i] @ theirs[:j].mT).square().sum()) / min(i, j)

    return ModuleOverlap(
        name=name,
        shape=(m, n),
        ranks=(i, j),
        cosine=_cosine(inner, *(float(svd.values.norm()) for svd in (first, second))),
        left=shared(first.left, second.left),
        left_chance=chance_share(max(i, j), m),
        right=shared(first.right, second.right),
        right_chance=chance_share(max(i, j), n),
    )


def _cosine(inner: float, first: float, second: float) -> float | None:
    return None if first == 0 or second == 0 else max(-1.0, min(1.0, inner / first / second))


def _usual_and_exceptions(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The most frequent value, and a pattern for the rest: one entry for a kind of module that has one value."""
    usual = Counter(values.values()).most_common(1)[0][0]
    of_kind: dict[str, set[Any]] = {}
    for name, value in values.items():
        of_kind.setdefault(name.rpartition(".")[2], set()).add(value)
    pattern: dict[str, Any] = {}
    for name, value in values.items():
        kind = name.rpartition(".")[2]
        if value != usual:
            pattern[kind if len(of_kind[kind]) == 1 else name] = value
    return usual, pattern
