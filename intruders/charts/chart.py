"""A chart as data, before anything draws it.

The page (plotly) and the figures for papers (matplotlib) are drawn from one and the same chart, and its numbers go
into the CSV beside the figure, so that the three cannot differ.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # half a second, and an audit that is printed needs no table
    import pandas as pd

TONES = 6  # of the palette; a tone beyond has the colour of an earlier one with another dash and shape
MANY = 12  # names that a legend tells apart by color and dash; above it, a color tells the order alone
Look = Literal["line", "points", "both"]


@dataclass(frozen=True)
class Axis:
    """One side of a chart: its column in the CSV, and the title that people read, with the unit."""

    column: str
    title: str
    log: bool = False
    from_zero: bool = False
    ticks: Sequence[str] | None = None  # for categories: point i sits at i
    limits: tuple[float, float] | None = None
    marks: Sequence[float] | None = None  # where the ticks are, for an axis with few values


@dataclass(frozen=True)
class Series:
    """Points of one name; the intervals are the ends themselves, not distances, and may be missing."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None  # of y
    high: Sequence[float] | None = None
    x_low: Sequence[float] | None = None
    x_high: Sequence[float] | None = None
    notes: Sequence[str] | None = None  # one for each point: which run it is
    look: Look = "points"
    tone: int = 0  # which of the palette's colours, with its dash and its shape
    faint: bool = False  # single runs behind their mean
    in_legend: bool = True
    band: bool = False  # the interval as a band, not as bars


@dataclass(frozen=True)
class Rule:
    """A straight line across the chart, with what it stands for."""

    side: Literal["x", "y", "diagonal"]
    at: float = 0.0
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """Series over two axes. `name` can be a file's."""

    name: str
    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    rules: Sequence[Rule] = ()
    caption: str = ""
    wide: bool = False
    # What the series are in the order of: a bar of colors names some, in the place of a legend.
    in_order: str = ""

    def frame(self) -> "pd.DataFrame":
        """One row a point; columns without any value are left out. Without any point there are headings alone."""
        import pandas as pd

        if not any(len(series.x) for series in self.series):
            return pd.DataFrame(columns=["series", self.x.column, self.y.column])
        frames = []
        for series in self.series:
            columns: dict[str, Sequence[Any] | None] = {"series": [series.name] * len(series.x)}
            for axis, values, low, high in (
                (self.x, series.x, series.x_low, series.x_high),
                (self.y, series.y, series.low, series.high),
            ):
                named = values if axis.ticks is None else [axis.ticks[round(value)] for value in values]
                columns |= {axis.column: named, f"{axis.column}_low": low, f"{axis.column}_high": high}
            columns["note"] = series.notes
            missing = [math.nan] * len(series.x)
            frames.append(pd.DataFrame({k: missing if v is None else list(v) for k, v in columns.items()}))
        return pd.concat(frames, ignore_index=True).dropna(axis="columns", how="all")

    def payload(self) -> dict[str, Any]:
        return {"kind": "chart", **for_page(self)}


@dataclass(frozen=True)
class Grid:
    """Numbers in rows and columns, each cell with its value: the accuracy matrix of a sequence."""

    name: str
    title: str
    row_title: str
    column_title: str
    value: Axis  # what a cell holds
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float]]  # NaN for a cell without a number
    caption: str = ""
    signed: bool = False  # numbers around zero, with a color for each side; the limits are as far from it
    has_numbers: bool = True  # written in the cells, which are small without them

    @property
    def are_counts(self) -> bool:
        """Whether every number is whole, and no share that happens to be 0 or 1."""
        cells = [value for row in self.values for value in row if math.isfinite(value)]
        return self.value.limits is None and all(value == round(value) for value in cells)

    def frame(self) -> "pd.DataFrame":
        """One row a cell that has a number."""
        import pandas as pd

        cells = [
            (row, column, value)
            for row, numbers in zip(self.rows, self.values, strict=True)
            for column, value in zip(self.columns, numbers, strict=True)
            if math.isfinite(value)
        ]
        return pd.DataFrame(cells, columns=[self.row_title, self.column_title, self.value.column])

    def payload(self) -> dict[str, Any]:
        return {"kind": "grid", **for_page(self), "counts": self.are_counts}


def spans_decades(values: Sequence[float]) -> bool:
    """Return whether only a logarithm shows the low values: tuning can lower a task loss a hundredfold."""
    return min(values) > 0 and max(values) > 20 * min(values)


def for_page(value: Any) -> Any:
    """Return a value for a page's JSON: numbers in six digits, and fields as JavaScript names them."""
    if is_dataclass(value):
        return {
            re.sub("_(.)", lambda letter: letter[1].upper(), part.name): for_page(getattr(value, part.name))
            for part in fields(value)
        }
    if isinstance(value, Mapping):
        return {name: for_page(item) for name, item in value.items()}
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Real):
        return float(f"{float(value):.6g}") if math.isfinite(value) else None
    return [for_page(item) for item in value]
