"""What ends a run early for a reason that its owner must hear: a loss that is not a number, a full disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from ..errors import IntrudersError, NonFiniteError
from .run_folder import RunFolder


class RunTrainer(Trainer):  # type: ignore[misc]
    """Trainer that stops at the step whose loss is NaN or infinite, before the optimizer sees it."""

    def __init__(self, run: RunFolder, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._run = run

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            good = self._run.last_checkpoint()
            kept = (
                f"the last good checkpoint is {str(good[0])!r}"
                if good
                else "no checkpoint was kept before it"
            )
            raise NonFiniteError(
                f"the loss became {loss.item()} at step {self.state.global_step + 1}; {kept}; "
                "lower lr or raise warmup_steps"
            )
        return loss


@contextmanager
def stop_on_full_disk(folder: Path) -> Iterator[None]:
    """Turn the errors of a full disk into one that says where and how much is left."""
    try:
        yield
    except Exception as error:
        if not _tells_of_a_full_disk(error):
            raise
        left = shutil.disk_usage(folder).free / 2**20
        raise IntrudersError(
            f"no room on the disk of {str(folder)!r} ({left:.0f} MiB left); make room and give the same "
            "command again: the run goes on from its last whole checkpoint"
        ) from error


def _tells_of_a_full_disk(error: BaseException | None) -> bool:
    """Python says ENOSPC, safetensors its text, and torch's own writer just that it could not write."""
    while error is not None:
        said = str(error)
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in said:
            return True
        if isinstance(error, RuntimeError) and ("inline_container" in said or "iostream error" in said):
            return True
        error = error.__cause__ or error.__context__
    return False
