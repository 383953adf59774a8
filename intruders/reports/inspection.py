"""What a path is read as, an update without its base, and two of them beside each other, as text for a terminal."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from ..audits.update_alone import ModuleOverlap, ModuleUpdate, UpdateAlone, UpdateOverlap
from ..checkpoints.pairing.inspect import Inspection, Row
from ..checkpoints.pairing.served import Served
from ..checkpoints.stored.names import module_paths
from ..errors import some_of
from ..system.words import number, percent, plural, printable, shorten
from .terminal import in_columns

_SHAPES_SHOWN = 3
_LEAST_WIDTH = 12  # characters of a name or of shapes that are left in a narrow terminal


def inspection_lines(inspection: Inspection, verbose: bool = False, width: int | None = None) -> list[str]:
    """Return what a person reads, with ``verbose`` a line per tensor; names and shapes give way to ``width``."""
    what = f"{inspection.kind}, {inspection.format}, {len(inspection.rows)} tensors"
    if inspection.kind == "adapter":
        base = f", for '{inspection.base_source}'" if inspection.base_source else ", which names no base"
        what = f"{inspection.format} adapter of {len(inspection.rows)} weights{base}"
    lines = [f"{inspection.source}: {what}, {inspection.parameters:,} numbers"]
    if inspection.weight != 1.0:
        lines.append(f"  counted {inspection.weight:g} times in the sum")
    rows = [_cells(row, row.name) for row in inspection.rows]
    if not verbose:  # one line for the rows of one kind of module, method, rank, scale and type
        groups: dict[tuple[object, ...], list[Row]] = {}
        for row, kind in zip(inspection.rows, kinds_of([row.name for row in inspection.rows]), strict=True):
            key = (kind, row.stored_as, row.method, row.rank, row.scale, len(row.shape))
            groups.setdefault(key, []).append(row)
        rows = [[*_cells(group[0], str(key[0]), group), str(len(group))] for key, group in groups.items()]
    lines += _table(rows, width)
    if inspection.input_first:
        lines.append(f"  {inspection.input_first} weights are stored (in, out) and audited as (out, in)")
    lines += [f"  '{name}' is the same tensor as '{other}'" for name, other in inspection.tied.items()]
    lines += [f"  matched {text}" for text in inspection.matched]
    if inspection.audited is not None:
        against = f"against '{inspection.base}'" if inspection.base else "against a base of the same shapes"
        lines.append(f"  {against}: {inspection.audited} matrices to audit")
    lines += [f"  left out, {reason}: {count}" for reason, count in inspection.left_out.items()]
    return [printable(line) for line in lines]


def kinds_of(names: Sequence[str]) -> list[str]:
    """Return the kind of module of every name; in the names of kohya, no dot is beside the layer's number.

    >>> kinds_of(["layers.3.q_proj.weight", "lora_unet_down_0_to_q", "lora_unet_down_1_to_q"])
    ['q_proj', 'lora_unet_down_*_to_q', 'lora_unet_down_*_to_q']
    """
    return [path.kind for path in module_paths([re.sub(r"_\d+_", "_*_", name) for name in names])]


def _cells(row: Row, label: str, group: list[Row] | None = None) -> list[str]:
    sizes = (["?" if size < 0 else str(size) for size in item.shape] for item in group or [row])
    shapes = list(dict.fromkeys(" x ".join(each) or "one number" for each in sizes))
    shown = ", ".join(shapes[:_SHAPES_SHOWN]) + (", ..." if len(shapes) > _SHAPES_SHOWN else "")
    about = [row.method, row.stored_as]
    if row.rank is not None:
        about.append(f"rank {row.rank}")
    if row.scale is not None:
        about.append(f"scale {row.scale:g}")
    return [label, shown, " ".join(part for part in about if part)]


def _table(rows: list[list[str]], width: int | None) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        for column in range(min(2, len(widths))):
            too_wide = max(0, sum(2 + each for each in widths) - width)
            widths[column] = min(widths[column], max(_LEAST_WIDTH, widths[column] - too_wide))
    cut = [[shorten(cell, most, "...") for cell, most in zip(row, widths, strict=True)] for row in rows]
    return _indented(cut, left=len(widths))


def served_lines(served: Served, verbose: bool = False) -> list[str]:
    """Return what a person reads of what a runtime does with an adapter; with ``verbose`` every weight."""
    every = sum(len(part.weights) for part in served.parts)
    applied = sum(len(part.weights) for part in served.parts if part.outcome == "applied")
    told = f"{applied} of {plural(every, 'weight')} applied"
    if served.base is None:
        told = "not known without its base"
    if served.refused:
        told = "refused"
    named = f", served as {served.architecture}" if served.architecture else ""
    rows = [[shorten(part.what, 56), str(len(part.weights) or ""), part.outcome] for part in served.parts]
    titles, *table = _indented([["part", "weights", "outcome"], *rows])
    lines = [f"{served.source} in {served.runtime}{named}: {told}", titles]
    for part, row in zip(served.parts, table, strict=True):
        why = [part.reason, part.way_out and f"-> {part.way_out}", *(part.weights if verbose else ())]
        lines += [row, *(f"      {text}" for text in why if text)]
    return lines


_OF_UPDATE = ["module", "modules", "rank", "eff. rank", "in use", "stable rank", "norm"]
_OF_OVERLAP = ["module", "modules", "ranks", "cosine", "outputs", "chance", "inputs", "chance"]


def update_lines(update: UpdateAlone, verbose: bool = False) -> list[str]:
    """Return what a person reads of one adapter's update; with ``verbose`` a line for every module."""
    lines = []
    if update.modules:
        lines += ["", "update, from the factors alone (medians over the modules of a line):"]
        titles = [*_OF_UPDATE, f"rank at {update.energy:.3g}"]
        lines += _by_kind(titles, update.modules, _update_row, verbose)
    if update.start is not None:
        lines.append(f"  started as {update.start}, which changes the base: the numbers are those of B A")
    if update.dead:
        dead = plural(len(update.dead), "dead module")
        lines.append(f"  {dead}, whose update is zero: {some_of(update.dead)}")
    lines += _not_measured(update.not_measured)
    if settings := update.lora_settings():
        kept = f"{percent(update.energy)} of the squared singular values in each module"
        lines += ["", f"ranks that keep {kept}, for PEFT:", *lora_config_text(settings)]
    return lines


def lora_config_text(settings: Mapping[str, Any]) -> list[str]:
    lines = ["LoraConfig("]
    for name, value in settings.items():
        if not isinstance(value, Mapping):
            lines.append(f"    {name}={value:.6g},")
        elif value:
            items = (f"        {key!r}: {item:.6g}," for key, item in value.items())
            lines += [f"    {name}={{", *items, "    },"]
    return [*(line.replace("'", '"') for line in lines), ")"]


def overlap_lines(overlap: UpdateOverlap, verbose: bool = False) -> list[str]:
    """Return what a person reads of two adapters; with ``verbose`` a line for every module."""
    modules = plural(len(overlap.modules), "module")
    lines = [
        f"{overlap.first} and {overlap.second}: {modules} in common",
        f"cosine of the updates: {_signed(overlap.cosine)}",
        f"overlap of the subspaces that keep {percent(overlap.energy)} of each update (medians), with chance:",
    ]
    lines += _by_kind(_OF_OVERLAP, overlap.modules, _overlap_row, verbose)
    for source, names in ((overlap.first, overlap.only_in_first), (overlap.second, overlap.only_in_second)):
        if names:
            lines.append(f"  only in {source}: {some_of(names)}")
    return lines + _not_measured(overlap.not_measured)


def _by_kind(
    titles: list[str], modules: Sequence[Any], cells: Callable[[Sequence[Any]], list[str]], verbose: bool
) -> list[str]:
    names = [module.name for module in modules]
    groups: dict[str, list[Any]] = {}
    for module, label in zip(modules, names if verbose else kinds_of(names), strict=True):
        groups.setdefault(label, []).append(module)
    if len(groups) > 1:
        groups["all"] = list(modules)
    return _indented([titles, *([label, str(len(group)), *cells(group)] for label, group in groups.items())])


def _indented(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    return [f"  {line}" for line in in_columns(rows, left)]


def _update_row(group: Sequence[ModuleUpdate]) -> list[str]:
    norm = sum(module.frobenius**2 for module in group) ** 0.5
    return [
        _range(module.rank for module in group),
        number(median(module.effective_rank for module in group)),
        percent(median(module.rank_in_use for module in group)),
        number(median(module.stable_rank for module in group)),
        number(norm),
        _range(module.energy_rank for module in group),
    ]


def _overlap_row(group: Sequence[ModuleOverlap]) -> list[str]:
    def middle(name: str) -> float | None:
        values = [getattr(module, name) for module in group if getattr(module, name) is not None]
        return median(values) if values else None

    shares = [middle(name) for name in ("left", "left_chance", "right", "right_chance")]
    return [
        " and ".join(_range(module.ranks[side] for module in group) for side in (0, 1)),
        _signed(middle("cosine")),
        *("-" if share is None else percent(share) for share in shares),
    ]


def _range(values: Iterable[int]) -> str:
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    return str(low) if low == high else f"{low}-{high}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _not_measured(reasons: Mapping[str, str]) -> list[str]:
    names_of: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names_of.setdefault(reason, []).append(name)
    return [f"  not measured, {reason}: {some_of(names)}" for reason, names in names_of.items()]
