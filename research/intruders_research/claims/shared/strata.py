"""Strata: runs of one base and one task that were measured in one way. Only these are compared."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd

from intruders.studies.compare_settings import labels_of, rows_in, setting_of, text_of
from intruders.studies.results import Results

from .claim import Where

MEASURED_ALIKE = ("k", "epsilon", "data_source")  # another source: a copy with other rows of the same set
LOSS_ALIKE = (*MEASURED_ALIKE, "corpus", "loss_measure", "base_loss")  # another base loss: other documents
# Nats per token within which two losses of a base are of the same documents. Processors round 16-bit products
# differently: 0.00016 lay between one with AVX-512 and one without, on SmolLM2-135M. A run's change of the loss is
# measured on one machine.
SAME_DOCUMENTS = 1e-3


@dataclass(frozen=True)
class Stratum:
    """Runs of one base on one task, with what was left out of them."""

    on: Where
    runs: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.on.label

    def narrowed(self, runs: pd.DataFrame, *notes: str) -> Self:
        """Return the stratum with some of its runs, and notes on why not the others."""
        return replace(self, runs=runs, notes=(*self.notes, *notes))


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


def alpha_value(alpha: object, rank: object) -> float:
    """Return alpha as a number; "2r" is twice the rank. NaN without one."""
    text = text_of(alpha).strip()
    try:
        return float(text[:-1] or 1) * float(str(rank)) if text.endswith("r") else float(text)
    except ValueError:
        return math.nan


def points_of(runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return these columns of :func:`finished` runs as a table, in which the setting is in words."""
    return runs[list(columns)].rename(columns={"described": "setting"}).reset_index(drop=True)


def per_setting(rows: pd.DataFrame, *further: str) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield the rows of every base, task, described setting and what is ``further`` the same, with these as cells."""
    for key, group in rows.groupby(["base", "task", "described", *further]):
        yield dict(zip(["base", "task", "setting", *further], key, strict=True)), group


def audits_during(traces: pd.DataFrame) -> pd.DataFrame:
    """Return a row per run and step at which it was audited, summed over its matrices, with ``per_100`` and ||D||_F."""
    squares = traces.assign(squares=traces["frobenius"] ** 2)
    sums = squares.groupby(["run_id", "step"])[["intruders", "vectors", "squares"]].sum().reset_index()
    sums["per_100"] = 100 * sums["intruders"] / sums["vectors"]
    return sums.assign(update_frobenius=np.sqrt(sums.pop("squares").astype(float)))


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
        notes = []
        if others:
            notes.append(
                f"{on.label}: {others} of {len(group)} were measured in another way ({', '.join(by)}) and are left out"
            )
        if "base_loss" in by and alike["base_loss"].nunique() > 1:
            apart = alike["base_loss"].max() - alike["base_loss"].min()
            notes.append(
                f"{on.label}: the base's losses on the same documents differ by up to {apart:.1g} nats per token, as "
                "they do between machines"
            )
        yield Stratum(on, alike, tuple(notes))


def largest_alike(group: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the most rows that agree in ``by``, preferring those with all of it known."""
    ways = group[list(by)]
    if "base_loss" in by:
        ways = ways.assign(base_loss=_same_documents(group["base_loss"]))
    of_each_way = [part for _, part in group.groupby([ways[name] for name in by], dropna=False)]
    return max(of_each_way, key=lambda part: (bool(part[list(by)].notna().all(axis=None)), len(part)))


def _same_documents(losses: "pd.Series[float]") -> "pd.Series[float]":
    """Return for every loss of a base the smallest one of those that are of the same documents."""
    known = sorted(losses.dropna().unique())
    smallest: dict[float, float] = {}
    for before, loss in zip([-math.inf, *known], known, strict=False):
        smallest[loss] = smallest[before] if loss - before < SAME_DOCUMENTS else loss
    return losses.map(smallest)
