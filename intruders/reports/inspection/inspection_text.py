"""What a path is read as, as text for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...charts.text import printable, shorten
from ...checkpoints.pairing.inspect import Inspection, Row
from ...checkpoints.stored.names import module_paths

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
