"""Do low ranks forget earlier tasks more, and do intruders accumulate over a sequence of tasks?"""

import math
from collections.abc import Iterator

import pandas as pd

from intruders.charts.chart import Axis, Chart, Grid
from intruders.measures.intervals import mean_interval
from intruders.studies.results import Results

from .rank_series import ADAPTERS, PER_DOUBLING, main_series, series
from .shared.chosen_rates import Choice, choices, chosen_in
from .shared.claim import Claim, Finding
from .shared.equal_score import sequences_at_equal_score
from .shared.evidence import Evidence
from .shared.pictures import Palette, Part, by_method_and_rank, in_order, lines, listed, parts, slug, values
from .shared.seed_tables import against_full, complete, one_in_100, seed_table, seeds_in
from .shared.statistics import clipped
from .shared.strata import MEASURED_ALIKE, finished, per_setting, points_of, strata
from .shared.words import NOT_MEASURED, said

CLAIM = Claim(
    name="sequence",
    title="Tasks in sequence",
    question="Do low ranks forget earlier tasks more, and do intruders accumulate?",
    paper=(
        "Trained on one task after another, low-rank LoRA forgets earlier tasks more than higher ranks "
        "and full fine-tuning do, and intruder dimensions accumulate."
    ),
    meaning="low ranks lost more of the earlier tasks when trained on several in turn",
    needs="this needs finished runs of `kind: sequence` over two tasks or more, of `lora` at two ranks or more",
    limits=(
        (
            "Forgetting of a task is its best accuracy before the last stage minus that after it, and the mean "
            "is over earlier tasks (Chaudhry 2018); the order of the tasks is one of many."
        ),
        (
            "Learning rates are those of the study: a rank that learns a task less has less to forget. The "
            "accuracy after each task's own stage is in the table."
        ),
    ),
)


def analyse(results: Results) -> Finding:
    """Measure forgetting per doubling of the rank, and intruders gained from the first to the last stage."""
    runs = _summaries(finished(results.runs, "sequence"), results.sequences)
    evidence = Evidence(CLAIM, results)
    kept = [runs.iloc[:0].assign(chosen="")]
    for stratum in strata(runs, MEASURED_ALIKE):
        equal = sequences_at_equal_score(stratum)
        evidence.notes += equal.notes
        if equal.runs.empty:
            continue
        chosen = list(choices(equal, results.select))
        kept.append(equal.runs.assign(chosen=chosen_in(equal.runs, chosen)))
        for choice in chosen:
            evidence.notes += choice.notes
            _add(evidence, choice)
    points = pd.concat(kept)
    tables = {
        "Runs": points_of(points, _OF_RUNS),
        "By setting": pd.DataFrame(_by_setting(points)),
        "By stage": _by_stage(points, results.sequences),
    }
    return evidence.finding(points["run_id"], tables)


def _add(evidence: Evidence, choice: Choice) -> None:
    """Add forgetting over the rank, intruders gained over the sequence, and forgetting against full fine-tuning."""
    _add_trend(evidence, choice)
    lora = choice.runs[choice.runs["method"].isin(ADAPTERS)]
    gained = complete(seed_table(lora, "gained_per_100"))
    if gained.size:
        growth = mean_interval(gained.mean(axis=1), grain=one_in_100(lora, gained.shape[1]))
        phrase = f"intruders per 100 vectors, last stage minus first, {said(growth)}"
        what = "intruders per 100 vectors, last stage minus first, LoRA"
        evidence.add(choice.on, what, growth, phrase=phrase)
    above_full = complete(against_full(choice.runs, "forgetting"))
    if len(above_full):
        against = clipped(mean_interval(above_full.mean(axis=1)), -100, 100)
        phrase = f"points forgotten, LoRA minus full fine-tuning, {said(against, 1)}"
        evidence.add(choice.on, "points forgotten, LoRA minus full", against, digits=1, phrase=phrase)


def _add_trend(evidence: Evidence, choice: Choice) -> None:
    all_series = list(series(choice.runs, own_rates=bool(choice.name)))
    what = f"points forgotten {PER_DOUBLING}"
    if not all_series:
        lacking = "two ranks, equal in all else, that reached the score"
        evidence.add(choice.on, what, NOT_MEASURED, expected=-1, phrase="", lacking=lacking)
        evidence.notes.append(
            f"{choice.on.label}: no two ranks of LoRA with all else equal, so no trend with the rank"
        )
        return
    main = main_series(all_series, "forgetting")
    trend = clipped(main.trend("forgetting"), -100, 100)
    phrase = f"points of earlier tasks forgotten per doubling of the rank ({main.rule}) {said(trend, 1)}"
    evidence.add(choice.on, f"{what}, {main.rule}", trend, expected=-1, digits=1, phrase=phrase)
    evidence.notes += main.notes(choice.on)


def _summaries(runs: pd.DataFrame, sequences: pd.DataFrame) -> pd.DataFrame:
    """Add to the runs a summary of their sequences, with their tasks in order as ``task``."""
    rows = []
    for run_id, rows_of_run in sequences.groupby("run_id"):
        scores = rows_of_run.pivot_table(
            index="stage", columns="task_index", values="accuracy", aggfunc="mean"
        )
        if len(scores) < 2:
            continue
        last, earlier = scores.iloc[-1], scores.iloc[:-1]
        lost = (earlier.max() - last).dropna()
        own = [scores.to_numpy(dtype=float)[i, i] for i in range(min(scores.shape))]
        stages = rows_of_run.drop_duplicates("stage").sort_values("stage")
        share = 100 * stages["intruders"] / stages["vectors"]
        names = rows_of_run.drop_duplicates("task_index").sort_values("task_index")["task"].astype(str)
        rows.append(
            {
                "run_id": run_id,
                "task": ", then ".join(names),
                "forgetting": 100 * float(lost.mean()),
                "average_accuracy": float(last.mean()),
                "own_accuracy": sum(own) / len(own),
                "per_100": float(share.iloc[-1]),
                "gained_per_100": float(share.iloc[-1] - share.iloc[0]),
            }
        )
    columns = ["task", "forgetting", "average_accuracy", "own_accuracy", "per_100", "gained_per_100"]
    summaries = pd.DataFrame(rows, columns=["run_id", *columns]).astype({"run_id": object})
    return runs.drop(columns=["task", "per_100"]).merge(summaries, on="run_id")


_OF_RUNS = [
    "base", "task", "described", "method", "rank", "lr", "seed", "run_id", "trained_steps", "forgetting",
    "own_accuracy", "per_100", "gained_per_100", "chosen",
]  # fmt: skip


def _by_setting(runs: pd.DataFrame) -> Iterator[dict[str, object]]:
    for setting, group in per_setting(runs):
        yield setting | {
            **group[["method", "rank", "chosen"]].iloc[0],
            **mean_interval(group.groupby("seed")["forgetting"].mean()).cells(
                "forgetting_points", "low", "high"
            ),
            "average_accuracy": group["average_accuracy"].mean(),
            "own_accuracy": group["own_accuracy"].mean(),
            "intruders_per_100_vectors": group["per_100"].mean(),
            "seeds": seeds_in(group),
        }


def _by_stage(runs: pd.DataFrame, sequences: pd.DataFrame) -> pd.DataFrame:
    # One row per order of the tasks: another order is another experiment, whose stages are of other tasks.
    ordered = runs[["run_id", "base", "task", "described", "seed"]].rename(columns={"task": "sequence"})
    known = sequences.merge(ordered, on="run_id")
    known["per_100"] = 100 * known["intruders"] / known["vectors"]
    grouped = known.groupby(["base", "sequence", "described", "stage", "task_index", "task"])
    table = grouped.agg(
        accuracy=("accuracy", "mean"),
        intruders_per_100_vectors=("per_100", "mean"),
        seeds=("seed", "nunique"),
    )
    return table.reset_index().rename(columns={"described": "setting"})


def charts(finding: Finding, palette: Palette) -> Iterator[Chart | Grid]:
    """Draw forgetting by setting, intruders over stages, and an accuracy matrix for each setting."""
    for part in parts(finding.tables.get("By setting")):
        yield listed(
            f"sequence-forgetting{part.slug}",
            part.titled("Earlier tasks forgotten"),
            part.rows,
            palette,
            Axis("forgetting_points", "accuracy lost on earlier tasks, points", from_zero=True),
            value="forgetting_points",
            low="low",
            high="high",
            caption="Best accuracy of an earlier task minus that after the last stage, mean over tasks; 95 % interval "
            "over seeds.",
        )
    ordered = list(parts(finding.tables.get("By stage"), "base", "sequence"))
    for part in ordered:
        stages = part.rows.drop_duplicates(["setting", "stage"]).assign(after=lambda rows: rows["stage"] + 1)
        yield Chart(
            f"sequence-intruders{part.slug}",
            part.titled("Intruders over the sequence"),
            Axis("tasks_trained", "tasks trained so far", marks=sorted(set(values(stages["after"])))),
            Axis("intruders_per_100_vectors", "intruders per 100 vectors", from_zero=True),
            in_order(lines(stages, palette, "after", "intruders_per_100_vectors")),
            caption="Against the first base; mean over seeds.",
        )
    for part in ordered:
        for setting in by_method_and_rank(part.rows["setting"]):
            yield _accuracies(part, setting)


def _accuracies(part: Part, setting: str) -> Grid:
    rows = part.rows[part.rows["setting"] == setting]
    cells = rows.set_index(["stage", "task_index"])["accuracy"]
    # By position: a sequence may return to a task.
    columns = rows.drop_duplicates("task_index").sort_values("task_index")
    tasks = [str(name) for name in columns["task"]]
    stages = sorted(rows["stage"].unique())
    seeds = int(rows["seeds"].min())
    return Grid(
        f"sequence-accuracy{part.slug}{slug(setting)}",
        part.titled(f"Accuracy, {setting}"),
        "after training on",
        "tested on",
        Axis("accuracy", "accuracy", limits=(0.0, 1.0)),
        [tasks[stage] if stage < len(tasks) else f"stage {stage + 1}" for stage in stages],
        tasks,
        [[float(cells.get((stage, task), math.nan)) for task in range(len(tasks))] for stage in stages],
        caption=f"Mean over {seeds} seeds." if seeds > 1 else "One seed.",
    )
