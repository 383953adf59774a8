"""What a path is read as: format, tensors, modules, ranks and scales, and what an audit would look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any

from .adapters.update import Adapter, WeightUpdate
from .checkpoint import Checkpoint, StoredTensor
from .matrices import matrices_of, not_a_matrix
from .open import Opened, Source, Stack, open_checkpoint, open_source
from .pairing import pair
from .selection import Selection


@dataclass(frozen=True)
class Row:
    """One tensor, or one weight that an adapter changes."""

    name: str
    shape: tuple[int, ...]
    stored_as: str | None = None  # the format's own word for its numbers
    method: str | None = None  # "lora", "dora", ...; "saved in full"
    rank: int | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Inspection:
    """What one source is read as. ``audited`` and ``left_out`` are of the base, where one was given."""

    source: str
    kind: str  # "checkpoint", "adapter", "module", ...
    format: str  # "safetensors", "gguf", "PEFT LORA", ...
    weight: float  # in a sum of models; 1 otherwise
    base_source: str | None  # that an adapter names
    rows: list[Row]
    input_first: int  # weights stored (in, out), as Conv1D
    tied: dict[str, str]
    base: str | None = None
    audited: int | None = None  # matrices that would be audited, before it is known which are unchanged
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> tensors
    matched: list[str] = field(default_factory=list)  # what was matched other than by equal names

    @property
    def parameters(self) -> int:
        """Numbers in the tensors; of an adapter, in its factors if they are of low rank."""
        return sum(
            prod(row.shape) if row.rank is None or row.stored_as else row.rank * sum(row.shape)
            for row in self.rows
        )

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON has them."""
        return asdict(self) | {"parameters": self.parameters}


def inspect(source: Source, base: Source | None = None) -> list[Inspection]:
    """What ``source`` is read as; one entry, or one a model of a sum such as ``A@0.7+B@0.3``.

    Args:
      source: as :func:`open_source` takes it.
      base: the model that it would be audited against.

    Raises:
      CheckpointError: either cannot be found or read.
      PairingError: the two do not belong together.
    """
    opened = open_source(source)
    against = None if base is None else open_checkpoint(base)
    parts = opened.parts if isinstance(opened, Stack) else [(opened, 1.0)]
    return [_inspection(part, weight, against) for part, weight in parts]


def _inspection(opened: Checkpoint | Adapter, weight: float, base: Checkpoint | None) -> Inspection:
    facts = _adapter_facts(opened) if isinstance(opened, Adapter) else _checkpoint_facts(opened)
    audited, left_out, matched = _outlook(opened, base)
    return replace(
        facts,
        weight=weight,
        base=None if base is None else base.source,
        audited=audited,
        left_out=dict(left_out.most_common()),
        matched=matched,
    )


def _checkpoint_facts(opened: Checkpoint) -> Inspection:
    rows = [_row(name, stored) for name, stored in opened.tensors.items()]
    return Inspection(
        opened.source, opened.kind, opened.format, 1.0, None, rows, len(opened.input_first), dict(opened.tied)
    )


def _adapter_facts(opened: Adapter) -> Inspection:
    rows = [_update_row(update) for update in _updates(opened)]
    rows += [_row(name, stored, "saved in full") for name, stored in opened.replaced.tensors.items()]
    family = "kohya LoRA" if opened.flat_names else f"PEFT {opened.peft_type}"
    return Inspection(opened.source, opened.kind, family, 1.0, opened.base_source, rows, 0, {})


def _outlook(opened: Opened, base: Checkpoint | None) -> tuple[int | None, Counter[str], list[str]]:
    """How many matrices an audit would look at, and why it would leave out the rest."""
    if base is not None:
        pairing = pair(base, opened)
        return len(pairing.pairs), Counter(skipped.reason for skipped in pairing.skipped), pairing.matched
    if not isinstance(opened, Checkpoint):
        return None, Counter(), []
    reasons: Counter[str] = Counter()
    matrices = 0
    selection = Selection()
    for name, stored in opened.tensors.items():
        reason = not_a_matrix(stored) or selection.reason_to_leave_out(name)
        if reason is None:
            matrices += len(matrices_of(opened, name))
        else:
            reasons[reason] += 1
    return matrices, reasons, []


def _updates(adapter: Adapter) -> Iterable[WeightUpdate]:
    """The adapter's updates; of those that may be for several parameters, the first it could be."""
    yield from adapter.updates
    yield from (choices[0] for choices in adapter.undecided)


def _update_row(update: WeightUpdate) -> Row:
    rank = update.rank if update.rank is not None else update.factor_rank
    return Row(update.name, update.full_shape, None, update.method, rank, update.scale)


def _row(name: str, stored: StoredTensor, method: str | None = None) -> Row:
    return Row(name, stored.shape, stored.stored_as, method)
