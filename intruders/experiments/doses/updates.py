"""The updates of a tuned model, as doses scale them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ...checkpoints.pairing.pairing import PairedMatrix
from ...errors import NonFiniteError, SettingError
from ...linalg.low_rank import LowRank
from ...linalg.svd import significant
from ...system.progress import Progress
from .dosed_model import DosedUpdate


@dataclass(frozen=True)
class Updates:
    """The updates that are added to the base, by the base's names of the matrices."""

    by_name: Mapping[str, DosedUpdate]
    shapes: Mapping[str, tuple[int, int]]

    @property
    def names(self) -> list[str]:
        return list(self.by_name)

    @property
    def ranks(self) -> dict[str, int]:
        """The number of directions of each update; a dense one counts as one."""
        return {
            name: 1 if update.left is None else len(update.right) for name, update in self.by_name.items()
        }

    def in_directions(self) -> Updates:
        """Return the updates with every low-rank one in its singular directions, strongest first."""
        by_name = {
            name: update
            if update.left is None
            else DosedUpdate.of(_in_directions(LowRank(update.left, update.right)), update.right.device)
            for name, update in self.by_name.items()
        }
        return Updates(by_name, self.shapes)


def read_updates(
    pairs: Sequence[PairedMatrix],
    per: str,
    device: torch.device,
    progress: Progress,
    dense_dtype: torch.dtype = torch.float32,
) -> Updates:
    """Read every update that is not zero, one by one; dense ones are held in ``dense_dtype``.

    Raises:
      SettingError: nothing was changed, or an update without a low rank should have a dose per direction.
      NonFiniteError: an update contains NaN or infinity.
    """
    by_name: dict[str, DosedUpdate] = {}
    for done, pair in enumerate(pairs):
        progress("read updates", done, len(pairs))
        loaded = pair.load()
        if loaded is None:
            continue
        update = loaded.widened().update
        if isinstance(update, LowRank):
            if not bool(update.left.isfinite().all() and update.right.isfinite().all()):
                raise _not_finite(pair.name)
            if per == "direction":
                update = _in_directions(update)
            by_name[pair.name] = DosedUpdate.of(update, device)
            continue
        if per == "direction":
            raise SettingError(
                f"per is 'direction', and the update of '{pair.name}' has no low rank; pass --per matrix"
            )
        dense = update.dense()
        if not bool(dense.isfinite().all()):
            raise _not_finite(pair.name)
        by_name[pair.name] = DosedUpdate.of(dense, device, dense_dtype)
    return Updates(by_name, {pair.name: pair.shape for pair in pairs if pair.name in by_name})


def _in_directions(update: LowRank) -> LowRank:
    """Return the update with a column for every singular direction, strongest first, (m, r) and (r, n)."""
    svd = update.svd()
    count = max(1, significant(svd.values))
    return LowRank((svd.left[:count] * svd.values[:count].unsqueeze(-1)).mT, svd.right[:count])


def _not_finite(name: str) -> NonFiniteError:
    return NonFiniteError(
        f"the update of '{name}' contains NaN or infinity, so no dose of it is a model; fix the tuned model"
    )
