"""The tuned models of a fleet, each opened and paired with the base, or with the reason why that cannot be."""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import nn

from ...checkpoints.formats.memory import describe_module
from ...checkpoints.opening.many_sources import digest_of
from ...checkpoints.opening.model_sum import ModelSum
from ...checkpoints.opening.open import Opened, Source, open_source
from ...checkpoints.pairing.pair_sides import pair_sides, with_rounded_base
from ...checkpoints.pairing.pairing import Pairing
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.matrices import require_selection
from ...checkpoints.stored.names import module_paths, tensor_of
from ...errors import IntrudersError, in_one_line
from ...system.files import as_utf8
from ..audit_settings import AuditSettings

_LAYER = re.compile(r"^(.*?)\.(\d+)(?:\.|$)")


@dataclass(frozen=True)
class Member:
    """One model of a fleet. Of one that is refused there is a reason and no pairing."""

    source: str
    digest: str
    # Columns of the table, from its config and headers.
    facts: Mapping[str, Any] = field(default_factory=dict)
    pairing: Pairing | None = None
    reason: str | None = None
    is_finished: bool = False  # by an earlier call: it is not opened again


def open_members(
    base: Checkpoint,
    sources: Sequence[Source],
    settings: AuditSettings,
    digests: Sequence[str] | None,
    finished: Collection[str],
) -> list[Member]:
    """Open every source as a member of the fleet: read configs and headers, and hash files without ``digests``.

    Of models with a digest in ``finished`` not even a header is read.
    """
    require_selection(base, settings)
    return [
        _open_member(base, source, settings, None if digests is None else digests[position], finished)
        for position, source in enumerate(sources)
    ]


def _open_member(
    base: Checkpoint, source: Source, settings: AuditSettings, digest: str | None, finished: Collection[str]
) -> Member:
    name = _name_of(source)
    facts: dict[str, Any] = {}
    if finished and digest is None:
        with suppress(IntrudersError, OSError):  # opening the model will say what is wrong with it
            digest = digest_of(str(source))
    if digest is not None and digest in finished:
        return Member(name, digest, is_finished=True)
    try:
        opened = open_source(source)
        facts = _facts_of(opened)
        digest = digest if digest is not None else digest_of(str(source))
        pairing = with_rounded_base(pair_sides(base, opened, settings), settings.base_dtype)
    except (IntrudersError, OSError) as error:
        is_ours = isinstance(error, IntrudersError)
        reason = in_one_line(error) if is_ours else f"'{name}' cannot be read: {error}"
        return Member(name, digest or f"refused {name}", facts, reason=reason)
    kinds = {path.kind for path in module_paths([matrix.name for matrix in pairing.pairs])}
    facts |= {"targets": ", ".join(sorted(kinds)) or None, "matched_by": "; ".join(pairing.matched) or None}
    return Member(name, digest, facts, pairing)


def _name_of(source: Source) -> str:
    if isinstance(source, nn.Module):
        return describe_module(source)
    if isinstance(source, Checkpoint):
        return source.source
    return "state dict" if isinstance(source, dict) else as_utf8(str(source))


def _facts_of(opened: Opened) -> dict[str, Any]:
    """Return the columns of the fleet's table that are known before any weight is read."""
    if isinstance(opened, Checkpoint | ModelSum):
        return {"method": "full" if isinstance(opened, Checkpoint) else "sum"}
    updates = opened.updates
    methods = {update.method for update in updates}
    of_factors = [update.factor_rank if update.rank is None else update.rank for update in updates]
    ranks = [rank for rank in of_factors if rank is not None]
    scales = [update.scale for update in updates if update.scale is not None]
    return {
        # PEFT's type in small letters, or "dora" where all updates are of that kind.
        "method": "dora" if methods == {"dora"} else opened.peft_type.lower(),
        "rank_min": min(ranks, default=None),
        "rank_max": max(ranks, default=None),
        "scale_min": min(scales, default=None),
        "scale_max": max(scales, default=None),
        "named_base": opened.base_source,
        "saved_in_full": len(opened.replaced.tensors),
    }


@cache
def block_of(name: str) -> str:
    """Return the layer of a matrix by its name alone: no further model moves a matrix to another block."""
    layer = _LAYER.match(tensor_of(name))
    return f"{layer[1]}.{layer[2]}" if layer else "outside the layers"
