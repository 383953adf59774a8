"""The runs of a stratum at equal task score."""

import pandas as pd

from .strata import Stratum


def at_equal_score(stratum: Stratum) -> Stratum:
    """Return the runs of a stratum that reached one score, with notes on those that did not.

    These are the runs that stopped at the match criterion that most of them have. Without such runs, they are the runs
    whose accuracy intervals contain one value: the one that most intervals contain.
    """
    runs = stratum.runs
    matched = runs[(runs["stopped_by"] == "match") & runs["match"].notna()]
    if len(matched):
        return _at_target(stratum, matched)
    low, high = runs["accuracy_low"], runs["accuracy_high"]
    holds = [(low <= value) & (value <= high) for value in low[low.notna() & high.notna()]]
    if not holds:
        note = f"{stratum.label}: no run has a task score, so that none are at equal score"
        return stratum.narrowed(runs.iloc[:0], note)
    most = max(holds, key=lambda held: int(held.sum()))
    return stratum.narrowed(
        runs[most],
        f"{stratum.label}: no run was stopped by a match criterion; {int(most.sum())} of {len(runs)} "
        "runs, whose accuracies agree within their intervals, are taken to be at equal score",
    )


def sequences_at_equal_score(stratum: Stratum) -> Stratum:
    """Return the sequences that reached their score at every stage, with notes on the others.

    Sequences without a match criterion are taken as they are where no other has one, and a note says that they are not
    at equal score. Where no sequence reached the score of its criterion, there are none.
    """
    aimed = stratum.runs[stratum.runs["match"].notna()]
    if len(aimed):
        return _at_target(stratum, aimed)
    return stratum.narrowed(
        stratum.runs,
        f"{stratum.label}: no match criterion, so that the stages are not at equal score; a setting "
        "that learned less has less to forget",
    )


def _at_target(stratum: Stratum, aimed: pd.DataFrame) -> Stratum:
    """Return the runs that stopped at the score that most of ``aimed`` have, with notes on all others."""
    target = str(aimed["match"].astype(str).mode().iloc[0])
    runs, notes = stratum.runs, []
    aimed = runs[runs["match"].astype(str) == target]
    missed = aimed[aimed["stopped_by"] != "match"]
    if len(missed):
        notes.append(
            f"{stratum.label}: {len(missed)} of {len(runs)} runs did not reach {target} and are left out: "
            + by_setting(missed)
        )
    others = len(runs) - len(aimed)
    if others:
        notes.append(
            f"{stratum.label}: {others} of {len(runs)} runs had no such aim ({target}) and are left out"
        )
    return stratum.narrowed(aimed.drop(missed.index), *notes)


def below_score(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs that were to stop at a score and ended before they reached it."""
    return runs[runs["match"].notna() & runs["stopped_by"].notna() & runs["stopped_by"].ne("match")]


def without_missed(stratum: Stratum) -> Stratum:
    """Return the runs of a stratum but for those below their score, with a note that names these."""
    missed = below_score(stratum.runs)
    if missed.empty:
        return stratum
    told = f"{stratum.label}: left out, since they did not reach their score: {by_setting(missed)}"
    return stratum.narrowed(stratum.runs.drop(missed.index), told)


def by_setting(runs: pd.DataFrame) -> str:
    """List the runs of ``finished`` in words: every setting with its seeds."""
    return ", ".join(
        f"{described} (seed {', '.join(f'{seed:.0f}' for seed in sorted(group['seed']))})"
        for described, group in runs.groupby("described", sort=False)
    )
