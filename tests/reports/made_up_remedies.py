"""A comparison of remedies with made-up numbers: one that wins, one that does not, one that could not run."""

from dataclasses import replace
from typing import Any

from intruders.experiments.experiment_settings import ALPHAS
from intruders.experiments.point import Point
from intruders.experiments.remedy_comparison import ComparedRemedy, RemedyComparison
from intruders.experiments.yardstick import FourParts, Items
from intruders.measures.intervals import Interval

TASK = "word-problems"


def around(value: float, half: float = 0.05) -> Interval:
    return Interval(value, value - half, value + half)


def made_up_point(remedy: str, strength: float | None, loss: float, task_loss: float, **more: Any) -> Point:
    given: dict[str, Any] = {
        "settings": {}, "control": None, "share": "report", "norm": 0.6, "output": 0.4, "losses": {"pydoc": loss},
        "task_losses": {TASK: task_loss}, "accuracies": {TASK: 0.8}, "loss": around(loss),
        "task_loss": around(task_loss), "healed": around((5 - loss) / 3), "kept": around((4 - task_loss) / 3),
        "harness": {} if more.get("control") else {"arc_easy": 0.5 - loss / 100},
    }  # fmt: skip
    return Point(remedy=remedy, strength=strength, **{**given, **more})


def made_up_row(
    name: str, strength: float, loss: float, gain: Interval | None, **more: Any
) -> ComparedRemedy:
    def point(loss: float, **other: Any) -> Point:
        return made_up_point(name, strength, loss, 1.3, gain=gain, gain_at_norm=gain, **other)

    controls = [
        point(loss + 0.1, control=control, margin=around(0.1))
        for control in ("shrink", "shrink-output", "random 1")
    ]
    given: dict[str, Any] = {
        "chosen": point(loss),
        "tried": [point(loss + step, share="choice") for step in (0.0, 0.2)],
        "controls": controls,
        "parts": FourParts(0.5, None, 1.0, 0.9),
        "items": Items(3, 2, 20, 18, 1),
    }
    return ComparedRemedy(name, "a paper", **{**given, **more})


def made_up_comparison(**more: Any) -> RemedyComparison:
    curve = [
        made_up_point("interpolate", alpha, 2 + 3 * alpha, 4 - 3 * alpha, norm=alpha, output=alpha**2)
        for alpha in ALPHAS
    ]
    interpolate = made_up_row("interpolate", 0.8, 4.4, None, controls=[])
    reason = "changes nothing: <b>median & threshold</b> are 0"
    given: dict[str, Any] = {
        "base": "smollm2-135m", "tuned": "my adapter", "tuned_kind": "adapter", "target": TASK,
        "settings": {
            "only": [], "strengths": 3, "allow": None, "k": 10, "epsilon": 0.5, "include": [], "exclude": [], "seed": 0,
        },
        "allow": 0.3, "level": 0.99,
        "counts": {name: {"documents": 10, "examples": 20} for name in ("first", "rest", "report")},
        "base_point": curve[0], "tuned_point": curve[-1], "curve": curve, "forgotten": around(3.0),
        "remedies": [
            interpolate,
            made_up_row("trim", 0.2, 3.9, around(0.4), dropped_in_first_pass=[0.1]),
            made_up_row("lines", 0.5, 4.3, around(-0.03), controls=[], changes_nothing=[1.0]),
            ComparedRemedy("dg-hard", "a paper", reason=reason),
        ],
    }  # fmt: skip
    return RemedyComparison(**{**given, **more})


def without_winner() -> RemedyComparison:
    comparison = made_up_comparison()
    return replace(comparison, remedies=[one for one in comparison.remedies if one.name != "trim"])
