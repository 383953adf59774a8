"""An update without its base, and two of them beside each other, as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from ...audits.update_alone import ModuleOverlap, ModuleUpdate, UpdateAlone, UpdateOverlap
from ...charts.text import number, percent, plural
from ...errors import some_of
from ..inspection.inspection_text import kinds_of

_OF_UPDATE = ["module", "modules", "rank", "eff. rank", "in use", "stable rank", "norm"]
_OF_OVERLAP = ["module", "modules", "ranks", "cosine", "outputs", "chance", "inputs", "chance"]


def update_lines(update: UpdateAlone, verbose: bool = False) -> list[str]:
    """Return what a person reads of one adapter's update; with ``verbose`` a line for every module."""
    lines = []
    if update.modules:
        rank_kept = f"rank at {update.energy:.3g}"
        lines += ["", "update, from the factors alone (medians over the modules of a line):"]
        groups = _groups(update.modules, verbose)
        rows = [[*_OF_UPDATE, rank_kept], *(_update_row(label, group) for label, group in groups)]
        if len(groups) > 1:
            rows.append(_update_row("all", update.modules))
        lines += _table(rows)
    if update.start is not None:
        lines.append(f"  started as {update.start}, which changes the base: the numbers are those of B A")
    if update.dead:
        lines.append(
            f"  {plural(len(update.dead), 'dead module')}, whose update is zero: {some_of(update.dead)}"
        )
    lines += _not_measured(update.not_measured)
    settings = update.lora_settings()
    if settings:
        lines += [
            "",
            f"ranks that keep {percent(update.energy)} of the squared singular values in each module, for PEFT:",
        ]
        lines += lora_config_text(settings)
    return lines


def lora_config_text(settings: Mapping[str, Any]) -> list[str]:
    """Return the settings as a call of PEFT's ``LoraConfig``."""
    lines = ["LoraConfig("]
    for name, value in settings.items():
        if isinstance(value, Mapping):
            if value:
                lines += [
                    f"    {name}={{",
                    *(f"        {key!r}: {item:.6g}," for key, item in value.items()),
                    "    },",
                ]
        else:
            lines.append(f"    {name}={value:.6g},")
    return [*(line.replace("'", '"') for line in lines), ")"]


def overlap_lines(overlap: UpdateOverlap, verbose: bool = False) -> list[str]:
    """Return what a person reads of two adapters; with ``verbose`` a line for every module."""
    modules = plural(len(overlap.modules), "module")
    lines = [
        f"{overlap.first} and {overlap.second}: {modules} in common",
        f"cosine of the updates: {_signed(overlap.cosine)}",
        f"overlap of the subspaces that keep {percent(overlap.energy)} of each update (medians), with chance:",
    ]
    groups = _groups(overlap.modules, verbose)
    rows = [_OF_OVERLAP, *(_overlap_row(label, group) for label, group in groups)]
    if len(groups) > 1:
        rows.append(_overlap_row("all", overlap.modules))
    lines += _table(rows)
    for source, names in ((overlap.first, overlap.only_in_first), (overlap.second, overlap.only_in_second)):
        if names:
            lines.append(f"  only in {source}: {some_of(names)}")
    return lines + _not_measured(overlap.not_measured)


def _groups(modules: Sequence[Any], verbose: bool) -> list[tuple[str, list[Any]]]:
    if verbose:
        return [(module.name, [module]) for module in modules]
    groups: dict[str, list[Any]] = {}
    for module, kind in zip(modules, kinds_of([module.name for module in modules]), strict=True):
        groups.setdefault(kind, []).append(module)
    return list(groups.items())


def _update_row(label: str, group: Sequence[ModuleUpdate]) -> list[str]:
    norm = sum(module.frobenius**2 for module in group) ** 0.5
    return [
        label,
        str(len(group)),
        _range(module.rank for module in group),
        number(median(module.effective_rank for module in group)),
        percent(median(module.rank_in_use for module in group)),
        number(median(module.stable_rank for module in group)),
        number(norm),
        _range(module.energy_rank for module in group),
    ]


def _overlap_row(label: str, group: Sequence[ModuleOverlap]) -> list[str]:
    def middle(name: str) -> float | None:
        values = [getattr(module, name) for module in group if getattr(module, name) is not None]
        return median(values) if values else None

    return [
        label,
        str(len(group)),
        " and ".join(_range(module.ranks[side] for module in group) for side in (0, 1)),
        _signed(middle("cosine")),
        *(_share(middle(name)) for name in ("left", "left_chance", "right", "right_chance")),
    ]


def _range(values: Iterable[int]) -> str:
    least_and_most = sorted(set(values))
    low, high = least_and_most[0], least_and_most[-1]
    return str(low) if low == high else f"{low}-{high}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value)


def _not_measured(reasons: Mapping[str, str]) -> list[str]:
    names_of: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names_of.setdefault(reason, []).append(name)
    return [f"  not measured, {reason}: {some_of(names)}" for reason, names in names_of.items()]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
