"""Critical scales per module type, and the choice of one scale for a complete update, as text for a terminal."""

import math
from collections.abc import Sequence
from statistics import median

from ..audits.result.forgetting import Forgetting
from ..audits.scales.critical_scales_result import CriticalScales, MatrixScale
from ..checkpoints.stored.names import module_paths
from ..experiments.choose_scale import ScaleChoice
from ..system.words import duration, number, percent, plural, shorten

_WIDTH = 80
_NAMES, _NARROW_NAMES = 20, 14
_NUMBERS = 32  # columns of the numbers and the gaps, with one left free at the end of a line


def scale_lines(result: CriticalScales, width: int = _WIDTH) -> list[str]:
    """Return the answer, the predictions, and one line per module type, of at most ``width`` columns up to 80."""
    matrices = result.matrices
    if not matrices:
        return ["Nothing to scale: no selected matrix differs from the base, or none can be compared."]
    count = plural(len(matrices), "matrix", "matrices")
    lines = [f"critical scales of {count} (1 = the update as trained)"]
    if result.is_at_search_end:
        lines.append(result.up_to_search_end())
    elif result.target == 0:
        lines.append(f"largest update scale without intruders: {number(result.largest)}")
    else:
        most = plural(result.target, "intruder")
        there = plural(result.intruders_at_largest, "intruder")
        lines.append(f"largest update scale with at most {most}: {number(result.largest)} ({there})")
    known = [matrix for matrix in matrices if math.isfinite(matrix.measured)]
    without = len(matrices) - len(known)
    if without:
        lines.append(f"no intruder at any searched scale: {plural(without, 'matrix', 'matrices')}")
    if known:
        lines.append(
            f"predicted from both spectra: {percent(result.within_factor_two)} within a factor of two, "
            f"rank correlation {number(result.rank_correlation)}"
        )
        lines += ["", *_table(known, min(width, _WIDTH))]
    lines.append(f"({duration(result.seconds)})")
    return lines


def _table(known: Sequence[MatrixScale], width: int) -> list[str]:
    names = _NAMES if width == _WIDTH else _NARROW_NAMES
    axis_width = max(12, width - names - _NUMBERS)
    kinds: dict[str, list[MatrixScale]] = {}
    for path, matrix in zip(module_paths([matrix.name for matrix in known]), known, strict=True):
        kinds.setdefault(path.kind, []).append(matrix)
    scales = [matrix.measured for matrix in known]
    low, high = min([*scales, 1.0]) / 1.1, max([*scales, 1.0]) * 1.1
    ends = number(low).ljust(axis_width - 6) + number(high).rjust(6)
    lines = [f"{'':{names}}{'lowest':>8}{'median':>8}{'predicted':>11}  {ends}"]
    for kind, members in kinds.items():
        measured = [matrix.measured for matrix in members]
        axis = ["."] * axis_width
        first, middle = (_column(value, low, high, axis_width) for value in (min(measured), median(measured)))
        axis[first : middle + 1] = "-" * (middle + 1 - first)
        axis[middle], axis[first] = "o", "<"
        axis[_column(1.0, low, high, axis_width)] = "|"
        lines.append(
            f"{shorten(kind, names - 1):{names}}{number(min(measured)):>8}{number(median(measured)):>8}"
            f"{number(median([matrix.predicted for matrix in members])):>11}  {''.join(axis)}"
        )
    return [*lines, "", "< lowest critical scale of the module type, o median, | 1 = as trained"]


def _column(value: float, low: float, high: float, width: int) -> int:
    return min(width - 1, int(width * math.log(value / low) / math.log(high / low)))


def scale_within_lines(forgetting: Forgetting, limit: float) -> list[str]:
    scale = forgetting.scale_within(limit)
    answer = f"the complete update (1) stays within {limit:g} nats per token"
    if scale < 1:
        answer = f"largest update scale within {limit:g} nats per token: {number(scale)}"
    left_out = f"; not counted: {forgetting.not_counted}" if forgetting.left_out else ""
    return [
        f"{answer}, by the upper end of the prediction",
        f"of the complete update, {forgetting.in_words()}{left_out}",
    ]


def scale_choice_lines(choice: ScaleChoice) -> list[str]:
    lines = [
        f"one scale for the complete update, on {choice.corpus} and {choice.task} (nats per token)",
        f"{'scale':>6}{'loss on text':>14}{'task loss':>11}",
    ]
    for point in choice.curve:
        mark = "  chosen" if point.scale == choice.scale else ""
        lines.append(f"{point.scale:>6.3g}{point.text_loss:>14.4f}{point.task_loss:>11.4f}{mark}")
    lines.append(
        f"scale {choice.scale:.3g} forgets least at a task loss of at most {choice.allow:g} above the tuned model's"
    )
    _, tuned, chosen = choice.points
    for corpus, measure in chosen.corpora.items():
        before = tuned.corpora[corpus].forgotten
        share = "" if measure.healed is None else f", {measure.healed.estimate:.0%} healed"
        lines.append(
            f"on other documents of {corpus}: forgotten {before.estimate:+.3f} tuned, "
            f"{measure.forgotten.estimate:+.3f} at that scale{share}"
        )
    for task, own in chosen.tasks.items():
        lines.append(
            f"on other examples of {task}: loss {tuned.tasks[task].loss.estimate:.4f} tuned, "
            f"{own.loss.estimate:.4f} at that scale"
        )
    return lines
