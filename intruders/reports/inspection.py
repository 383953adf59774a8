"""What a path is read as, an update without its base, and two of them beside each other, as text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from ..audits.update_alone import ModuleOverlap, ModuleUpdate, UpdateAlone, UpdateOverlap
from ..checkpoints.pairing.inspect import Inspection, Row
from ..checkpoints.stored.names import module_paths
from ..errors import some_of
from ..system.words import number, percent, plural, printable, shorten

_SHAPES_SHOWN = 3
_LEAST_WIDTH = 12  # characters of a name or of shapes that are left in a narrow terminal


def inspection_lines(inspection: Inspection, verbose: bool = False, width: int | None = None) -> list[str]:
    """Return the lines that a person reads; with ``verbose`` one per tensor. Unprintable characters are replaced.

    In a table that is wider than ``width`` characters, names and then shapes are cut in the middle.
    """
    lines = [_title(inspection)]
    if inspection.weight != 1.0:
        lines.append(f"  counted {inspection.weight:g} times in the sum")
    lines += _table(
        [_cells(row, row.name) for row in inspection.rows] if verbose else _grouped(inspection.rows), width
    )
    if inspection.input_first:
        lines.append(f"  {inspection.input_first} weights are stored (in, out) and audited as (out, in)")
    lines += [f"  '{name}' is the same tensor as '{other}'" for name, other in inspection.tied.items()]
    lines += [f"  matched {text}" for text in inspection.matched]
    if inspection.audited is not None:
        against = f"against '{inspection.base}'" if inspection.base else "against a base of the same shapes"
        lines.append(f"  {against}: {inspection.audited} matrices to audit")
    lines += [f"  left out, {reason}: {count}" for reason, count in inspection.left_out.items()]
    return [printable(line) for line in lines]


def _title(inspection: Inspection) -> str:
    what = f"{inspection.kind}, {inspection.format}, {len(inspection.rows)} tensors"
    if inspection.kind == "adapter":
        base = f", for '{inspection.base_source}'" if inspection.base_source else ", which names no base"
        what = f"{inspection.format} adapter of {len(inspection.rows)} weights{base}"
    return f"{inspection.source}: {what}, {inspection.parameters:,} numbers"


def _grouped(rows: list[Row]) -> list[list[str]]:
    """One line for the rows of one kind of module, method, rank, scale and type."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row, kind in zip(rows, kinds_of([row.name for row in rows]), strict=True):
        key = (kind, row.stored_as, row.method, row.rank, row.scale, len(row.shape))
        groups.setdefault(key, []).append(row)
    return [[*_cells(group[0], str(key[0]), group), str(len(group))] for key, group in groups.items()]


def kinds_of(names: Sequence[str]) -> list[str]:
    """Return the kind of module of every name; in the names of kohya, no dot is beside the layer's number.

    >>> kinds_of(["layers.3.q_proj.weight", "lora_unet_down_0_to_q", "lora_unet_down_1_to_q"])
    ['q_proj', 'lora_unet_down_*_to_q', 'lora_unet_down_*_to_q']
    """
    return [path.kind for path in module_paths([re.sub(r"_\d+_", "_*_", name) for name in names])]


def _cells(row: Row, label: str, group: list[Row] | None = None) -> list[str]:
    shapes = list(dict.fromkeys(_shape(item.shape) for item in group or [row]))
    shown = ", ".join(shapes[:_SHAPES_SHOWN]) + (", ..." if len(shapes) > _SHAPES_SHOWN else "")
    about = [row.method, row.stored_as]
    if row.rank is not None:
        about.append(f"rank {row.rank}")
    if row.scale is not None:
        about.append(f"scale {row.scale:g}")
    return [label, shown, " ".join(part for part in about if part)]


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join("?" if size < 0 else str(size) for size in shape) or "one number"


def _table(rows: list[list[str]], width: int | None) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in _columns(rows)]
    if width is not None:
        for column in range(min(2, len(widths))):
            too_wide = max(0, sum(2 + each for each in widths) - width)
            widths[column] = min(widths[column], max(_LEAST_WIDTH, widths[column] - too_wide))
    cut = [
        [shorten(cell, most, "...").ljust(most) for cell, most in zip(row, widths, strict=True)]
        for row in rows
    ]
    return ["  " + "  ".join(row).rstrip() for row in cut]


def _columns(rows: list[list[str]]) -> Iterable[tuple[str, ...]]:
    return zip(*rows, strict=True)


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
        lines += _lined_up(rows)
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
    lines += _lined_up(rows)
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


def _lined_up(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
