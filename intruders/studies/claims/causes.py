"""Which settings raise the number of intruders, and which lower it?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd

from ...evaluation.intervals import Interval
from ..tables.results import Results
from .causes_at_equal_norm import compare_at_equal_norm, paths
from .causes_charts import charts
from .causes_random_term import mechanisms
from .claim import Answer, Claim, Effect, Finding
from .shared.comparable_runs import (
    MEASURED_ALIKE,
    Stratum,
    complete,
    finished,
    one_in_100,
    setting_of,
    strata,
)
from .shared.statistics import mean_interval
from .shared.words import answer, effect, said, seeds_said

__all__ = ["CLAIM", "analyse", "charts"]

CLAIM = Claim(
    name="causes",
    title="Causes",
    question=(
        "Which of learning rate, alpha, data size, initialization, a frozen A, the product of two "
        "factors and weight decay raise the number of intruders, and which lower it?"
    ),
    paper=(
        "A higher learning rate and the product of two trained factors raise the number of "
        "intruders, training B alone lowers it, and a random rank-one term added to a pre-trained "
        "matrix is enough to make one."
    ),
    meaning="their number follows from how it is trained, or from the size of the update alone",
    needs=(
        "this needs finished, audited runs that differ in one setting alone (such as `lr: [1e-4, "
        "1e-3]`), traces of `lora` and `full` (`audit_steps`), or `kind: random-rank-one`"
    ),
    limits=(
        (
            "Each setting is compared at its two ends with all others equal, by the values that are "
            "in the study."
        ),
        "Runs with a match criterion are compared at equal score, others after equal training.",
    ),
)

NUMBERS = {
    "lr": "learning rate",
    "alpha_value": "alpha",
    "max_train_samples": "training examples",
    "weight_decay": "weight decay",
}
# Method against plain LoRA: what it changes.
METHODS = {
    "pissa": "PiSSA initialization",
    "olora": "OLoRA initialization",
    "b-only": "A frozen, B trained",
    "lora-fa": "A frozen, B trained with LoRA-FA's correction",
    "lora+": "a higher rate for B (LoRA+)",
    "rslora": "rank-stabilized scale",
    "dora": "magnitude apart from direction (DoRA)",
}
# The sign that the paper's claim expects; other settings have none.
EXPECTED = {"lr": +1, "b-only": -1}


@dataclass(frozen=True)
class Comparison:
    """Intruders per 100 vectors at one value of a setting minus those at another, all else equal."""

    cause: str  # column or method
    name: str
    start: str
    end: str
    difference: Interval
    contexts: int
    runs: int
    seeds: int


def analyse(results: Results) -> Finding:
    """Every setting that differs alone; LoRA against full at equal norm; the random rank-one term."""
    runs = finished(results.runs)
    found = _Found()
    for stratum in strata(runs, MEASURED_ALIKE, found.notes):
        reached = stratum.runs[stratum.runs["match"].isna() | (stratum.runs["stopped_by"] == "match")]
        if len(reached) < len(stratum.runs):
            found.notes.append(
                f"{stratum.label}: {len(stratum.runs) - len(reached)} of {len(stratum.runs)} runs did not "
                "reach their "
                "match criterion and are left out"
            )
        parts = [*_one_at_a_time(stratum, reached, found), *_at_equal_norm(stratum, reached, results, found)]
        if parts:
            found.verdicts.append(f"{stratum.label}: {'; '.join(parts)}")
            found.runs |= set(reached["run_id"])
    drawn, by_multiple = mechanisms(results.runs, results.mechanism)
    for one in drawn:
        sizes = f"from {one.from_multiple:g} to {one.to_multiple:g} times ||W0||"
        found.expect(
            one.base,
            f"share of matrices with an intruder, random rank-one term {sizes}",
            one.rise,
            +1,
            one.seeds,
        )
        found.verdicts.append(
            f"{one.base}: a random rank-one term alone, {sizes}, changes the share of matrices with "
            "intruders by "
            f"{said(one.rise)}"
        )
    if not found.verdicts:
        return CLAIM.missing(found.notes)
    if found.rows:
        chance = 0.05 * len(found.rows)
        found.notes.append(
            f"{len(found.rows)} comparisons at 95 % each: {chance:.1g} of them would look clear by chance alone"
        )
    return CLAIM.finding(
        verdict=f"{'; '.join(found.verdicts)} ({seeds_said(found.seeds)})",
        answers=found.answers,
        effects=found.expected + found.others,
        seeds=found.seeds,
        runs=len(found.runs),
        tables={
            "One setting at a time": pd.DataFrame(found.rows),
            "LoRA and full by update norm": paths(runs, results.traces),
            "Random rank-one term": by_multiple,
        },
        notes=found.notes,
    )


@dataclass
class _Found:
    """What comes together over the strata."""

    expected: list[Effect] = field(default_factory=list)  # that the paper's claim says something of
    answers: list[Answer] = field(default_factory=list)  # the same, with the sign that is claimed
    others: list[Effect] = field(default_factory=list)
    rows: list[dict[str, object]] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    runs: set[str] = field(default_factory=set)
    seeds: int = 0

    def expect(self, where: str, what: str, one: Interval, sign: int, seeds: int) -> None:
        self.expected.append(effect(f"{where}: {what}", one))
        self.answers.append(answer(where, what, one, expected=sign, seeds=seeds))
        self.seeds = max(self.seeds, seeds)


def _one_at_a_time(stratum: Stratum, runs: pd.DataFrame, found: _Found) -> list[str]:
    comparisons = list(_comparisons(runs))
    for one in comparisons:
        found.rows.append(_row(stratum, one))
        what = f"{one.name}, {one.start} to {one.end}: intruders per 100 vectors"
        if one.cause in EXPECTED:
            found.expect(stratum.label, what, one.difference, EXPECTED[one.cause], one.seeds)
        else:
            found.others.append(effect(f"{stratum.label}: {what}", one.difference))
            found.seeds = max(found.seeds, one.seeds)
    return _in_words(comparisons)


def _at_equal_norm(stratum: Stratum, runs: pd.DataFrame, results: Results, found: _Found) -> list[str]:
    dense = compare_at_equal_norm(runs, results.traces)
    if dense is None:
        return []
    if not dense.overlap:
        found.notes.append(
            f"{stratum.label}: LoRA and full cannot be compared at equal norm of the update: seed by seed, "
            "LoRA's "
            f"({dense.lora_norms[0]:.3g} to {dense.lora_norms[1]:.3g}) and full's "
            f"({dense.full_norms[0]:.3g} to "
            f"{dense.full_norms[1]:.3g}) do not overlap"
        )
        return []
    what = "LoRA minus full at equal norm of the update, intruders per 100 vectors"
    found.expect(stratum.label, what, dense.difference, +1, dense.seeds)
    return [
        (
            "intruders per 100 vectors at equal norm of the update, LoRA minus full fine-tuning, "
            f"{said(dense.difference)}"
        )
    ]


def _comparisons(runs: pd.DataFrame) -> Iterator[Comparison]:
    for column, name in NUMBERS.items():
        # A row of data that is missing means all of it.
        level = runs[column].fillna(math.inf if column == "max_train_samples" else math.nan)
        if column == "alpha_value":
            level = level.where(runs["method"] != "full")
        without = ["alpha" if column == "alpha_value" else column]
        yield from _between_ends(runs.assign(level=level).dropna(subset=["level"]), column, name, without)
    adapters = runs[runs["method"] != "full"]
    for method, name in METHODS.items():
        pair = adapters[adapters["method"].isin(["lora", method])]
        level = (pair["method"] == method).astype(float)
        yield from _between_ends(
            pair.assign(level=level), method, name, ["method", "loraplus_lr_ratio"], ("lora", method)
        )
    frozen = adapters[adapters["method"].isin(["b-only", "lora-fa"])]
    level = (frozen["init_a"] == "orthonormal").astype(float)
    yield from _between_ends(
        frozen.assign(level=level), "init_a", "frozen A orthonormal", ["init_a"], ("random", "orthonormal")
    )


def _between_ends(
    runs: pd.DataFrame, cause: str, name: str, without: list[str], ends: tuple[str, str] | None = None
) -> Iterator[Comparison]:
    """Differences between the ends of ``level`` among runs that are alike in all else, by what the ends are."""
    if runs.empty:
        return
    keys = [setting_of({str(k): v for k, v in row.items()}, without) for row in runs.to_dict("records")]
    rows = []
    for (context, seed), group in runs.assign(context=keys).groupby(["context", "seed"]):
        values = group.groupby("level")["per_100"].mean().dropna()
        if len(values) > 1:
            rows.append(
                (
                    values.index[0],
                    values.index[-1],
                    context,
                    seed,
                    values.iloc[-1] - values.iloc[0],
                    len(group),
                )
            )
    frame = pd.DataFrame(rows, columns=["start", "end", "context", "seed", "value", "runs"])
    for (start, end), group in frame.groupby(["start", "end"]):
        table = complete(group.pivot_table(index="seed", columns="context", values="value", aggfunc="mean"))
        first, last = ends or (_level(start), _level(end))
        yield Comparison(
            cause,
            name,
            first,
            last,
            mean_interval(table.mean(axis=1), grain=one_in_100(runs, table.shape[1])),
            table.shape[1],
            int(group["runs"].sum()),
            len(table),
        )


def _level(value: object) -> str:
    number = float(str(value))
    return "all" if math.isinf(number) else f"{number:g}"


def _in_words(found: list[Comparison]) -> list[str]:
    """What raises and what lowers the count, and what does not show."""
    clear = [one for one in found if one.difference.low > 0 or one.difference.high < 0]
    parts = [
        f"{one.name} ({one.start} to {one.end}) {'raises' if one.difference.estimate > 0 else 'lowers'} "
        "intruders per "
        f"100 vectors by {said(one.difference)}"
        for one in clear
    ]
    unclear = [
        f"{one.name} ({one.start} to {one.end}, {said(one.difference)})" for one in found if one not in clear
    ]
    return parts + ([f"undecided for {', '.join(unclear)}"] if unclear else [])


def _row(stratum: Stratum, one: Comparison) -> dict[str, object]:
    return {
        "base": stratum.base,
        "task": stratum.task,
        "cause": one.name,
        "from": one.start,
        "to": one.end,
        "change_per_100_vectors": one.difference.estimate,
        "low": one.difference.low,
        "high": one.difference.high,
        "contexts": one.contexts,
        "runs": one.runs,
        "seeds": one.seeds,
    }
