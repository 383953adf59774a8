"""What the callback is told, when it audits, warns, stops or keeps a state; its warning, and what it logs."""

from __future__ import annotations

import math
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass

from ...audits.result.audit_result import Audit
from ...audits.result.summary import by_kind, update_norm
from ...errors import SettingError
from ...settings.numbers import is_number, is_whole
from .text_loss import TextLoss


@dataclass(frozen=True)
class Limits:
    """The limits of a state that is kept; None of them means that none is."""

    forgetting: float | None  # rise of the loss over the base, in nats per token
    intruders: int | None

    @property
    def is_given(self) -> bool:
        """Whether there is a limit."""
        return self.forgetting is not None or self.intruders is not None

    def is_below(self, intruders: int, forgetting: float | None) -> bool:
        """Return whether a state with this number of intruders and this rise is below both limits."""
        few = self.intruders is None or intruders < self.intruders
        # A rise that is not a number is below no limit.
        return few and (self.forgetting is None or forgetting is None or forgetting < self.forgetting)


@dataclass(frozen=True)
class Look:
    """What an audit saw, as every process hears it."""

    has_too_many: bool = False  # more intruders than ``stop_above``
    is_below: bool = True  # the limits of what is kept
    is_finite: bool = True  # the model


def check_counts(every: int, stop_above: int | None, alert_above: int | None) -> None:
    """Raise SettingError if a number of steps or of intruders is out of range."""
    if not is_whole(every) or every < 1:
        raise SettingError(f"every is {every!r}; expected a whole number of steps between audits, 1 or more")
    for name, number in (("stop_above", stop_above), ("alert_above", alert_above)):
        if number is not None and (not is_whole(number) or number < 0):
            raise SettingError(f"{name} is {number!r}; expected a whole number of intruders, 0 or more")


def checked_limits(
    loss_on: str | None, documents: int, tokens: int, forgetting: float | None, intruders: int | None
) -> Limits:
    """Return the limits of what is kept.

    Raises:
      SettingError: what is measured or kept is out of range, or a limit is of a loss that is not measured.
    """
    for name, number, least in (("loss_documents", documents, 1), ("loss_tokens", tokens, 2)):
        if not is_whole(number) or number < least:
            raise SettingError(f"{name} is {number!r}; expected a whole number, {least} or more")
    if forgetting is not None and not (is_number(forgetting) and 0 < forgetting < math.inf):
        raise SettingError(
            f"keep_forgetting_below is {forgetting!r}; expected a rise in nats per token, above 0"
        )
    if forgetting is not None and loss_on is None:
        raise SettingError(
            f"keep_forgetting_below is {forgetting!r}, but no loss is measured; pass loss_on with a corpus, such as "
            "'pydoc'"
        )
    if intruders is not None and not (is_whole(intruders) and intruders >= 1):
        raise SettingError(
            f"keep_intruders_below is {intruders!r}; expected a whole number of intruders, 1 or more"
        )
    return Limits(forgetting, intruders)


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


def totals_of_audit(audit: Audit) -> dict[str, float]:
    """Return the totals of an audit, each as the audit's own summary defines it."""
    kinds = {summary.kind: summary.intruders for summary in by_kind(audit.matrices)}
    return {
        "intruders/total": audit.intruders,
        "intruders/vectors": audit.vectors,
        "intruders/energy_share": audit.intruder_energy_share,
        "intruders/update_frobenius": update_norm(audit.matrices),
        "intruders/seconds": round(audit.seconds, 4),
        **{f"intruders/by_module/{kind}": count for kind, count in sorted(kinds.items())},
    }


def totals_of_text(text: TextLoss | None) -> dict[str, float]:
    """Return the loss on text, its rise over the base, and the share of the time that measuring it took."""
    if text is None or text.last is None or text.rise is None:
        return {}
    return {
        f"forgetting/{text.label}": text.rise,
        f"forgetting/{text.label}/loss": text.last,
        "forgetting/share_of_time": round(text.share_of_time, 4),
    }
