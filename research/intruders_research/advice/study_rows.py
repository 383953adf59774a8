"""The rows of a study's findings that advice reads, each with its intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from intruders.measures.intervals import Interval

from ..claims.shared.claim import Finding, Where

Row = TypeVar("Row")


@dataclass(frozen=True)
class TrendRow:
    """How one measure changes a doubling of the rank."""

    on: Where
    measure: str
    ranks: str
    per_doubling: Interval
    seeds: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> TrendRow:
        return cls(
            on=_by_rule(row),
            measure=row["measure"],
            ranks=row["ranks"],
            per_doubling=Interval.from_cells(row, "per_doubling", "low", "high"),
            seeds=row["seeds"],
        )


@dataclass(frozen=True)
class ValleyRow:
    """The rank of least loss; its depth is NaN where there are too few ranks."""

    on: Where
    rank: float
    depth: Interval

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ValleyRow:
        return cls(on=_by_rule(row), rank=row["rank"], depth=Interval.from_cells(row, "depth", "low", "high"))


@dataclass(frozen=True)
class RemedyRow:
    """What one remedy saves, and what it costs, against the baseline."""

    on: Where
    kind: str
    remedy: str
    saved: Interval  # nats per token
    cost: Interval  # points of the task score
    control: str  # of a change after training: what was scaled
    scale: float | None  # to which
    seeds: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> RemedyRow:
        return cls(
            on=_by_task(row),
            kind=row["kind"],
            remedy=row["remedy"],
            saved=Interval.from_cells(row, "saved"),
            cost=Interval.from_cells(row, "points_lost", "lost_low", "lost_high"),
            control=row["control"],
            scale=row["scale"],
            seeds=row["seeds"],
        )


@dataclass(frozen=True)
class SweptRow:
    """What one intervention changes at one scale, in one setting."""

    on: Where
    setting: str
    control: str
    scale: float
    measure: str
    change: Interval

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> SweptRow:
        return cls(
            on=_by_task(row),
            setting=row["setting"],
            control=row["control"],
            scale=row["scale"],
            measure=row["measure"],
            change=Interval.from_cells(row, "change", "low", "high"),
        )


@dataclass(frozen=True)
class CauseRow:
    """How the number of intruders changes from one value of a setting to another, all else equal."""

    on: Where
    varied: str  # the column of the setting, or a method
    cause: str  # the same in words
    start: str
    end: str
    change: Interval  # intruders per 100 vectors
    p_among_all: float
    seeds: int

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> CauseRow:
        return cls(
            on=_by_task(row),
            varied=row["varied"],
            cause=row["cause"],
            start=row["from"],
            end=row["to"],
            change=Interval.from_cells(row, "change_per_100_vectors", "low", "high"),
            p_among_all=row["p_among_all"],
            seeds=row["seeds"],
        )


def rows_of(of: Callable[[Mapping[str, Any]], Row], finding: Finding, table: str) -> list[Row]:
    """Return the rows of a finding's table; none without the table."""
    frame = finding.tables.get(table)
    records = [] if frame is None else frame.to_dict("records")
    return [of({str(name): value for name, value in record.items()}) for record in records]


def _by_task(row: Mapping[str, Any]) -> Where:
    return Where(row["base"], row["task"])


def _by_rule(row: Mapping[str, Any]) -> Where:
    return Where(row["base"], row["task"], row["rule"])
