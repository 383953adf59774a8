"""Write a model with its complete update at one scale; no singular vector is needed for it."""

import math
import os
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from ..checkpoints.opening.open import Source
from ..checkpoints.pairing.open_sides import named_sides, open_sides
from ..checkpoints.pairing.pair_sides import pair_sides
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.selection import AS_AUDITED, Selection
from ..errors import SettingError
from ..linalg.pair import Pair
from ..settings.numbers import is_number
from ..system.callers_process import usual_settings
from ..system.progress import Progress, silent
from ..system.result_protocol import JsonResult
from ..system.versions import installed_versions
from .beyond_doses import require_same_head
from .targets.choose_target import choose_target
from .targets.target import Changes

# Scales further from 0 are taken for a mistake, such as a percentage.
_MOST = 100
# Rounding that changes more of the update is told. A few rows of a matrix are enough to measure it.
_TOLD, _ROWS = 0.05, 256


@dataclass(frozen=True)
class WrittenScale(JsonResult):
    """A model that was written with its update at another scale.

    Attributes:
      base: the model before fine-tuning.
      tuned: the fine-tuned model.
      out: the folder of the written one.
      form: "adapter" or "checkpoint".
      scale: s of W0 + s D.
      matrices: number of matrices with an update.
      seconds: the time it took.
      versions: versions of the packages.
    """

    what = "the record of a written scale"
    written_by = "intruders scale --out"
    file_name: ClassVar[str] = "written.json"

    base: str
    tuned: str
    out: str
    form: str
    scale: float
    matrices: int
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=installed_versions)

    def in_card(self) -> list[str]:
        """Return its line of the model card."""
        return [
            f"- every update times {self.scale:g}: W0 + {self.scale:g} (W - W0), of {self.matrices} matrices"
        ]


@usual_settings()
def write_at_scale(
    base: Source | None,
    tuned: Source | None,
    scale: float,
    out: str | os.PathLike[str],
    *,
    selection: Selection = AS_AUDITED,
    form: str = "auto",
    force: bool = False,
    progress: Progress = silent,
) -> WrittenScale:
    """Write ``W0 + s D`` in the form of what was given.

    An adapter comes back with each B scaled, at its rank. A checkpoint comes in the type that fits the numbers of both
    sides; a warning tells where rounding to it changes the update by more than 5 % of its norm. Nothing is audited or
    decomposed, and a checkpoint is written one tensor at a time. For the intruders before and after, use
    :func:`intruders.mitigate` with the remedy ``Interpolate``.

    Args:
      base: the model before fine-tuning; None if an adapter names it.
      tuned: the fine-tuned model, or its adapter.
      scale: s: 0 is the base, 1 the update as trained; above -100 and below 100.
      out: folder to write; it is written completely or not at all.
      selection: the tensors whose updates are scaled; all others stay as tuned. Embeddings are always
        among them.
      form: "adapter", "checkpoint", or "auto": what was given.
      force: replace ``out`` where it is a model or adapter.
      progress: called with (what is being done, done, in all).

    Returns:
      What was written, as ``written.json`` in the folder states it.

    Raises:
      SettingError: the scale is not a finite number, the form does not suit what was given, or the tuned model has an
        output head where the base has none of its own.
      CheckpointError: a side cannot be read, or ``out`` cannot be written.
      PairingError: the sides do not belong together, or no matrix differs.
      NonFiniteError: a scaled tensor contains NaN or infinity.

    Examples:
      With a base in the folder ``base`` and an adapter in ``tuned``:

      >>> written = write_at_scale("base", "tuned", 0.5, "half")
      >>> written.form, written.scale
      ('adapter', 0.5)
    """
    started = time.perf_counter()
    if not is_number(scale) or not -_MOST < scale < _MOST:
        raise SettingError(f"scale (--at) is {scale!r}; expected a scale of the update, such as 0.5 or 1.2")
    sides = open_sides(base, tuned)
    if scale != 1:
        require_same_head(sides)
    target = choose_target(named_sides(base, tuned), sides, out=out, form=form, force=force)
    wanted = replace(selection, include_embeddings=True)
    pairing = pair_sides(*sides, wanted)

    def share(name: str) -> float:
        return scale if wanted.reason_to_leave_out(name) is None else 1.0

    # Every tensor, the matrices too, is one that no remedy changes and that keeps this share of its update.
    with target.writing(Changes({}, share), progress) as written:
        matrices, rounding = 0, _Rounding()
        for pair in pairing.pairs:
            both = pair.load()
            matrices += both is not None
            if both is not None and target.form == "checkpoint":
                rounding.add(both, share(pair.name), is_full=isinstance(sides[1], Checkpoint))
        rounding.warn()
        result = WrittenScale(
            base=pairing.base.source,
            tuned=pairing.tuned.source,
            out=str(out),
            form=target.form,
            scale=float(scale),
            matrices=matrices,
            seconds=time.perf_counter() - started,
        )
        written.keep(result.file_name, result)
    return result


@dataclass
class _Rounding:
    """What the type of a written checkpoint changes in its update, as squares of norms."""

    update: float = 0.0
    lost: float = 0.0
    dtype: torch.dtype | None = None  # of the last matrix that was rounded to half precision

    def add(self, both: Pair, share: float, *, is_full: bool) -> None:
        """Measure a matrix on some of its rows; ``is_full`` says that both sides decide the written type."""
        dtype = both.base.dtype
        if is_full and isinstance(both.tuned, torch.Tensor):
            dtype = torch.promote_types(dtype, both.tuned.dtype)
        if dtype.itemsize > 2:
            return
        step = max(1, len(both.base) // _ROWS)
        wide = both.rows(slice(None, None, step)).double()
        update = share * (wide.dense() - wide.base)
        exact = wide.base + update
        self.update += step * float(update.square().sum())
        self.lost += step * float((exact.to(dtype).double() - exact).square().sum())
        self.dtype = dtype

    def warn(self) -> None:
        if self.dtype is None or self.lost <= _TOLD**2 * self.update:
            return
        warnings.warn(
            f"{str(self.dtype).removeprefix('torch.')} is too coarse for this update: rounding changes the update by "
            f"{math.sqrt(self.lost / self.update):.0%} of its norm; pass a base in float32 to write the model in "
            "float32, or write an adapter where an adapter was given",
            stacklevel=3,
        )
