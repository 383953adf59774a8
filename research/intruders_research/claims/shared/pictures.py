"""Shared parts of the charts: one color per setting, and one chart per base and task."""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from intruders.charts.chart import TONES, Axis, Chart, Rule, Series

LOSS_CHANGE = Axis("loss_change", "pre-training loss change, nats/token")


_FULL = 5  # the palette's darkest
# Settings that a legend names one by one. Beyond, those that differ in the learning rate alone have one name.
_MOST_NAMED = 8


@dataclass
class Palette:
    """The tones of the settings: each new setting takes the next one, full fine-tuning the darkest."""

    names: list[str] = field(default_factory=list)
    full: list[str] = field(default_factory=list)

    def tone(self, name: str) -> int:
        if name.split(" ")[0] == "full":
            return _FULL + TONES * _position(name, self.full)
        at = _position(name, self.names)
        return at + at // (TONES - 1)


def _position(name: str, names: list[str]) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)


@dataclass(frozen=True)
class Part:
    """The rows of a table that belong to one base and task."""

    label: str  # "" where the table has one only
    slug: str  # the same for a file's name, with a leading hyphen
    rows: pd.DataFrame

    def titled(self, title: str) -> str:
        return f"{title}: {self.label}" if self.label else title


def parts(table: pd.DataFrame | None, *columns: str) -> Iterator[Part]:
    """Split a table by base and task, or by other columns; yield nothing if it is missing or empty."""
    if table is None or table.empty:
        return
    by = [column for column in columns or ("base", "task") if column in table]
    if not by:
        yield Part("", "", table)
        return
    groups = list(table.groupby(by, sort=False, dropna=False))
    for key, rows in groups:
        label = " on ".join(str(value) for value in key if str(value) not in ("", "nan", "None"))
        yield Part(label, slug(label), rows) if len(groups) > 1 else Part("", "", rows)


def slug(label: str) -> str:
    """Return a label as a part of a file's name; where letters are lost, a digest of the label is added.

    >>> slug("lora r=1 on SST2"), slug("minilm on ré"), slug("minilm on rè")
    ('-lora-r-1-on-sst2', '-minilm-on-r-67ee02ee', '-minilm-on-r-d089305a')
    """
    name = "-" + re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-").lower()
    if label.isascii():
        return name
    return f"{name.rstrip('-')}-{hashlib.sha256(label.encode(errors='surrogatepass')).hexdigest()[:8]}"


def values(column: "pd.Series[float]") -> list[float]:
    """Return a column as numbers, NaN for missing ones."""
    return [float(value) for value in pd.to_numeric(column, errors="coerce")]


def by_method_and_rank(settings: Iterable[str]) -> list[str]:
    """Sort settings such as "lora r=8 alpha=16 lr=2e-05" by method, rank, then the rest, numbers by size.

    Full fine-tuning comes last.
    """

    def key(setting: str) -> tuple[bool, str, float, list[tuple[str, float, str]]]:
        words = [word.partition("=") for word in setting.split(" ")]
        rank = next((_size(value) for name, _, value in words if name == "r"), 0.0)
        method = words[0][0]
        return method == "full", method, rank, [(name, _size(value), value) for name, _, value in words]

    return sorted(set(settings), key=key)


def _size(value: str) -> float:
    """Return a setting's value for sorting; words, and nan, come after all numbers."""
    try:
        return math.inf if math.isnan(float(value)) else float(value)
    except ValueError:
        return math.inf


def series_of(
    name: str, rows: pd.DataFrame, palette: Palette, columns: Mapping[str, str | None], **look: Any
) -> Series:
    """Return the rows as a series in the tone of its name; ``columns`` are those of its numbers, by what they are."""
    look |= {field: values(rows[column]) for field, column in columns.items() if column is not None}
    return Series(name, tone=palette.tone(name), **look)


def lines(
    rows: pd.DataFrame,
    palette: Palette,
    x: str,
    y: str,
    *,
    name: str = "setting",
    low: str | None = None,
    high: str | None = None,
    band: bool = False,
) -> list[Series]:
    """Return one line over ``x`` per name, in the order of the names."""
    columns = {"x": x, "y": y, "low": low, "high": high}
    look = "line" if band else "both"
    return [
        series_of(str(label), group.sort_values(x), palette, columns, look=look, band=band)
        for label, group in rows.groupby(name, sort=False)
    ]


def run_points(
    rows: pd.DataFrame, palette: Palette, x: str, y: str, *, low: str | None = None, high: str | None = None
) -> tuple[list[Series], str]:
    """Return a point a run by setting, and what a caption must add about the names; ``run_id`` tells the runs apart."""
    named = rows["setting"].astype(str)
    note = ""
    if named.nunique() > _MOST_NAMED:
        by_method = named.str.replace(r" lr=\S+", "", regex=True)
        if by_method.nunique() < named.nunique():
            named, note = by_method, " Runs of one name may differ in the learning rate."
    columns = {"x": x, "y": y, "low": low, "high": high}
    series = [
        series_of(str(name), group, palette, columns, notes=list(group["run_id"]))
        for name, group in rows.groupby(named, sort=False)
    ]
    return in_order(series), note


def in_order(series: Sequence[Series]) -> list[Series]:
    """Sort series as in every other figure and table: by method and rank."""
    names = by_method_and_rank(each.name for each in series)
    return sorted(series, key=lambda each: names.index(each.name))


def listed(
    name: str,
    title: str,
    rows: pd.DataFrame,
    palette: Palette,
    x: Axis,
    *,
    by: str = "setting",
    value: str,
    low: str | None = None,
    high: str | None = None,
    rules: Sequence[Rule] = (),
    caption: str = "",
) -> Chart:
    """Draw the names from top to bottom, each with its value and interval from left to right."""
    names = list(dict.fromkeys(rows[by].astype(str)))
    if by == "setting":
        names = by_method_and_rank(names)
    columns = {"x": value, "x_low": low, "x_high": high}
    groups = [rows[rows[by].astype(str) == label] for label in names]
    series = [
        series_of(label, group, palette, columns, y=[float(at)] * len(group), in_legend=False)
        for at, (label, group) in enumerate(zip(names, groups, strict=True))
    ]
    return Chart(name, title, x, Axis(by, "", ticks=names), series, rules, caption)
