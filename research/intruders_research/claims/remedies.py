"""What saves forgetting, and what does it cost in task score?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from intruders.charts.chart import Axis, Chart, Rule, Series
from intruders.measures.intervals import LEVEL, Interval, mean_interval
from intruders.mitigation.remedies.remedy_table import INTRUDERS
from intruders.studies.results import Results

from . import remedies_at_equal_task_loss as at_equal_task_loss
from .intervention import OF_TOP
from .remedies_while_training import TABLE as WHILE_TRAINING
from .remedies_while_training import add_training_gains
from .shared.claim import Claim, Finding
from .shared.equal_score import without_missed
from .shared.evidence import Evidence
from .shared.pictures import Palette, Part, parts, series_of, values
from .shared.strata import LOSS_ALIKE, Stratum, finished, strata
from .shared.words import NOT_MEASURED, points_said, said

CLAIM = Claim(
    name="remedies",
    title="Remedies",
    question="How much forgetting does each remedy save per point of task score lost?",
    paper=(
        "Scaling intruders down after training, rank stabilization, a higher rank, training B alone or a "
        "lower learning rate saves forgetting; its cost in task score is listed with it."
    ),
    meaning="some remedy forgets less, at a cost in task score that the page gives",
    needs=(
        "this needs finished runs of plain `lora`, with intruders and a loss on pre-training text, and "
        "beside them a remedy on the same base and task: `measure: intervene`, `measure: remedies`, or "
        "another method, rank or learning rate"
    ),
    limits=(
        (
            "The baseline is the plain LoRA setting with intruders that forgets most, chosen after looking: "
            "this flatters every remedy a little."
        ),
        "Intervals of the forgetting saved apply to all remedies together (Bonferroni), since the best is picked.",
        "Forgetting saved per point is given where the remedy clearly costs task score; elsewhere it has no meaning.",
        "Task score is accuracy on the test split. With a match criterion it is equal by design.",
    ),
)

# Title of a table that others read.
TABLE = "Remedies"

AFTERWARDS = "scaled after training"

CONTROL = "control after training"

REFERENCE = "full fine-tuning"

_KIND_OF_METHOD = {
    "rslora": "rank stabilization",
    "b-only": "B alone trained",
    "lora-fa": "B alone trained",
    "pissa": "initialization",
    "olora": "initialization",
}


@dataclass(frozen=True)
class Candidate:
    """One way of having less forgetting than the baseline, by seed, and what it saves."""

    kind: str
    name: str
    table: pd.DataFrame  # seed: loss_change, accuracy
    control: str = ""  # of a change after training: what was scaled
    scale: float | None = None  # to which
    saved: Interval = NOT_MEASURED  # nats a token less than the baseline, paired by seed
    cost: Interval = NOT_MEASURED  # points of accuracy less than the baseline

    @property
    def ratio(self) -> float:
        """The nats saved per point lost; NaN unless points are clearly lost."""
        return self.saved.estimate / self.cost.estimate if self.cost.is_above_zero else math.nan

    @property
    def is_remedy(self) -> bool:
        return self.kind not in (CONTROL, REFERENCE)


def analyse(results: Results) -> Finding:
    """Compare every remedy with plain LoRA, paired by seed: forgetting saved, task score lost, Pareto frontier."""
    evidence = Evidence(CLAIM, results)
    rows: list[dict[str, object]] = []
    used: set[str] = set()
    for stratum in strata(finished(results.runs), LOSS_ALIKE):
        runs = stratum.runs[stratum.runs["loss_change"].notna()]
        reached = without_missed(stratum.narrowed(runs))
        baseline = _baseline(reached.runs)
        evidence.notes += reached.notes
        if baseline is None:
            continue
        plain = _by_seed(baseline)
        candidates = list(_candidates(reached.runs, baseline, results))
        level = 1 - (1 - LEVEL) / max(1, sum(each.is_remedy for each in candidates))
        compared = [_compared(each, plain, level) for each in candidates]
        known = [each for each in compared if not math.isnan(each.saved.estimate)]
        remedies = [each for each in known if each.is_remedy]
        if not remedies:
            continue
        described = str(baseline["described"].iloc[0])
        used |= set(runs["run_id"])
        start = _compared(Candidate("baseline", described, plain), plain, level)
        rows += _rows(stratum, [start, *known])
        _add(evidence, stratum, remedies, described)
    gains, of_gains = at_equal_task_loss.add_gains(evidence, results)
    while_training = add_training_gains(evidence, results)
    tables = {TABLE: rows, at_equal_task_loss.TABLE: gains, WHILE_TRAINING: while_training}
    made = {title: pd.DataFrame(table) for title, table in tables.items() if table}
    return evidence.finding(used or of_gains, made)


def _add(evidence: Evidence, stratum: Stratum, remedies: Sequence[Candidate], plain: str) -> None:
    """Add every remedy, the one that saves most first; the claim speaks of the best."""
    # Of those that clearly save, where there are such: an estimate of one seed may be larger, and shows nothing.
    best = max(remedies, key=lambda each: (each.saved.is_above_zero, each.saved.estimate))
    clear = sum(each.saved.is_above_zero for each in remedies)
    verdict = (
        f"{clear} of {len(remedies)} remedies clearly save forgetting against {plain}; most saves "
        f"{best.name}, {said(best.saved, 3)} nats, and {points_said(best.cost)}"
    )
    if best.cost.is_above_zero:
        verdict += f", {best.ratio:.3f} nats a point"
    for each in sorted(remedies, key=lambda each: -each.saved.estimate):
        is_best = each is best
        what = f"nats of forgetting saved by {each.name}"
        phrase = verdict if is_best else ""
        evidence.add(stratum.on, what, each.saved, 1 if is_best else None, digits=3, phrase=phrase)


def _baseline(runs: pd.DataFrame) -> pd.DataFrame | None:
    """Pick the plain LoRA setting with intruders that has the most seeds, and of those the most forgetting.

    ``runs`` are those that reached their score: a model that did not learn the task may forget all or nothing.
    """
    settings = [
        (group["seed"].nunique(), float(group["loss_change"].mean()), group)
        for _, group in runs[runs["method"] == "lora"].groupby("setting")
        if group["intruders"].max() > 0
    ]
    return max(settings, key=lambda setting: setting[:2])[2] if settings else None


def _kind(row: "pd.Series[Any]", baseline: "pd.Series[Any]") -> str | None:
    """Return a setting's kind of remedy against the baseline; None for another setting, such as a higher rate."""
    method = str(row["method"])
    if method == "full":
        return REFERENCE
    if method != "lora":
        return _KIND_OF_METHOD.get(method)
    if row["rank"] > baseline["rank"]:
        return "higher rank"
    return "lower learning rate" if row["lr"] < baseline["lr"] and row["rank"] == baseline["rank"] else None


def _by_seed(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean loss change and accuracy of each seed."""
    known = pd.DataFrame({name: runs[name] for name in ("seed", "loss_change", "accuracy")})
    return known.groupby("seed")[["loss_change", "accuracy"]].mean()


def _candidates(runs: pd.DataFrame, baseline: pd.DataFrame, results: Results) -> Iterator[Candidate]:
    start = baseline.iloc[0]
    for _, group in runs.groupby("setting"):
        kind = _kind(group.iloc[0], start)
        if kind is not None:
            yield Candidate(kind, str(group["described"].iloc[0]), _by_seed(group))
    for remedy, table in at_equal_task_loss.candidates(baseline, results):
        name = f"{remedy} after training, its strength chosen for each run"
        yield Candidate(at_equal_task_loss.KIND, name, table)
    points = results.interventions
    if points.empty:
        return
    corpus, task = start["corpus"], start["task"]
    known = points.merge(baseline[["run_id", "seed", "loss_change", "accuracy"]], on="run_id")
    known["which"] = known["which"].fillna("all")
    for (which, control, scale), group in known[known["scale"] < 1].groupby(["which", "control", "scale"]):
        losses = group[(group["measure"] == "loss") & (group["on"] == corpus)].set_index("seed")
        scores = group[(group["measure"] == "accuracy") & (group["on"] == task)].set_index("seed")
        table = pd.DataFrame({"loss_change": losses["loss_change"] + losses["change"]})
        table["accuracy"] = (scores["accuracy"] + scores["change"]).groupby(level=0).mean()
        is_it = control == INTRUDERS
        name = f"{'' if is_it else 'control '}{control} scaled to {scale:g} after training"
        name += OF_TOP if which == "top" else ""
        kind = AFTERWARDS if is_it else CONTROL
        yield Candidate(kind, name, table.groupby(level=0).mean(), str(control), float(str(scale)))


def _compared(candidate: Candidate, baseline: pd.DataFrame, level: float) -> Candidate:
    difference = (baseline - candidate.table).dropna(subset=["loss_change"])
    return replace(
        candidate,
        table=candidate.table.loc[candidate.table.index.isin(difference.index)],
        saved=mean_interval(difference["loss_change"], level=level),
        cost=mean_interval(100 * difference["accuracy"]),
    )


def _rows(stratum: Stratum, remedies: list[Candidate]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for remedy in remedies:
        table = remedy.table
        loss, score = mean_interval(table["loss_change"]), mean_interval(100 * table["accuracy"])
        rows.append(
            stratum.on.columns
            | {
                "kind": remedy.kind,
                "remedy": remedy.name,
                **score.cells("accuracy_points", "accuracy_low", "accuracy_high"),
                **loss.cells("loss_change", "loss_low", "loss_high"),
                **remedy.saved.cells("saved"),
                **remedy.cost.cells("points_lost", "lost_low", "lost_high"),
                "saved_per_point": remedy.ratio,
                "on_frontier": False,
                "control": remedy.control,
                "scale": remedy.scale,
                "seeds": len(table),
            }
        )
    for row in rows:
        row["on_frontier"] = _is_on_frontier(row, rows)
    return rows


def _is_on_frontier(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Return True if no other row is as good in both means and better in one; False without a task score."""
    loss, score = row["loss_change"], row["accuracy_points"]
    return not math.isnan(score) and not any(
        other["loss_change"] <= loss
        and other["accuracy_points"] >= score
        and (other["loss_change"], other["accuracy_points"]) != (loss, score)
        for other in rows
    )


_FRONTIER = "no other is better in both"


def charts(finding: Finding, palette: Palette) -> Iterator[Chart]:
    """Draw forgetting saved over task score lost, with the baseline at zero and zero; then the gains."""
    own = Palette()  # kinds of remedy are no settings
    for part in parts(finding.tables.get(TABLE)):
        # Of a task without accuracy no cost is known, and there is nothing to draw.
        rows = part.rows.dropna(subset=["points_lost", "saved"])
        if len(rows):
            yield _pareto(part, rows, own)
    yield from at_equal_task_loss.charts(finding)


def _pareto(part: Part, rows: pd.DataFrame, palette: Palette) -> Chart:
    columns = {"x": "points_lost", "y": "saved", "low": "saved_low", "high": "saved_high"}
    columns |= {"x_low": "lost_low", "x_high": "lost_high"}
    series = [
        series_of(str(kind), group, palette, columns, notes=list(group["remedy"]))
        for kind, group in rows.groupby("kind", sort=False)
    ]
    return Chart(
        f"remedies-pareto{part.slug}",
        part.titled("Forgetting saved, task score lost"),
        Axis("points_lost", "task score lost against the baseline, points of accuracy"),
        Axis("saved", "forgetting saved, nats/token"),
        [*_frontier(rows), *series],
        [Rule("x", 0.0), Rule("y", 0.0)],
        caption="Up and to the left is better; the baseline, plain LoRA, is where the dashed lines cross. "
        "95 % intervals over seeds, where there are several.",
        wide=True,
    )


def _frontier(rows: pd.DataFrame) -> list[Series]:
    """Draw a faint line through the remedies that no other beats in both, from the cheapest on."""
    best = rows[rows["on_frontier"].astype(bool)].sort_values("points_lost")
    if len(best) < 2:
        return []
    x, y, names = values(best["points_lost"]), values(best["saved"]), list(best["remedy"])
    return [Series(_FRONTIER, x, y, notes=names, look="line", tone=5, faint=True)]
