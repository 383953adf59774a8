"""What an adapter does to the weights of its base, whatever family it is of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..stored.checkpoint import Checkpoint, StoredTensor
from ..stored.locate import HubOrigin

if TYPE_CHECKING:
    from torch import Tensor

    from ...linalg.low_rank import LowRank

Shape = tuple[int, ...]


@dataclass(frozen=True)
class AdaptedWeight:
    """The update of one weight of the base by an adapter.

    ``change`` takes the base's weight (m, n), output side first, and the number of the expert whose weight it
    is, if it is one; it gives the update with every scale folded in or, where it is not of low rank, the tuned
    weight (m, n).
    """

    name: str  # the weight, as the adapter names it
    shape: tuple[int, int]  # (m, n)
    rank: int | None  # of the update, when it comes as factors
    scale: float | None  # that PEFT puts on B A; None where there is none
    method: str  # "lora", "dora", "replaced", ...
    change: Callable[[Tensor, int | None], LowRank | Tensor] = field(repr=False)
    experts: int | None = None  # when the weight is a stack of this many matrices
    component: str = ""  # the part of a pipeline it is for ("unet", "te1"), where one file has several
    factor_rank: int | None = None  # of the factors inside an update that is dense itself, as DoRA's
    # Whether it can be made for a linear layer alone, no convolution and no embedding.
    needs_linear: bool = False
    # Of a weight that PEFT makes: as a merge by PEFT leaves it in the type of the base's weight that it is given.
    merged: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    # Of a method that changes the module's bias with its weight: the same update of a module that has this bias.
    with_bias: Callable[[StoredTensor], AdaptedWeight] | None = field(default=None, repr=False)
    # The bias as the adapter leaves it, from the base's weight (m, n); None where it changes none.
    bias: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    @property
    def full_shape(self) -> tuple[int, ...]:
        """(m, n), or (experts, m, n); -1 where the adapter does not say."""
        return self.shape if self.experts is None else (self.experts, *self.shape)


@dataclass(frozen=True)
class Start:
    """An initialization that took something out of the base that the adapter belongs to, as PiSSA does."""

    name: str
    # What the adapter makes of the base as it was before the start; None where the start cannot be repeated.
    repeated: list[AdaptedWeight] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Adapter:
    """An adapter: updates to weights of a base that is elsewhere.

    ``updates`` have the adapter's own names. ``named_for`` gives them for a base: under its names where the adapter
    writes these otherwise, for the parameters that its shapes decide, and made where modules share tensors.
    """

    source: str
    peft_type: str
    base_source: str | None  # as the adapter names its base
    replaced: Checkpoint = field(repr=False)  # weights trained and stored in full (``modules_to_save``)
    # Of a weight that only a base's shapes decide, the first that it may be.
    updates: list[AdaptedWeight] = field(repr=False)
    named_for: Callable[[Checkpoint, Mapping[str, Shape]], list[AdaptedWeight]] | None = field(
        default=None, repr=False
    )
    ignored: list[tuple[str, str]] = field(default_factory=list, repr=False)  # (tensor, why)
    # The weights beneath the updates that it stores, by the updates' names: PEFT puts them in the base's place.
    beneath: Mapping[str, StoredTensor] = field(default_factory=dict, repr=False)
    start: Start | None = None
    family: str = "PEFT"  # whose files it comes in
    decomposes: bool = False  # every weight in full, when it is made
    numbers: int | None = None  # that it stores, where the shapes of its updates do not tell
    notes: list[str] = field(default_factory=list)  # what a reader of the result should know
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)  # PEFT's settings as they are
    kind: str = "adapter"
    hub: tuple[HubOrigin, ...] = ()  # the commit that it was read from, if it lies in the hub's cache

    def updates_for(self, base: Checkpoint, shapes: Mapping[str, Shape]) -> list[AdaptedWeight]:
        """The updates for a base, by its shapes as an adapter sees them: (m, n), output first, or (experts, m, n).

        Raises:
          PairingError: the base does not tell which of its weights are meant.
        """
        return self.updates if self.named_for is None else self.named_for(base, shapes)
