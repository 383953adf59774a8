"""What a runtime would do with an adapter: its settings and its weights, each with a reason and a way out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import SettingError
from ...system.result_protocol import JsonResult
from ..adapters.adapter import Adapter
from ..opening.model_sum import Part as Model
from ..opening.named_base import known_here
from ..opening.open import Source, open_checkpoint
from .runtimes import APPLIED, IGNORED, REFUSED, RUNTIMES, Part, settings_in
from .weights import architecture_of, weights_in


@dataclass(frozen=True)
class Served(JsonResult):
    """What a runtime would do with an adapter.

    Attributes:
      source: the adapter, as it was given.
      runtime: the runtime, in the version whose code the rules follow.
      base: the model whose names were compared; None where none was given or is on this machine.
      architecture: the class that its config names.
      parts: the weights, those of one answer together, and the settings.
    """

    schema = 1
    what = "what a runtime does with an adapter"
    written_by = "intruders inspect --for --json"

    source: str
    runtime: str
    base: str | None
    architecture: str | None
    parts: list[Part]

    @property
    def refused(self) -> bool:
        """Whether the runtime would not load the adapter at all."""
        return any(part.outcome == REFUSED for part in self.parts)

    @property
    def in_full(self) -> bool:
        """Whether nothing is known to be ignored or refused."""
        return not self.refused and all(part.outcome != IGNORED for part in self.parts)


def served_by(runtime: str, models: Sequence[tuple[Model, float]], base: Source | None = None) -> Served:
    """Return what a runtime would do with an adapter on ``base``, or on the one that it names if that is here.

    Raises:
      SettingError: the runtime is none of RUNTIMES, or the models are not one adapter.
      CheckpointError: the base cannot be read.
    """
    if runtime not in RUNTIMES:
        raise SettingError(f"--for is '{runtime}'; expected {', '.join(RUNTIMES)}; pass one of these")
    adapter = models[0][0]
    if len(models) > 1 or not isinstance(adapter, Adapter):
        raise SettingError(
            f"'{adapter.source}' was passed with --for; expected one adapter; pass one, or omit --for"
        )
    if base is None and adapter.base_source is not None:
        named = known_here(adapter.base_source)
        base = named if named is not None and os.path.exists(named) else None  # nothing is fetched
    opened = None if base is None else open_checkpoint(base)
    parts = [*weights_in(runtime, adapter, opened), *settings_in(runtime, adapter)]
    if any(part.outcome == REFUSED for part in parts):
        reason = "the adapter is refused"
        parts = [
            replace(part, outcome=REFUSED, reason=reason) if part.outcome == APPLIED else part
            for part in parts
        ]
    return Served(
        source=adapter.source,
        runtime=RUNTIMES[runtime],
        base=None if opened is None else opened.source,
        architecture=None if opened is None else architecture_of(opened),
        parts=parts,
    )
