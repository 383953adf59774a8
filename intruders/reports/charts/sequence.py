"""Accuracy of every task after every stage, what was forgotten, and intruders over the stages."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...studies.findings import Finding
from ..chart import Axis, Chart, Grid
from .common import Palette, Part, by_method_and_rank, in_order, lines, listed, parts, slug, values


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
