"""The figures of a comparison of remedies: healing, its cost, and the gain over interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...charts.chart import Axis, Chart, Rule, Series
from ...experiments.point import Point
from ...experiments.remedy_comparison import ComparedRemedy, RemedyComparison
from ...measures.intervals import Interval
from .remedies_text import label

_CURVE_TONE = 5  # the darkest of the palette


def comparison_charts(comparison: RemedyComparison) -> list[Chart]:
    """Chart healing over task loss, gains over interpolation, and healing over the norm of the updates."""
    measured = [
        remedy for remedy in comparison.remedies if remedy.chosen is not None and remedy.name != "interpolate"
    ]
    charts = [_over_task_loss(comparison, measured), _over_norm(comparison, measured)]
    if measured:
        charts.insert(1, _gains(measured))
    return charts


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

    def up(point: Point) -> Interval | None:
        """Return what the axis says, or None: a share of the data can be too small to tell what was healed on it."""
        return point.healed if is_share else point.loss

    curve = [(point, value) for point in comparison.curve if (value := up(point)) is not None]
    series = [
        Series(
            "interpolate",
            [across(point) for point, _ in curve],
            [value.estimate for _, value in curve],
            notes=[f"alpha {point.strength:g}" for point, _ in curve],
            look="both",
            tone=_CURVE_TONE,
        )
    ]
    for tone, remedy in enumerate(measured):
        tone += tone >= _CURVE_TONE  # the curve's own tone stays its own
        point = remedy.chosen
        assert point is not None
        reported = up(point)
        if reported is not None:
            low, high = _finite(reported)
            series.append(
                Series(
                    label(remedy),
                    [across(point)],
                    [reported.estimate],
                    [low],
                    [high],
                    notes=["reported"],
                    tone=tone,
                )
            )
        tried = [(attempt, attempt.healed) for attempt in remedy.tried if attempt.healed is not None]
        if is_share and len(tried) > 1:
            series.append(
                Series(
                    remedy.name,
                    [across(attempt) for attempt, _ in tried],
                    [healed.estimate for _, healed in tried],
                    notes=[
                        f"strength {attempt.strength:g}, on the half that strengths are chosen on"
                        for attempt, _ in tried
                    ],
                    look="both",
                    tone=tone,
                    faint=True,
                    in_legend=False,
                )
            )
    return series


def _gains(measured: Sequence[ComparedRemedy]) -> Chart:
    ordered = sorted(measured, key=lambda remedy: -remedy.chosen.gain.estimate)  # type: ignore[union-attr]
    series = []
    for tone, (name, key) in enumerate((("at equal task loss", "gain"), ("at equal norm", "gain_at_norm"))):
        rows = [
            (position, value)
            for position, remedy in enumerate(ordered)
            if (value := getattr(remedy.chosen, key)) is not None
        ]
        ends = [_finite(value) for _, value in rows]
        series.append(
            Series(
                name,
                [value.estimate for _, value in rows],
                [position + 0.15 * tone for position, _ in rows],
                x_low=[low for low, _ in ends],
                x_high=[high for _, high in ends],
                tone=tone,
            )
        )
    return Chart(
        "remedies-gains",
        "Gain over interpolation",
        Axis("gain", "loss of interpolation minus that of the remedy (nats per token)"),
        Axis("remedy", "", ticks=[label(remedy) for remedy in ordered]),
        series,
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
    """Return the ends of an interval; an end that is not known becomes the estimate."""
    low, high = (end if math.isfinite(end) else value.estimate for end in (value.low, value.high))
    return low, high


def _spans_decades(values: Sequence[float]) -> bool:
    """Return whether values need a logarithmic axis: tuning can lower a task loss a hundredfold."""
    return min(values) > 0 and max(values) > 20 * min(values)


def _short(target: str) -> str:
    return target.rpartition("/")[2].partition("?")[0] or target
