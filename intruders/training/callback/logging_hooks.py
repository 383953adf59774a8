"""Logging from inside a callback: as the Trainer logs, also where no Trainer is at hand."""

from __future__ import annotations

import sys
from typing import Any

from transformers import Trainer
from transformers.trainer_callback import CallbackHandler


def log_totals(trainer: Any, args: Any, state: Any, control: Any, totals: dict[str, float]) -> None:
    """Report totals next to the Trainer's own log of this step; ``state.log_history`` keeps them.

    Without a trainer they reach its reporters through the handler that is calling this callback.
    """
    to_come = control.should_log  # on_log clears it, and the Trainer would not log the step's loss
    if trainer is not None:
        # The class's own method: those of TRL's trainers put the metrics gathered since the last call into this
        # one and clear them, so that they would be missing beside the loss.
        Trainer.log(trainer, dict(totals))
    else:
        logs = totals if state.epoch is None else {**totals, "epoch": state.epoch}
        state.log_history.append({**logs, "step": state.global_step})
        handler = _handler_that_calls()
        if handler is not None:
            handler.on_log(args, state, control, dict(logs))
    control.should_log = to_come


def _handler_that_calls() -> CallbackHandler | None:
    """Return the Trainer's list of callbacks from among the callers: no event of a callback names it."""
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    return None
