"""The figures of a comparison of remedies: what is healed at what cost, and what that gains over interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...charts.chart import Axis, Chart, Rule, Series
from ...experiments.compare.compared import ComparedPoint, ComparedRemedy, RemedyComparison
from ...measures.intervals import Interval
from .remedies_text import label

_CURVE_TONE = 5  # the darkest of the palette


def comparison_charts(comparison: RemedyComparison) -> list[Chart]:
    """Healed over task loss, gains over interpolation, and healed over the norm of the updates."""
    measured = [one for one in comparison.remedies if one.chosen is not None and one.name != "interpolate"]
    found = [_over_task_loss(comparison, measured), _over_norm(comparison, measured)]
    if measured:
        found.insert(1, _gains(measured))
    return found


def _over_task_loss(comparison: RemedyComparison, measured: Sequence[ComparedRemedy]) -> Chart:
    return Chart(
        "remedies-task-loss",
        "Healed forgetting over what the task loses",
        Axis(
            "task_loss",
            f"task loss on {_short(comparison.target)} (nats per token)",
            log=_spans_decades([point.task_loss.estimate for point in comparison.curve]),
        ),
        Axis("healed", _healed_title(comparison)),
        _series(comparison, measured, lambda point: point.task_loss.estimate),
        caption=_caption("Left and up is better."),
        wide=True,
    )


def _over_norm(comparison: RemedyComparison, measured: Sequence[ComparedRemedy]) -> Chart:
    return Chart(
        "remedies-norm",
        "Healed forgetting over the norm of the updates",
        Axis("norm", "norm of all updates (1: the tuned model's)"),
        Axis("healed", _healed_title(comparison)),
        _series(comparison, measured, lambda point: point.norm),
        caption=_caption("A remedy above the curve heals more than its size explains."),
    )


def _series(comparison: RemedyComparison, measured: Sequence[ComparedRemedy], across) -> list[Series]:  # type: ignore[no-untyped-def]
    is_share = comparison.tuned_point.healed is not None

    def up(point: ComparedPoint) -> Interval:
        return point.healed if is_share and point.healed is not None else point.loss

    curve = comparison.curve
    found = [
        Series(
            "interpolate",
            [across(point) for point in curve],
            [up(point).estimate for point in curve],
            notes=[f"alpha {point.strength:g}" for point in curve],
            look="both",
            tone=_CURVE_TONE,
        )
    ]
    for tone, remedy in enumerate(measured):
        tone += tone >= _CURVE_TONE  # the curve's own tone stays its own
        point = remedy.chosen
        assert point is not None
        low, high = _finite(up(point))
        found.append(
            Series(
                label(remedy),
                [across(point)],
                [up(point).estimate],
                [low],
                [high],
                notes=["reported"],
                tone=tone,
            )
        )
        if is_share and len(remedy.tried) > 1:
            tried = remedy.tried
            found.append(
                Series(
                    remedy.name,
                    [across(one) for one in tried],
                    [up(one).estimate for one in tried],
                    notes=[
                        f"strength {one.strength:g}, on the half that strengths are chosen on"
                        for one in tried
                    ],
                    look="both",
                    tone=tone,
                    faint=True,
                    in_legend=False,
                )
            )
    return found


def _gains(measured: Sequence[ComparedRemedy]) -> Chart:
    ordered = sorted(measured, key=lambda one: -one.chosen.gain.estimate)  # type: ignore[union-attr]
    found = []
    for tone, (name, key) in enumerate((("at equal task loss", "gain"), ("at equal norm", "gain_at_norm"))):
        rows = [
            (place, value)
            for place, one in enumerate(ordered)
            if (value := getattr(one.chosen, key)) is not None
        ]
        ends = [_finite(value) for _, value in rows]
        found.append(
            Series(
                name,
                [value.estimate for _, value in rows],
                [place + 0.15 * tone for place, _ in rows],
                x_low=[low for low, _ in ends],
                x_high=[high for _, high in ends],
                tone=tone,
            )
        )
    return Chart(
        "remedies-gains",
        "Gain over interpolation",
        Axis("gain", "loss of interpolation minus that of the remedy (nats per token)"),
        Axis("remedy", "", ticks=[label(one) for one in ordered]),
        found,
        rules=[Rule("x", 0.0)],
        caption="One mark is a remedy at the chosen strength; the bar is its confidence interval over documents and "
        "examples. Right of zero the remedy is better than scaling the complete update down.",
        wide=True,
    )


def _healed_title(comparison: RemedyComparison) -> str:
    if comparison.tuned_point.healed is not None:
        return "forgetting healed (1: all of it)"
    return "pre-training loss (nats per token)"


def _caption(better: str) -> str:
    return (
        "The dark line is interpolation from the base to the tuned model. A large mark is a remedy at the chosen "
        "strength on the reported half, with its confidence interval. A faint line joins all strengths, on the half "
        f"that they were chosen on. {better}"
    )


def _finite(value: Interval) -> tuple[float, float]:
    """Ends that are not known are drawn at the estimate."""
    low, high = (end if math.isfinite(end) else value.estimate for end in (value.low, value.high))
    return low, high


def _spans_decades(values: Sequence[float]) -> bool:
    """Tuning can lower a task loss a hundredfold: all but the base would lie in one place of a linear axis."""
    return min(values) > 0 and max(values) > 20 * min(values)


def _short(target: str) -> str:
    return target.rpartition("/")[2].partition("?")[0] or target
