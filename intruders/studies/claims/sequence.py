"""Do low ranks forget earlier tasks more, and do intruders accumulate over a sequence of tasks?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from ...charts.chart import Axis, Chart, Grid
from ..tables.results import Results
from .claim import Answer, Claim, Effect, Finding
from .rank_series import ADAPTERS, main_series, series
from .shared.chosen_rates import Choice, choices, chosen_in
from .shared.comparable_runs import (
    MEASURED_ALIKE,
    complete,
    finished,
    one_in_100,
    seed_table,
    seeds_in,
    sequences_at_equal_score,
    strata,
)
from .shared.pictures import Palette, Part, by_method_and_rank, in_order, lines, listed, parts, slug, values
from .shared.statistics import mean_interval
from .shared.words import NOT_MEASURED, answer, effect, said, seeds_said

CLAIM = Claim(
    name="sequence",
    title="Tasks in sequence",
    question="Do low ranks forget earlier tasks more, and do intruders accumulate?",
    paper=(
        "Trained on one task after another, low-rank LoRA forgets earlier tasks more than higher "
        "ranks and full fine-tuning do, and intruder dimensions accumulate."
    ),
    meaning="low ranks lost more of the earlier tasks when trained on several in turn",
    needs=(
        "this needs finished runs of `kind: sequence` over two tasks or more, of `lora` at two ranks or more"
    ),
    limits=(
        (
            "Forgetting of a task is its best accuracy before the last stage minus that after it, and "
            "the mean is over earlier tasks (Chaudhry 2018); the order of the tasks is one of many."
        ),
        (
            "Learning rates are those of the study: a rank that learns a task less has less to "
            "forget. The accuracy after each task's own stage is in the table."
        ),
    ),
)


def analyse(results: Results) -> Finding:
    """Forgetting per doubling of the rank, and intruders after the last stage minus after the first, over seeds."""
    runs = _summaries(finished(results.runs, "sequence"), results.sequences)
    verdicts: list[str] = []
    notes: list[str] = []
    answers: list[Answer] = []
    effects: list[Effect] = []
    kept = []
    seeds = 0
    compared: list[Choice] = []
    for whole in strata(runs, MEASURED_ALIKE, notes):
        equal = sequences_at_equal_score(whole, notes)
        if equal.empty:
            continue
        chosen = list(choices(whole, equal, results.select, notes))
        compared += chosen
        kept.append(equal.assign(chosen=chosen_in(equal, chosen)))
    for stratum in compared:
        lora = stratum.runs[stratum.runs["method"].isin(ADAPTERS)]
        parts = []
        of_parts: list[int] = []
        found = list(series(stratum.runs, own_rates=bool(stratum.name)))
        if found:
            main = main_series(found, "forgetting")
            trend = main.trend("forgetting")
            of_parts.append(len(main.table("forgetting")))
            effects.append(
                effect(f"{stratum.label}, {main.rule}: forgetting in points per doubling of the rank", trend)
            )
            what = f"points forgotten per doubling of the rank, {main.rule}"
            answers.append(
                answer(stratum.label, what, trend, expected=-1, seeds=len(main.table("forgetting")))
            )
            parts.append(
                f"points of earlier tasks forgotten per doubling of the rank ({main.rule}) {said(trend, 1)}"
            )
            if main.rates_differ:
                notes.append(f"{stratum.label}, {main.rule}: each rank has a learning rate of its own")
        else:
            what = "points forgotten per doubling of the rank"
            lacking = "two ranks, equal in all else, that reached the score"
            answers.append(answer(stratum.label, what, NOT_MEASURED, expected=-1, seeds=0, lacking=lacking))
            notes.append(
                f"{stratum.label}: no two ranks of LoRA with all else equal, so no trend with the rank"
            )
        gained = complete(seed_table(lora, "gained_per_100"))
        if gained.size:
            growth = mean_interval(gained.mean(axis=1), grain=one_in_100(lora, gained.shape[1]))
            of_parts.append(len(gained))
            effects.append(
                effect(f"{stratum.label}: intruders per 100 vectors, last stage minus first, LoRA", growth)
            )
            what = "intruders per 100 vectors, last stage minus first, LoRA"
            answers.append(answer(stratum.label, what, growth, seeds=len(gained)))
            parts.append(f"intruders per 100 vectors, last stage minus first, {said(growth)}")
        above_full = _above_full(stratum.runs)
        if len(above_full):
            against = mean_interval(above_full)
            effects.append(effect(f"{stratum.label}: forgetting in points, LoRA minus full", against))
            what = "points forgotten, LoRA minus full"
            answers.append(answer(stratum.label, what, against, seeds=len(above_full)))
            parts.append(f"points forgotten, LoRA minus full fine-tuning, {said(against, 1)}")
        seeds = max([seeds, *of_parts])
        if parts:
            used = min(of_parts, default=seeds_in(stratum.runs))
            verdicts.append(f"{stratum.label}: {', '.join(parts)} ({seeds_said(used)})")
    if not seeds:
        return CLAIM.missing(notes)
    points = pd.concat(kept)
    return CLAIM.finding(
        verdict="; ".join(verdicts),
        answers=answers,
        effects=effects,
        seeds=seeds,
        runs=len(points),
        tables={
            "Runs": _points(points),
            "By setting": _by_setting(points),
            "By stage": _by_stage(points, results.sequences),
        },
        notes=notes,
    )


def _summaries(runs: pd.DataFrame, sequences: pd.DataFrame) -> pd.DataFrame:
    """The runs with what their sequences come to, their tasks in order as ``task``."""
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


def _above_full(runs: pd.DataFrame) -> pd.Series[float]:
    """Forgetting of LoRA minus that of full fine-tuning, by seed."""
    full = complete(seed_table(runs[runs["method"] == "full"], "forgetting")).mean(axis=1)
    lora = seed_table(runs[runs["method"] == "lora"], "forgetting")
    return complete(lora.sub(full, axis=0).dropna(how="all")).mean(axis=1)


def _points(runs: pd.DataFrame) -> pd.DataFrame:
    columns = [
        "base", "task", "described", "method", "rank", "lr", "seed", "run_id", "trained_steps", "forgetting",
        "own_accuracy", "per_100", "gained_per_100", "chosen",
    ]  # fmt: skip
    return runs[columns].rename(columns={"described": "setting"}).reset_index(drop=True)


def _by_setting(runs: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (base, task, described), group in runs.groupby(["base", "task", "described"]):
        forgotten = mean_interval(group.groupby("seed")["forgetting"].mean())
        rows.append(
            {
                "base": base,
                "task": task,
                "setting": described,
                "method": group["method"].iloc[0],
                "rank": group["rank"].iloc[0],
                "chosen": group["chosen"].iloc[0],
                "forgetting_points": forgotten.estimate,
                "low": forgotten.low,
                "high": forgotten.high,
                "average_accuracy": group["average_accuracy"].mean(),
                "own_accuracy": group["own_accuracy"].mean(),
                "intruders_per_100_vectors": group["per_100"].mean(),
                "seeds": seeds_in(group),
            }
        )
    return pd.DataFrame(rows)


def _by_stage(runs: pd.DataFrame, sequences: pd.DataFrame) -> pd.DataFrame:
    known = sequences.merge(runs[["run_id", "base", "described", "seed"]], on="run_id")
    known["per_100"] = 100 * known["intruders"] / known["vectors"]
    grouped = known.groupby(["base", "described", "stage", "task_index", "task"])
    table = grouped.agg(
        accuracy=("accuracy", "mean"),
        intruders_per_100_vectors=("per_100", "mean"),
        seeds=("seed", "nunique"),
    )
    return table.reset_index().rename(columns={"described": "setting"})


def charts(finding: Finding, palette: Palette) -> list[Chart | Grid]:
    """Forgetting by setting, intruders over stages, and an accuracy matrix for each setting."""
    made: list[Chart | Grid] = [*_forgetting(finding, palette), *_intruders(finding, palette)]
    stages = finding.tables.get("By stage")
    for base in parts(stages, "base"):
        made += [_accuracies(part, base) for part in _settings(base)]
    return made


def _forgetting(finding: Finding, palette: Palette) -> Iterator[Chart]:
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
            order=by_method_and_rank(part.rows["setting"]),
            caption="Best accuracy of an earlier task minus that after the last stage, mean over tasks; 95 % interval "
            "over seeds.",
        )


def _intruders(finding: Finding, palette: Palette) -> Iterator[Chart]:
    for part in parts(finding.tables.get("By stage"), "base"):
        stages = part.rows.drop_duplicates(["setting", "stage"]).assign(after=lambda rows: rows["stage"] + 1)
        yield Chart(
            f"sequence-intruders{part.slug}",
            part.titled("Intruders over the sequence"),
            Axis("tasks_trained", "tasks trained so far", marks=sorted(set(values(stages["after"])))),
            Axis("intruders_per_100_vectors", "intruders per 100 vectors", from_zero=True),
            in_order(lines(stages, palette, "after", "intruders_per_100_vectors")),
            caption="Against the first base; mean over seeds.",
        )


def _settings(base: Part) -> Iterator[Part]:
    order = by_method_and_rank(base.rows["setting"])
    for setting in order:
        rows = base.rows[base.rows["setting"] == setting]
        yield Part(setting, slug(setting), rows)


def _accuracies(part: Part, base: Part) -> Grid:
    cells = part.rows.set_index(["stage", "task_index"])["accuracy"]
    tasks = [str(name) for name in part.rows.sort_values("task_index")["task"].unique()]
    stages = sorted(part.rows["stage"].unique())
    seeds = int(part.rows["seeds"].min())
    return Grid(
        f"sequence-accuracy{base.slug}{part.slug}",
        base.titled(f"Accuracy, {part.rows.iloc[0]['setting']}"),
        "after training on",
        "tested on",
        Axis("accuracy", "accuracy", limits=(0.0, 1.0)),
        [tasks[stage] if stage < len(tasks) else f"stage {stage + 1}" for stage in stages],
        tasks,
        [[float(cells.get((stage, task), math.nan)) for task in range(len(tasks))] for stage in stages],
        caption=f"Mean over {seeds} seeds." if seeds > 1 else "One seed.",
    )
