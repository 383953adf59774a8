"""Which settings raise the number of intruders, and which lower it?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from intruders.charts.chart import Axis, Chart, Rule, Series
from intruders.measures.intervals import Interval, mean_interval
from intruders.studies.compare_settings import settings_in
from intruders.studies.results import Results

from .causes_mechanisms import add_at_equal_norm, add_random_terms, paths
from .shared.claim import ALPHA, Claim, Finding
from .shared.evidence import Evidence
from .shared.pictures import Palette, in_order, parts, series_of, values
from .shared.seed_tables import complete, one_in_100
from .shared.statistics import holm
from .shared.strata import MEASURED_ALIKE, Stratum, finished, strata
from .shared.words import said

CLAIM = Claim(
    name="causes",
    title="Causes",
    question=(
        "Which of learning rate, alpha, data size, initialization, a frozen A, the product of two "
        "factors and weight decay raise the number of intruders, and which lower it?"
    ),
    paper=(
        "A higher learning rate and the product of two trained factors raise the number of intruders, "
        "training B alone lowers it, and a random rank-one term added to a pre-trained matrix is enough "
        "to make one."
    ),
    meaning="their number follows from how it is trained, or from the size of the update alone",
    needs=(
        "this needs finished, audited runs that differ in one setting alone (such as `lr: [1e-4, "
        "1e-3]`), traces of `lora` and `full` (`audit_steps`), or `kind: random-rank-one`"
    ),
    limits=(
        "Each setting is compared at its two ends with all others equal, by the values that are in the study.",
        "Runs with a match criterion are compared at equal score, others after equal training.",
    ),
)

# Titles of tables, of which others read the first.
TABLE, BY_NORM, RANDOM_TERM = (
    "One setting at a time", "LoRA and full by update norm", "Random rank-one term"
)  # fmt: skip
NUMBERS = {
    "lr": "learning rate",
    "alpha_value": "alpha",
    "max_train_samples": "training examples",
    "weight_decay": "weight decay",
}
# Method against plain LoRA: what it changes.
_CAUSE_OF_METHOD = {
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
    p_among_all: float = 1.0  # of all comparisons of a base and task (Holm)

    @property
    def is_clear(self) -> bool:
        return self.difference.is_clear and self.p_among_all < ALPHA

    def row(self, stratum: Stratum) -> dict[str, object]:
        """Return the row of :data:`TABLE`."""
        return stratum.on.columns | {
            "cause": self.name,
            "varied": self.cause,
            "from": self.start,
            "to": self.end,
            **self.difference.cells("change_per_100_vectors", "low", "high"),
            "p_among_all": self.p_among_all,
            "contexts": self.contexts,
            "runs": self.runs,
            "seeds": self.difference.n,
        }


def analyse(results: Results) -> Finding:
    """Compare every setting that differs alone, LoRA with full at equal norm, and the random rank-one term."""
    runs = finished(results.runs)
    evidence = Evidence(CLAIM, results)
    rows: list[dict[str, object]] = []
    used: list[str] = []
    for stratum in strata(runs, MEASURED_ALIKE):
        reached = stratum.runs[stratum.runs["match"].isna() | (stratum.runs["stopped_by"] == "match")]
        missed = len(stratum.runs) - len(reached)
        evidence.notes += stratum.notes
        if missed:
            evidence.notes.append(
                f"{stratum.label}: {missed} of {len(stratum.runs)} runs did not reach their match "
                "criterion and are left out"
            )
        comparisons = _among_all(list(_comparisons(reached)))
        rows += [each.row(stratum) for each in comparisons]
        _add_comparisons(evidence, stratum, comparisons)
        is_at_equal_norm = add_at_equal_norm(evidence, stratum.narrowed(reached), results.traces)
        if comparisons or is_at_equal_norm:
            used += list(reached["run_id"])
    by_multiple = add_random_terms(evidence, results)
    if rows:
        chance = f"{0.05 * len(rows):.1g} of them would look clear by chance alone"
        evidence.notes.append(f"{len(rows)} comparisons at 95 % each: {chance}")
    tables = {TABLE: pd.DataFrame(rows), BY_NORM: paths(runs, results.traces), RANDOM_TERM: by_multiple}
    return evidence.finding(used, tables)


def _add_comparisons(evidence: Evidence, stratum: Stratum, comparisons: Sequence[Comparison]) -> None:
    for each in comparisons:
        what = f"{each.name}, {each.start} to {each.end}: intruders per 100 vectors"
        evidence.add(stratum.on, what, each.difference, EXPECTED.get(each.cause), phrase="")
    if comparisons:
        evidence.say(stratum.on, _in_words(comparisons), *(each.difference.n or 0 for each in comparisons))


def _comparisons(runs: pd.DataFrame) -> Iterator[Comparison]:
    for column, name in NUMBERS.items():
        # A row of data that is missing means all of it.
        level = runs[column].fillna(math.inf if column == "max_train_samples" else math.nan)
        if column == "alpha_value":
            level = level.where(runs["method"] != "full")
        without = ["alpha" if column == "alpha_value" else column]
        yield from _between_ends(runs.assign(level=level).dropna(subset=["level"]), column, name, without)
    adapters = runs[runs["method"] != "full"]
    for method, name in _CAUSE_OF_METHOD.items():
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
    """Yield the differences between the ends of ``level`` among runs with all other settings equal."""
    if runs["level"].nunique() < 2:
        return
    by = ["context", "seed"]
    alike = runs.assign(context=settings_in(runs, without))
    alike["runs"] = alike.groupby(by)["per_100"].transform("size")
    means = alike.groupby([*by, "level"])[["per_100", "runs"]].mean().dropna().reset_index()
    rows = []
    for context, of_context in means.groupby("context"):
        levels = of_context.pivot(index="seed", columns="level", values="per_100")
        counted = of_context.groupby("seed")["runs"].first().to_dict()
        pair = _ends(levels)
        if pair is not None:
            differences = (levels[pair[1]] - levels[pair[0]]).dropna()
            rows += [(*pair, context, seed, value, counted[seed]) for seed, value in differences.items()]
    frame = pd.DataFrame(rows, columns=["start", "end", "context", "seed", "value", "runs"])
    for (start, end), group in frame.groupby(["start", "end"]):
        table = complete(group.pivot_table(index="seed", columns="context", values="value", aggfunc="mean"))
        first, last = ends or (_level(start), _level(end))
        yield Comparison(
            cause=cause,
            name=name,
            start=first,
            end=last,
            difference=mean_interval(table.mean(axis=1), grain=one_in_100(runs, table.shape[1])),
            contexts=table.shape[1],
            runs=int(group["runs"].sum()),
        )


def _ends(levels: pd.DataFrame) -> tuple[float, float] | None:
    """Return the lowest and highest level of most seeds; of equally many, those farthest apart. None without two.

    A seed of which a run is missing so far has other ends, and must not make a comparison of its own.
    """
    known = [row.dropna().index for _, row in levels.iterrows()]
    ends = [(float(each.min()), float(each.max())) for each in known if len(each) > 1]
    return max(set(ends), key=lambda pair: (ends.count(pair), pair[1] - pair[0]), default=None)


def _level(value: object) -> str:
    number = float(str(value))
    return "all" if math.isinf(number) else f"{number:g}"


def _among_all(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons, each with its p value among all of them (Holm)."""
    adjusted = holm([1.0 if each.difference.p is None else each.difference.p for each in comparisons])
    return [replace(each, p_among_all=p) for each, p in zip(comparisons, adjusted, strict=True)]


def _in_words(comparisons: Sequence[Comparison]) -> str:
    """Say what raises and what lowers the count among all comparisons (Holm), and what is undecided."""
    parts, unclear = [], []
    for each in comparisons:
        ends = f"{each.name} ({each.start} to {each.end}"
        if each.is_clear:
            change = each.difference
            # What is lowered by a negative number is raised.
            verb, size = ("raises", change) if change.estimate > 0 else ("lowers", change.turned())
            parts.append(f"{ends}) {verb} intruders per 100 vectors by {said(size)}")
        else:
            unclear.append(f"{ends}, {said(each.difference)})")
    return "; ".join([*parts, f"undecided for {', '.join(unclear)}"] if unclear else parts)


def charts(finding: Finding, palette: Palette) -> Iterator[Chart]:
    """Draw a row for each setting that differs alone, LoRA and full at equal norm, and the random rank-one term."""
    for part in parts(finding.tables.get(TABLE)):
        rows = part.rows
        names = [
            f"{cause}: {start} to {end}" if start not in ("lora", "random") else str(cause)
            for cause, start, end in zip(rows["cause"], rows["from"], rows["to"], strict=True)
        ]
        yield Chart(
            f"causes-settings{part.slug}",
            part.titled("One setting at a time"),
            Axis("change_per_100_vectors", "change of intruders per 100 vectors"),
            Axis("cause", "", ticks=names),
            [
                Series(
                    "change",
                    values(rows["change_per_100_vectors"]),
                    [float(at) for at in range(len(rows))],
                    x_low=values(rows["low"]),
                    x_high=values(rows["high"]),
                    in_legend=False,
                )
            ],
            [Rule("x", 0.0)],
            caption="All else equal; to the right of the line the setting raises the count. "
            "95 % intervals over seeds, where there are several.",
        )
    for part in parts(finding.tables.get(BY_NORM)):
        columns = {"x": "update_frobenius", "y": "intruders_per_100_vectors"}
        series = []
        for setting, of_setting in part.rows.groupby("setting", sort=False):
            for at, (_, run) in enumerate(of_setting.groupby("run_id", sort=False)):
                look = {"look": "both", "notes": list(run["run_id"]), "in_legend": at == 0}
                series.append(series_of(str(setting), run, palette, columns, **look))
        yield Chart(
            f"causes-norm{part.slug}",
            part.titled("Low-rank and dense updates of one size"),
            Axis("update_frobenius", "Frobenius norm of all updates, in the course of training"),
            Axis("intruders_per_100_vectors", "intruders per 100 vectors", from_zero=True),
            in_order(series),
            caption="A line a run, a point an audit during training. At one norm, what differs is how the update was "
            "trained.",
        )
    for part in parts(finding.tables.get(RANDOM_TERM), "base"):
        rows = part.rows.sort_values("multiple")
        multiples = values(rows["multiple"])
        observed, predicted = values(rows["share_with_intruders"]), values(rows["predicted_share"])
        yield Chart(
            f"causes-random{part.slug}",
            part.titled("A random rank-one term, without training"),
            Axis("multiple", "its size, as a multiple of the matrix's largest singular value", log=min(multiples) > 0,
                 marks=multiples),
            Axis("share_with_intruders", "part of the matrices with an intruder", limits=(0, 1.05)),
            [
                Series("found", multiples, observed, values(rows["low"]), values(rows["high"]), look="both", tone=1),
                Series("predicted from both spectra", multiples, predicted, look="both"),
            ],
            caption="Added to real matrices of the base; 95 % intervals over seeds, where there are several.",
        )  # fmt: skip
