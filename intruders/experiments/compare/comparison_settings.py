"""Which remedies are compared, at how many strengths, and what they may cost."""

from __future__ import annotations

from dataclasses import dataclass

from ...measures.measure_settings import WHICH, WHICH_HELP
from ...settings import Settings, setting

# Names of remedies, in the order of the table; the file of remedies is heavy, and a test holds the two together.
REMEDIES = (
    "interpolate",
    "intruders",
    "budget",
    "flatten",
    "truncate",
    "lines",
    "layers",
    "heads",
    "directions",
    "project",
    "dg-hard",
    "trim",
    "drop",
    "fapm",
    "surgery",
    "doses",
)


@dataclass(frozen=True)
class ComparisonSettings(Settings):
    """Which remedies are compared, at which strengths and at what cost for the task.

    Example:
      ``intruders.ComparisonSettings(strengths=5)``
    """

    only: tuple[str, ...] = setting(
        (),
        f"Comma-separated remedies to compare: {', '.join(REMEDIES[:-1])} or {REMEDIES[-1]}.",
        item="remedy",
        choices=REMEDIES,
        by_commas=True,
        metavar="NAMES",
        panel="Remedies",
        unless_given="default: all",
    )
    strengths: int = setting(
        3,
        "Number of strengths to try of each remedy, 1 or more.",
        least=1,
        metavar="N",
        panel="Remedies",
    )
    which: str = setting("all", WHICH_HELP, choices=WHICH, new_in="0.2", metavar="NAME", panel="Remedies")
    allow: float = setting(
        0.02,
        "Rise of the task loss that a remedy may cost, in nats per token, when its strength is chosen.",
        least=0,
        metavar="NATS",
        panel="Remedies",
    )


EVERY_REMEDY = ComparisonSettings()
