"""Which interventions a sweep measures: the scales of the intruders, and the controls beside them."""

from __future__ import annotations

from dataclasses import dataclass

from ...mitigation.remedies.remedy_table import CONTROLS, INTRUDERS, SHRINK_OUTPUT, WHICH, WHICH_HELP
from ...settings import Settings, setting

# Of the controls the one that scales the complete update by one factor, and is compared at equal task loss.
INTERPOLATE = "interpolate"


@dataclass(frozen=True)
class SweepSettings(Settings):
    """Which interventions are measured, and on how much of the evaluation's data.

    Examples:
      ``intruders.SweepSettings(scales=(0, 0.5), controls=("shrink", "interpolate"))``
    """

    scales: tuple[float, ...] = setting(
        (0.0, 0.5),
        "Comma-separated intruder scales: 0 removes the intruders, 1 changes nothing.",
        item="scale",
        least=0,
        expected="a number, the share of the intruders to keep: 0 removes them, 1 changes nothing",
        may_be_empty=False,
        by_commas=True,
        metavar="NUMBERS",
        panel="Intervention",
    )
    controls: tuple[str, ...] = setting(
        ("shrink", "random"),
        "Comma-separated controls: shrink, shrink-output, random, neighbours, update, resized, complement and "
        "interpolate.",
        item="control",
        choices=(*CONTROLS, SHRINK_OUTPUT, INTERPOLATE, INTRUDERS),
        by_commas=True,
        metavar="NAMES",
        panel="Intervention",
    )
    which: str = setting("all", WHICH_HELP, choices=WHICH, new_in="0.2", metavar="NAME", panel="Intervention")
    max_documents: int | None = setting(
        None,
        "Number of documents per corpus; the evaluation's, if None.",
        least=1,
        metavar="N",
        panel="Measures",
        unless_given="default: all; 200 of a Hub corpus",
    )
    max_examples: int | None = setting(
        None,
        "Number of examples per task; the evaluation's, if None.",
        least=1,
        metavar="N",
        panel="Measures",
        unless_given="default: all",
    )


# The paper's Tables 3 and 4: the strongest intruder of each matrix, and the vector next to it as the control.
AS_IN_THE_PAPER = SweepSettings(scales=(0.1, 0.3, 0.5, 0.7, 0.9), controls=("neighbours",), which="top")
IN_QUARTERS = SweepSettings(scales=(0.0, 0.25, 0.5, 0.75, 1.0))
