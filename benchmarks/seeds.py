"""Tables in which models whose names differ in a last ``-s0``, ``-s1``, ... are seeds of one setting."""

import re
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TypeVar

from intruders.measures.intervals import Interval

Model = TypeVar("Model")


def by_setting(models: Mapping[str, Model]) -> dict[str, list[Model]]:
    """Group models by their names without the seed.

    >>> by_setting({"a-s0": 1, "a-s1": 2, "b": 3})
    {'a': [1, 2], 'b': [3]}
    """
    settings: dict[str, list[Model]] = {}
    for name, model in models.items():
        settings.setdefault(re.sub(r"-s\d+$", "", name), []).append(model)
    return settings


def print_head(*cells: str) -> None:
    """Print the first lines of a table."""
    print()
    print_row(*cells)
    print("|" + "---|" * len(cells))


def print_row(*cells: str) -> None:
    """Print a line of a table."""
    print(f"| {' | '.join(cells)} |")


def labelled(name: str, group: Sequence[object]) -> str:
    """Name a setting with its number of seeds."""
    return name if len(group) == 1 else f"{name}, {len(group)} seeds"


def mean_of_all(values: Sequence[float | None], form: str) -> str:
    """Say the mean, or nothing where a model has no such number."""
    known = [value for value in values if value is not None]
    return form.format(mean(known)) if len(known) == len(values) else "-"


def over_seeds(intervals: Sequence[Interval | None], form: str, *, is_short: bool = False) -> str:
    """Say the mean with its lowest and highest seed; of one model its interval, unless it is to be short."""
    values = [interval for interval in intervals if interval is not None]
    if len(values) == 1 and not is_short:
        count = _known_of(len(values), len(intervals))
        return f"{form.format(values[0].estimate)} [{form.format(values[0].low)}, {form.format(values[0].high)}]{count}"
    return spread([interval and interval.estimate for interval in intervals], form)


def interval_columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Return an interval as three columns of a table: the estimate, ``_low`` and ``_high``."""
    return {
        name: interval and interval.estimate,
        f"{name}_low": interval and interval.low,
        f"{name}_high": interval and interval.high,
    }


def spread(values: Sequence[float | None], form: str) -> str:
    """Say the mean with the lowest and the highest of the values that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    ends = f" [{form.format(min(known))}, {form.format(max(known))}]" if len(known) > 1 else ""
    return f"{form.format(mean(known))}{ends}{_known_of(len(known), len(values))}"


def _known_of(count: int, total: int) -> str:
    # A share is not known where tuning forgot nothing clearly.
    return f" ({count} of {total})" if count < total else ""
