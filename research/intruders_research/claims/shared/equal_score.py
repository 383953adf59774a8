"""The runs of a stratum at equal task score."""

from __future__ import annotations

import pandas as pd

from .strata import Stratum


def at_equal_score(stratum: Stratum) -> tuple[pd.DataFrame, list[str]]:
    """Return the runs of a stratum that reached one score, and notes on those that did not.

    These are the runs that stopped at the match criterion that most of them have. Without such runs, they are the runs
    whose accuracy intervals contain one value: the one that most intervals contain.
    """
    runs = stratum.runs
    matched = runs[(runs["stopped_by"] == "match") & runs["match"].notna()]
    if len(matched):
        target = str(matched["match"].astype(str).mode().iloc[0])
        return _at_target(stratum, target)
    low, high = runs["accuracy_low"], runs["accuracy_high"]
    holds = [(low <= value) & (value <= high) for value in low[low.notna() & high.notna()]]
    if not holds:
        note = f"{stratum.label}: no run has a task score, so that none are at equal score"
        return runs.iloc[:0], [note] if len(runs) else []
    most = max(holds, key=lambda held: int(held.sum()))
    note = (
        f"{stratum.label}: no run was stopped by a match criterion; {int(most.sum())} of {len(runs)} "
        "runs, whose accuracies agree within their intervals, are taken to be at equal score"
    )
    return runs[most], [note]


def sequences_at_equal_score(stratum: Stratum) -> tuple[pd.DataFrame, list[str]]:
    """Return the sequences that reached their score at every stage, and notes on the others.

    Sequences without a match criterion are taken as they are where no other has one, and a note says that they are not
    at equal score. Where no sequence reached the score of its criterion, there are none.
    """
    aimed = stratum.runs[stratum.runs["match"].notna()]
    if aimed.empty:
        note = (
            f"{stratum.label}: no match criterion, so that the stages are not at equal score; a setting "
            "that learned less has less to forget"
        )
        return stratum.runs, [note]
    return _at_target(stratum, str(aimed["match"].astype(str).mode().iloc[0]))


def _at_target(stratum: Stratum, target: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the runs that stopped at ``target``, and notes on those that missed it or had another aim."""
    runs, notes = stratum.runs, []
    aimed = runs[runs["match"].astype(str) == target]
    if bool((aimed["stopped_by"] != "match").any()):
        notes.append(_not_reached(stratum, aimed, target, len(runs)))
    others = len(runs) - len(aimed)
    if others:
        notes.append(
            f"{stratum.label}: {others} of {len(runs)} runs had no such aim ({target}) and are left out"
        )
    return aimed[aimed["stopped_by"] == "match"], notes


def _not_reached(stratum: Stratum, aimed: pd.DataFrame, target: str, total: int) -> str:
    """Report how many runs did not reach their score, and which."""
    missed = aimed[aimed["stopped_by"] != "match"]
    counted = f"{len(missed)} of {total} runs did not reach {target} and are left out"
    return f"{stratum.label}: {counted}: {by_setting(missed)}"


def below_score(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that were to stop at a score and ended before they reached it."""
    return runs[runs["match"].notna() & runs["stopped_by"].notna() & runs["stopped_by"].ne("match")]


def without_missed(stratum: Stratum) -> tuple[pd.DataFrame, list[str]]:
    """Return the runs of a stratum but for those below their score, and a note that names these, if there are any."""
    missed = below_score(stratum.runs)
    told = f"{stratum.label}: left out, since they did not reach their score: {by_setting(missed)}"
    return stratum.runs.drop(missed.index), [told] if len(missed) else []


def by_setting(runs: pd.DataFrame) -> str:
    """List the runs of ``finished`` in words: every setting with its seeds."""
    return ", ".join(
        f"{described} (seed {', '.join(f'{seed:.0f}' for seed in sorted(group['seed']))})"
        for described, group in runs.groupby("described", sort=False)
    )
