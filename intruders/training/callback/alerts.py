"""Report too many intruders: as a warning, and as the alert of a tracker whose run is active."""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress


def alert(intruders: int, above: int, step: int) -> None:
    """Warn that an audit found more ``intruders`` than ``above``, here and in Weights & Biases and trackio.

    Both are called only if the program has loaded them; TensorBoard has no alerts.
    """
    title = f"More than {above} intruders"
    text = f"The audit at step {step} found {intruders} intruders; alert_above is {above}."
    warnings.warn(text, stacklevel=2)
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.run.alert(title=title, text=text, level="WARN")
    trackio = sys.modules.get("trackio")
    if trackio is not None:
        with suppress(RuntimeError):  # raised if no run is active
            trackio.alert(title=title, text=text)
