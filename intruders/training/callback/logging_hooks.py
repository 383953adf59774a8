"""What the callback logs and warns of: as the Trainer logs, also where no Trainer is at hand."""

import sys
import warnings
from contextlib import suppress
from typing import Any

from transformers import Trainer
from transformers.trainer_callback import CallbackHandler

from ...audits.result.audit_result import Audit
from ...audits.result.forgetting import LARGE
from ...audits.result.summary import by_kind, update_norm
from .text_loss import TextLoss


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
        if (handler := handler_that_calls()) is not None:
            handler.on_log(args, state, control, dict(logs))
    control.should_log = to_come


def handler_that_calls() -> CallbackHandler | None:
    """Return the Trainer's list of callbacks from among the callers: no event of a callback names it."""
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    return None


def alert(intruders: int, above: int, step: int) -> None:
    """Warn of more ``intruders`` than ``above``, here and in Weights & Biases and trackio where they are loaded."""
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


def totals_of(audit: Audit, movement: float | None, text: TextLoss | None) -> dict[str, float]:
    """Return the totals of an audit, how far the factors A moved, the predicted nats, and the loss on text.

    Of a large update the prediction is its lower end alone.
    """
    kinds = {summary.kind: summary.intruders for summary in by_kind(audit.matrices)}
    totals = {
        "intruders/total": audit.intruders,
        "intruders/vectors": audit.vectors,
        "intruders/energy_share": audit.intruder_energy_share,
        "intruders/update_frobenius": update_norm(audit.matrices),
        "intruders/seconds": round(audit.seconds, 4),
        **{f"intruders/by_module/{kind}": count for kind, count in sorted(kinds.items())},
    }
    if movement is not None:
        totals["intruders/a_movement"] = movement
    if (forgetting := audit.forgetting) is not None:
        kl, key = forgetting.kl, "forgetting/predicted_kl"
        if not forgetting.is_large:
            totals |= {key: kl.estimate, f"{key}/high": kl.high}
        totals |= {f"{key}/low": min(kl.low, LARGE), f"{key}/not_counted": len(forgetting.left_out)}
    if text is not None and text.last is not None and text.rise is not None:
        of_text = f"forgetting/{text.label}"
        totals |= {of_text: text.rise, f"{of_text}/loss": text.last}
        totals["forgetting/share_of_time"] = round(text.share_of_time, 4)
    return totals
