"""Strata: runs of one base and one task that were measured in one way. Only these are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from ...tables.results import Results
from .claim import Where
from .run_labels import alpha_value, labels_of, rows_in, setting_of, text_of

MEASURED_ALIKE = ("k", "epsilon", "data_source")  # another source: a copy with other rows of the same set
LOSS_ALIKE = (*MEASURED_ALIKE, "corpus", "loss_measure", "base_loss")  # another base loss: other documents


@dataclass(frozen=True)
class Stratum:
    """Runs of one base on one task, with what was left out of them."""

    on: Where
    runs: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.on.label


def finished(runs: pd.DataFrame, kind: str = "finetune") -> pd.DataFrame:
    """Return the finished runs of a kind, with four more columns.

    These are ``setting`` (all that was chosen but the seed), ``described`` (the same in words), ``alpha_value``, and
    ``per_100`` (intruders per 100 vectors).
    """
    kept = runs[(runs["status"] == "finished") & (runs["kind"] == kind)].copy()
    kept["data_source"] = kept["data_source"].astype(object).fillna("")  # of a generated task
    rows = rows_in(kept)
    kept["setting"] = [setting_of(row) for row in rows]
    kept["described"] = labels_of(rows)
    kept["alpha_value"] = [alpha_value(row.get("alpha"), row.get("rank")) for row in rows]
    kept["per_100"] = 100 * kept["intruders"] / kept["vectors"].where(lambda count: count > 0)
    return kept


def by_corpus(results: Results) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each corpus's name and the runs with its losses; an empty name if there is only one corpus."""
    corpora = list(dict.fromkeys(results.losses["corpus"].dropna()))
    if len(corpora) < 2:
        yield "", results.runs
        return
    columns = [name for name in results.losses.columns if name != "run_id"]
    for corpus in corpora:
        of_corpus = results.losses[results.losses["corpus"] == corpus]
        yield str(corpus), results.runs.drop(columns=columns).merge(of_corpus, on="run_id", how="left")


def strata(runs: pd.DataFrame, by: Sequence[str] = ()) -> Iterator[Stratum]:
    """Yield the runs by base and task that were measured in one way (``by``): others are never mixed in.

    Of several ways of measuring in a stratum the one with the most runs is taken, after those with all in ``by`` known;
    the stratum's notes tell how many were left out.
    """
    for (base, task), group in runs.groupby(["base", "task"], dropna=False, sort=True):
        alike = largest_alike(group, by) if by else group
        on = Where(text_of(base), text_of(task))
        others = len(group) - len(alike)
        note = f"{on.label}: {others} of {len(group)} were measured in another way ({', '.join(by)}) and are left out"
        yield Stratum(on, alike, (note,) if others else ())


def largest_alike(group: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the most rows that agree in ``by``, preferring those with all of it known."""
    of_each_way = [part for _, part in group.groupby(list(by), dropna=False)]
    return max(of_each_way, key=lambda part: (bool(part[list(by)].notna().all(axis=None)), len(part)))
