"""Which runs can be compared: of one base, one task and one way of measuring, at one score, seed by seed."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ....settings import settings_of
from ....training.finetune_config import FinetuneConfig
from ...tables.results import Results

_SETTINGS = settings_of(FinetuneConfig)
# Runs of another base or task are not compared, and another seed repeats a run rather than changing it.
_NEVER_COMPARED = ("base", "task", "seed", "data_seed")
COMPARED = [
    *(name for name, one in _SETTINGS.items() if one.changes_weights and name not in _NEVER_COMPARED),
    "adapters",
]
Mask = npt.NDArray[np.bool_]
# Seeds of which every choice is looked at for the part of a table without gaps.
_MOST_SEEDS = 12
# Settings that a full fine-tuning carries along without using them.
_ADAPTER_ONLY = {name for name, one in _SETTINGS.items() if one.adapter_only}


@dataclass(frozen=True)
class Stratum:
    """Runs of one base on one task."""

    base: str
    task: str
    runs: pd.DataFrame

    @property
    def label(self) -> str:
        return f"{self.base} on {self.task}" if self.task else self.base


def finished(runs: pd.DataFrame, kind: str = "finetune") -> pd.DataFrame:
    """The finished runs of a kind, with what they are known by: ``setting`` (all that was chosen but the seed),
    ``described`` (the same in words), ``alpha_value``, and ``per_100`` intruders per 100 vectors."""
    kept = runs[(runs["status"] == "finished") & (runs["kind"] == kind)].copy()
    kept["data_source"] = kept["data_source"].astype(object).fillna("")  # of a generated task
    kept["setting"] = [setting_of(row) for row in _rows(kept)]
    kept["described"] = _labels(_rows(kept))
    kept["alpha_value"] = [alpha_value(row.get("alpha"), row.get("rank")) for row in _rows(kept)]
    kept["per_100"] = 100 * kept["intruders"] / kept["vectors"].where(lambda count: count > 0)
    return kept


def by_corpus(results: Results) -> Iterator[tuple[str, pd.DataFrame]]:
    """The runs with the losses on each corpus, and how a label names it: not at all where there is one."""
    corpora = list(dict.fromkeys(results.losses["corpus"].dropna()))
    if len(corpora) < 2:
        yield "", results.runs
        return
    columns = [name for name in results.losses.columns if name != "run_id"]
    for corpus in corpora:
        of_corpus = results.losses[results.losses["corpus"] == corpus]
        yield f", {corpus}", results.runs.drop(columns=columns).merge(of_corpus, on="run_id", how="left")


def strata(runs: pd.DataFrame, by: Sequence[str] = (), notes: list[str] | None = None) -> Iterator[Stratum]:
    """Runs by base and task, and within them by how they were measured (``by``): never mixed in a comparison.

    Of several ways of measuring in a stratum the one with the most runs is taken, after those with all in ``by`` known;
    ``notes`` is told of the others.
    """
    for (base, task), group in runs.groupby(["base", "task"], dropna=False, sort=True):
        alike = largest_alike(group, by) if by else group
        found = Stratum(_text(base), _text(task), alike)
        if notes is not None and len(alike) < len(group):
            notes.append(
                f"{found.label}: {len(group) - len(alike)} of {len(group)} were measured in another way "
                f"({', '.join(by)}) and are left out"
            )
        yield found


def largest_alike(group: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The most rows that agree in ``by``, after those with all of it known."""
    of_each_way = [part for _, part in group.groupby(list(by), dropna=False)]
    return max(of_each_way, key=lambda part: (bool(part[list(by)].notna().all(axis=None)), len(part)))


MEASURED_ALIKE = ("k", "epsilon", "data_source")  # another source: a copy with other rows of the same set
LOSS_ALIKE = (*MEASURED_ALIKE, "corpus", "loss_measure", "base_loss")  # another base loss: other documents


def at_equal_score(stratum: Stratum, notes: list[str]) -> pd.DataFrame:
    """The runs of a stratum that reached one score; ``notes`` is told of those that did not.

    Runs that were stopped by the match criterion that most of them have. Without such runs: those whose accuracy
    intervals hold a common value, namely the one that most intervals hold.
    """
    runs = stratum.runs
    matched = runs[runs["stopped_by"] == "match"]
    if len(matched):
        target = str(matched["match"].astype(str).mode().iloc[0])
        equal = matched[matched["match"].astype(str) == target]
        missed = int(((runs["match"].astype(str) == target) & (runs["stopped_by"] != "match")).sum())
        rest = len(runs) - len(equal) - missed
        if missed:
            notes.append(_not_reached(stratum, runs[runs["match"].astype(str) == target], target, len(runs)))
        if rest:
            notes.append(
                f"{stratum.label}: {rest} of {len(runs)} runs had no such aim ({target}) and are left out"
            )
        return equal
    low, high = runs["accuracy_low"], runs["accuracy_high"]
    holds = [(low <= value) & (value <= high) for value in low[low.notna() & high.notna()]]
    if not holds:
        if len(runs):
            notes.append(f"{stratum.label}: no run has a task score, so that none are at equal score")
        return runs.iloc[:0]
    most = max(holds, key=lambda held: int(held.sum()))
    notes.append(
        f"{stratum.label}: no run was stopped by a match criterion; {int(most.sum())} of {len(runs)} runs, "
        "whose "
        "accuracies agree within their intervals, are taken to be at equal score"
    )
    return runs[most]


def sequences_at_equal_score(stratum: Stratum, notes: list[str]) -> pd.DataFrame:
    """The sequences of which every stage reached its score; ``notes`` lists the others.

    Sequences without a match criterion are taken as they are where no other has one, and a note says that they are not
    at equal score. Where no sequence reached the score of its criterion, there are none.
    """
    runs = stratum.runs
    aimed = runs[runs["match"].notna()]
    if aimed.empty:
        notes.append(
            f"{stratum.label}: no match criterion, so that the stages are not at equal score; a setting that "
            "learned less has less to forget"
        )
        return runs
    target = str(aimed["match"].astype(str).mode().iloc[0])
    aimed = aimed[aimed["match"].astype(str) == target]
    if bool((aimed["stopped_by"] != "match").any()):
        notes.append(_not_reached(stratum, aimed, target, len(runs)))
    if len(aimed) < len(runs):
        notes.append(
            f"{stratum.label}: {len(runs) - len(aimed)} of {len(runs)} runs had no such aim ({target}) and are left out"
        )
    return aimed[aimed["stopped_by"] == "match"]


def _not_reached(stratum: Stratum, aimed: pd.DataFrame, target: str, total: int) -> str:
    """How many runs did not reach their score, and which."""
    missed = aimed[aimed["stopped_by"] != "match"]
    counted = f"{len(missed)} of {total} runs did not reach {target} and are left out"
    return f"{stratum.label}: {counted}: {by_setting(missed)}"


def below_score(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that were to stop at a score, and ended before they reached it."""
    return runs[runs["match"].notna() & runs["stopped_by"].eq("steps")]


def by_setting(runs: pd.DataFrame) -> str:
    """Which runs these are, as ``finished`` gives them: every setting with its seeds."""
    return ", ".join(
        f"{described} (seed {', '.join(f'{seed:g}' for seed in sorted(group['seed']))})"
        for described, group in runs.groupby("described", sort=False)
    )


def on_shared_matrices(
    runs: pd.DataFrame, matrices: pd.DataFrame, label: str, notes: list[str]
) -> pd.DataFrame:
    """The runs with ``per_100`` counted on the matrices that all of them have; ``notes`` is told where that is fewer.

    An adapter of some modules leaves the others unchanged, and a full fine-tuning changes all: their shares are of
    different matrices.
    """
    known = matrices[matrices["run_id"].isin(runs["run_id"])]
    of_each = known.groupby("run_id")["name"].agg(set)
    if len(of_each) < 2 or len(set(map(frozenset, of_each))) == 1:
        return runs
    shared = set.intersection(*of_each)
    kept = known[known["name"].isin(shared)]
    sums = pd.DataFrame({name: kept[name] for name in ("intruders", "vectors")})
    sums = sums.groupby(kept["run_id"]).sum()
    notes.append(
        f"{label}: intruders are counted on the {len(shared)} matrices that all of these runs changed, "
        f"of {len(set.union(*of_each))}"
    )
    per_100 = 100 * sums["intruders"] / sums["vectors"]
    return runs.assign(per_100=runs["run_id"].map(per_100), vectors=runs["run_id"].map(sums["vectors"]))


def setting_of(row: dict[str, object], without: Sequence[str] = ()) -> str:
    """All chosen settings of a run but seed, base and task, as one text that is equal for equal settings."""
    left_out = set(without) | (_ADAPTER_ONLY if row.get("method") == "full" else set())
    chosen = {name: _plain(row.get(name)) for name in COMPARED if name not in left_out}
    return json.dumps(chosen, sort_keys=True, default=str)


def label_of(row: dict[str, object]) -> str:
    """A run's method, rank, alpha and learning rate in words."""
    method, rank = _text(row.get("method")), row.get("rank")
    parts = [method or "?"]
    if method != "full" and not _is_missing(rank):
        parts += [f"r={float(str(rank)):g}", f"alpha={_short(row.get('alpha'))}"]
    if not _is_missing(row.get("lr")):
        parts.append(f"lr={float(str(row['lr'])):g}")
    return " ".join(parts)


def _labels(rows: Sequence[dict[str, object]]) -> list[str]:
    """A label for each run, with what else tells two settings of one label apart on the same base and task.

    Values that are the defaults of fine-tuning are not said.
    """
    alike: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for row in rows:
        alike.setdefault(_known_by(row), []).append(row)
    labels = []
    for row in rows:
        others = alike[_known_by(row)]
        unused = _ADAPTER_ONLY if row.get("method") == "full" else set()
        telling = [
            f"{name}={_short(row.get(name))}"
            for name in COMPARED
            if name not in unused
            and len({str(_plain(other.get(name))) for other in others}) > 1
            and _plain(row.get(name)) != _plain(_default(name))
        ]
        labels.append(" ".join([label_of(row), *telling]))
    return labels


def _default(name: str) -> object:
    return _SETTINGS[name].default if name in _SETTINGS else None


def _known_by(row: dict[str, object]) -> tuple[str, ...]:
    return _text(row.get("base")), _text(row.get("task")), label_of(row)


def alpha_value(alpha: object, rank: object) -> float:
    """Alpha as a number; "2r" is twice the rank. NaN where there is none."""
    text = "" if _is_missing(alpha) else str(alpha).strip()
    try:
        return float(text[:-1] or 1) * float(str(rank)) if text.endswith("r") else float(text)
    except ValueError:
        return math.nan


def seed_table(runs: pd.DataFrame, column: str, by: str = "setting") -> pd.DataFrame:
    """A column's mean by seed (rows) and setting (columns)."""
    values = pd.DataFrame({"seed": runs["seed"], "by": runs[by].astype(str), "value": runs[column]})
    return values.dropna().pivot_table(index="seed", columns="by", values="value", aggfunc="mean")


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The largest part of a table without gaps, so that no seed is compared by other settings than the next.

    Two seeds or more go before one with more settings, since one has no interval. Of up to a dozen seeds every choice
    is looked at; of more, those that leave the settings with the most seeds.
    """
    known = table.notna().to_numpy()
    if known.all():
        return table
    parts = [(rows, columns) for rows, columns in _parts_without_gaps(known) if len(rows) and columns.any()]
    if not parts:
        return table.dropna()
    rows, columns = max(
        parts, key=lambda part: (min(len(part[0]), 2), len(part[0]) * part[1].sum(), len(part[0]))
    )
    return table.iloc[rows, np.flatnonzero(columns)]


def _parts_without_gaps(known: Mask) -> Iterator[tuple[npt.NDArray[np.intp], Mask]]:
    """The places of rows, and of each column whether the part has it. ``known``: (seeds, settings)."""
    seeds = len(known)
    if seeds <= _MOST_SEEDS:
        for size in range(1, seeds + 1):
            for chosen in itertools.combinations(range(seeds), size):
                rows = np.array(chosen)
                yield rows, np.all(known[rows], axis=0)
    else:
        counts = known.sum(axis=0)
        for least in sorted(set(counts)):
            columns = counts >= least
            yield np.flatnonzero(known[:, columns].all(axis=1)), columns


def noted_complete(table: pd.DataFrame, what: str, notes: list[str]) -> pd.DataFrame:
    """:func:`complete`; ``notes`` is told what was left out."""
    part = complete(table)
    left_out = int(table.notna().to_numpy().sum()) - part.size
    if left_out:
        notes.append(
            f"{what}: {left_out} of {part.size + left_out} runs are left out, since not every seed has their setting"
        )
    return part


def one_in_100(runs: pd.DataFrame, settings: int = 1) -> float:
    """One intruder in one of several settings, as a mean over them of intruders per 100 vectors: the grain of it."""
    vectors = runs["vectors"].median()
    return 100 / float(vectors) / max(1, settings) if vectors > 0 else 0.0


def seeds_in(runs: pd.DataFrame) -> int:
    """How many different seeds the runs have."""
    return int(runs["seed"].nunique())


def _rows(frame: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _plain(value: object) -> object:
    if _is_missing(value):
        return None
    try:
        return float(str(value))
    except ValueError:
        return str(value)


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _text(value: object) -> str:
    return "" if _is_missing(value) else str(value)


def _short(value: object) -> str:
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return _text(value)
