"""The claims of the paper that a study can test, in the order in which a report tells the story."""

import difflib
from collections.abc import Sequence

from intruders.errors import SettingError
from intruders.system.plugins import CLAIMS as CLAIMS_OF_PLUGINS
from intruders.system.plugins import plugins_of

# In the order in which a report tells the story.
CLAIMS = [
    "structure",
    "rank",
    "forgetting",
    "predictors",
    "places",
    "intervention",
    "sequence",
    "dynamics",
    "causes",
    "remedies",
    "threshold",
]

# Whose effect is a rank correlation over settings or a difference of two: more seeds of one setting decide little.
OVER_SETTINGS = ("forgetting", "predictors")
# Of these, the differences: settings for one correlation are mostly too few.
DIFFERENCES_OVER_SETTINGS = ("predictors",)
# Those, and the ones whose interval is over settings or runs: it tells no spread over seeds.
NOT_OVER_SEEDS = (*OVER_SETTINGS, "places", "threshold")


def check_analyses(names: Sequence[str]) -> list[str]:
    """Return the names as given; SettingError with the nearest known name for an unknown one."""
    known = list(dict.fromkeys([*CLAIMS, *plugins_of(CLAIMS_OF_PLUGINS)]))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise SettingError(f"analysis '{name}' is not known; {hint}expected some of {', '.join(known)}")
    return list(names)
