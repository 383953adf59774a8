"""The figures of a healing: forgetting over task loss, the doses, and the intruders by layer."""

from __future__ import annotations

from ...charts.chart import Axis, Chart, Grid, Series
from ...experiments.healing import BASE, CONTROLS, HEALED, TUNED, Healing
from ...experiments.point import HealedPoint
from ..shared.layer_grid import layer_grid
from .heal_text import LABELS, curve


def healing_charts(healing: Healing) -> list[Chart | Grid]:
    """Return one chart for every corpus, then the doses and the intruders as layers x modules."""
    charts: list[Chart | Grid] = [_trade(healing, corpus) for corpus in healing.healed_point.corpora]
    doses = {name: sum(own) / len(own) for name, own in healing.doses.items()}
    grid = layer_grid(
        "doses",
        "Doses",
        Axis("dose", "dose"),
        doses,
        "Each cell is the dose of one matrix: 1 is the tuned model, 0 the base. Of several doses it shows the mean.",
    )
    counts = {name: float(own[0] or 0) for name, own in healing.intruders.items()}
    figures = [*charts, grid]
    if any(counts.values()):
        figures.append(
            layer_grid(
                "intruders",
                "Intruders of the tuned model",
                Axis("intruders", "intruders"),
                counts,
                "Each cell is the number of intruders in one matrix before the healing; of several matrices, such as "
                "experts, it is their sum.",
                is_count=True,
            )
        )
    return figures


def _trade(healing: Healing, corpus: str) -> Chart:
    """Chart forgetting over task loss; lower left is better."""
    line = curve(healing)
    series = [
        Series(
            "interpolation",
            [_task(healing, point) for point in line],
            [point.corpora[corpus].forgotten.estimate for point in line],
            notes=[f"dose {point.dose:g}" for point in line if point.dose is not None],
            look="both",
            tone=0,
        )
    ]
    others = (*healing.rivals, *CONTROLS)
    tones = {BASE: 3, TUNED: 2, HEALED: 1} | {name: 4 + number for number, name in enumerate(others)}
    for name, tone in tones.items():
        point = healing.point(name)
        if point is None:
            continue
        measure = point.corpora[corpus].forgotten
        series.append(
            Series(
                LABELS.get(name, name),
                [_task(healing, point)],
                [measure.estimate],
                low=[measure.low],
                high=[measure.high],
                tone=tone,
            )
        )
    return Chart(
        f"forgetting-{'chosen' if corpus == healing.corpus else 'reported'}-{_file_name(corpus)}",
        f"Forgetting on {corpus}",
        Axis("task_loss", f"loss on {healing.task} (nats per token)", log=_is_wide(healing)),
        Axis("forgotten", "rise of the loss over the base (nats per token)"),
        series,
        caption=f"Each point is one model on {healing.documents[corpus]} documents that were not learned from; bars "
        "are 95 % intervals. Lower left is better: less forgotten, task kept.",
    )


def _is_wide(healing: Healing) -> bool:
    """Return whether the task losses differ so much that only a logarithm shows the low ones."""
    values = [_task(healing, point) for point in healing.points]
    return min(values) > 0 and max(values) > 20 * min(values)


def _task(healing: Healing, point: HealedPoint) -> float:
    return point.tasks[healing.task].loss.estimate


def _file_name(corpus: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in corpus)[-40:].strip("-")
