"""Which remedies are compared, at how many strengths, and what they may cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...mitigation.remedies.remedy_table import INTRUDERS, PUBLISHED, WHICH, WHICH_HELP
from ...settings import Settings, setting, settings_of
from ...system.plugins import REMEDIES as OF_PLUGINS
from ...system.plugins import plugins_of

# The order of the table: the dose alone, what this package is about, and then the others.
_FIRST, *_OTHERS = PUBLISHED
REMEDIES = (_FIRST, INTRUDERS, *_OTHERS)


@dataclass(frozen=True)
class ComparisonSettings(Settings):
    """Which remedies are compared, at which strengths and at what cost for the task.

    Examples:
      ``intruders.ComparisonSettings(strengths=5)``
    """

    only: tuple[str, ...] = setting(
        (),
        f"Comma-separated remedies to compare: {', '.join(REMEDIES[:-1])} or {REMEDIES[-1]}, or one of a plugin.",
        item="remedy",
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if not set(self.only) <= set(REMEDIES):  # plugins are loaded only for a name that is none of these
            replace(settings_of(type(self))["only"], choices=_all_names()).read(self.only)

    def names(self) -> list[str]:
        """Return the remedies to compare, in the order of the table; those of plugins come last."""
        return [name for name in _all_names() if not self.only or name in self.only]


def _all_names() -> list[str]:
    return [*REMEDIES, *(name for name in plugins_of(OF_PLUGINS) if name not in REMEDIES)]


EVERY_REMEDY = ComparisonSettings()
