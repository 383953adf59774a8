"""The verdicts of a sweep of interventions: the trade-off, and whether the controls do as well."""

from __future__ import annotations

from collections.abc import Sequence

from ...measures.intervals import Interval
from ...mitigation.remedies.remedy_table import CONTROL_NAMES, SHRINK_OUTPUT
from .interventions import Trade

CHANGE = "+.3f"  # the format of a change in nats per token


def verdict(
    scale: float,
    change: Trade,
    gain: Interval | None,
    controls: Sequence[tuple[str, Trade, int]],
    matrices: int,
) -> str:
    """Return one sentence: what scaling the intruders changes, and how each control compares at the same scale.

    Of a control also how many of the ``matrices`` with intruders have none: a model without it compares with nothing.
    """
    gained = [] if gain is None else [_gained(gain)]
    compared = [
        f"no matrix has {_name(control)}"
        if 0 < matrices <= alone
        else _compared(control, trade) + (f" ({alone:,} of {matrices:,} matrices have none)" if alone else "")
        for control, trade, alone in controls
    ]
    return "; ".join([f"at scale {scale:g} {_in_words(change)}", *gained, *compared])


def _in_words(trade: Trade) -> str:
    parts = [f"loss on {name} {_moved(change, 1, '')}" for name, change in trade.losses.items()]
    parts += [
        f"accuracy on {name} {_moved(change, 100, ' points')}" for name, change in trade.accuracies.items()
    ]
    return " and ".join(parts)


def _moved(change: Interval, factor: float, unit: str) -> str:
    """Return words such as ``falls 0.12 [0.10, 0.14]``; a change across zero is not clear and keeps its signs."""
    digits = 3 if factor == 1 else 1
    if not change.is_clear:
        ends = f"[{factor * change.low:+.{digits}f}, {factor * change.high:+.{digits}f}]"
        return f"does not clearly change ({factor * change.estimate:+.{digits}f}{unit} {ends})"
    low, high = sorted((abs(factor * change.low), abs(factor * change.high)))
    verb = "falls" if change.estimate < 0 else "rises"
    return f"{verb} {abs(factor * change.estimate):.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def _gained(gain: Interval) -> str:
    """Compare with interpolation at the same task loss, in words."""
    if not gain.is_clear:
        return f"at equal task loss interpolation does as well ({gain.text(CHANGE)})"
    low, high = sorted((abs(gain.low), abs(gain.high)))
    side = "below" if gain.estimate > 0 else "above"
    return f"at equal task loss this is {abs(gain.estimate):.3f} [{low:.3f}, {high:.3f}] {side} interpolation"


def _name(control: str) -> str:
    return CONTROL_NAMES[control] if control in ("shrink", SHRINK_OUTPUT) else f"the control {control}"


def _compared(control: str, trade: Trade) -> str:
    """Compare a control with the intruders at the same scale: lower loss or higher accuracy is better."""
    name = _name(control)
    better: list[str] = []
    worse: list[str] = []
    for corpus, change in trade.losses.items():
        if change.is_clear:
            (better if change.estimate < 0 else worse).append(f"loss on {corpus} {change.text(CHANGE)}")
    for task, change in trade.accuracies.items():
        if change.is_clear:
            points = change.times(100)
            (better if change.estimate > 0 else worse).append(
                f"accuracy on {task} {points.text('+.1f')} points"
            )
    if not better and not worse:
        return f"{name} does as well"
    parts = [f"does better in {' and '.join(better)}"] if better else []
    parts += [f"does worse in {' and '.join(worse)}"] if worse else []
    return f"{name} {', and '.join(parts)}"
