"""What a path is read as: format, tensors, modules, ranks and scales, and what an audit would look at."""

from collections import Counter
from dataclasses import dataclass, field
from math import prod

from ...system.result_protocol import JsonResult
from ..adapters.adapter import Adapter
from ..opening.model_sum import Part, parts_of
from ..opening.open import Source, open_checkpoint, open_source
from ..stored.checkpoint import Checkpoint
from ..stored.matrices import reason_to_skip, selected_matrices
from ..stored.selection import AS_AUDITED
from .pair_sides import pair_sides


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
class Inspection(JsonResult):
    """The content of one source. ``audited`` and ``left_out`` are of the base, where one was given.

    Attributes:
      source: what was inspected, as it was given.
      kind: "checkpoint", "adapter", "module" or another kind of source.
      format: the form of its files, such as "safetensors", "gguf" or "PEFT LORA".
      weight: its factor in a sum of models; 1 otherwise.
      base_source: the base that an adapter names, or None.
      rows: its tensors, or the weights that an adapter changes.
      parameters: numbers in the tensors; of an adapter, in its factors if they are of low rank.
      input_first: number of weights that are stored as (inputs, outputs), as Conv1D.
      tied: names of tensors that are stored under another name, with that name.
      base: the base that was given, or None; the fields below are of it.
      audited: number of matrices that would be audited, before it is known which are unchanged.
      left_out: number of tensors that would not be, by reason.
      matched: in words, what was matched other than by equal names.
    """

    what = "the inspection of a path"

    source: str
    kind: str
    format: str
    weight: float
    base_source: str | None
    rows: list[Row] = field(repr=False)
    parameters: int
    input_first: int
    tied: dict[str, str]
    base: str | None = None
    audited: int | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    matched: list[str] = field(default_factory=list)


def inspect(source: Source, base: Source | None = None) -> list[Inspection]:
    """Describe what ``source`` is read as; one entry, or one per model of a sum such as ``A@0.7+B@0.3``.

    Args:
      source: a path, a Hub id, an alias, a sum of models such as ``A@0.7+B@0.3``, or a model in memory.
      base: the model that it would be audited against.

    Returns:
      One entry per model: its format, tensors, ranks and scales, and with ``base`` what would be audited.

    Raises:
      CheckpointError: either cannot be found or read.
      PairingError: the two do not belong together.

    Examples:
      >>> import torch
      >>> [entry] = inspect({"q_proj.weight": torch.eye(9)})
      >>> entry.kind, entry.parameters
      ('state dict', 81)
    """
    return inspect_parts(open_parts(source), base)


def open_parts(source: Source) -> list[tuple[Part, float]]:
    """Open a source: itself with weight 1, or the models of a sum with theirs."""
    return parts_of(open_source(source))


def inspect_parts(parts: list[tuple[Part, float]], base: Source | None = None) -> list[Inspection]:
    """As :func:`inspect`, of what is open."""
    against = None if base is None else open_checkpoint(base)
    return [_inspection(part, weight, against) for part, weight in parts]


def _inspection(opened: Part, weight: float, base: Checkpoint | None) -> Inspection:
    rows: list[Row] = []
    parameters = 0
    if isinstance(opened, Adapter):
        stored, method, form = opened.replaced, "saved in full", f"{opened.family} {opened.peft_type}"
        for update in opened.updates:
            rank = update.rank if update.rank is not None else update.factor_rank
            shape = update.full_shape
            rows.append(Row(update.name, shape, method=update.method, rank=rank, scale=update.scale))
            parameters += prod(shape) if rank is None else rank * sum(shape)
        if any(-1 in row.shape for row in rows):  # shapes that the base alone tells
            parameters = opened.numbers or 0
    else:
        stored, method, form = opened, None, opened.format
    rows += [Row(name, tensor.shape, tensor.stored_as, method) for name, tensor in stored.tensors.items()]
    audited: int | None = None
    reasons: list[str | None] = []
    matched: list[str] = []
    if base is not None:
        pairing = pair_sides(base, opened)
        audited, matched = len(pairing.pairs), pairing.matched
        reasons += [skipped.reason for skipped in pairing.skipped]
    elif isinstance(opened, Checkpoint):
        audited = len(selected_matrices(opened, AS_AUDITED))
        reasons += [reason_to_skip(name, tensor, AS_AUDITED) for name, tensor in opened.tensors.items()]
    return Inspection(
        source=opened.source,
        kind=opened.kind,
        format=form,
        weight=weight,
        base_source=opened.base_source if isinstance(opened, Adapter) else None,
        rows=rows,
        parameters=parameters + sum(prod(shape) for shape in stored.shapes().values()),
        input_first=len(stored.input_first),
        tied=dict(stored.tied),
        base=None if base is None else base.source,
        audited=audited,
        left_out=dict(Counter(reason for reason in reasons if reason is not None).most_common()),
        matched=matched,
    )
