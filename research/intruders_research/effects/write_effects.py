"""The forest plot and the table of all effects in a folder: what `intruders report FOLDER --forest` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from intruders.charts.drawing import picture
from intruders.errors import SettingError
from intruders.system.files import check_writable, user_path, write_atomically

from ..pages.markdown import table_row
from .conclusions import conclusions
from .forest_plot import DARK, LIGHT, effects_frame, forest_plot, number_text
from .read_effects import read_effects
from .study_effect import StudyEffect

_HEADINGS = (
    "claim", "model, task: effect", "estimate [95 % CI]", "expected", "seeds", "verdict", "equal score",
    "equal tuning effort", "study",
)  # fmt: skip
_SHORT = {
    "intruders per 100 vectors": "per 100",
    "nats per token": "nats",
}  # units, as a table has little room
_KEPT = "kept"


def write_forest(folder: str | Path, file: str | Path) -> tuple[list[Path], list[str]]:
    """Draw all effects in ``folder`` for light and for dark pages.

    Returns:
      The paths of the files, and Markdown lines: a table, and a sentence per topic.

    Raises:
      SettingError: ``file`` does not end in .svg.
      ResultFileError: the folder has no effects, or ``file`` cannot be written.
    """
    target = user_path(file)
    if target.suffix != ".svg":
        raise SettingError(f"--forest is '{file}'; expected a file that ends in .svg, such as effects.svg")
    check_writable(target)
    effects = read_effects(user_path(folder))
    paths = []
    for theme in (LIGHT, DARK):
        drawing = forest_plot(effects, theme)
        paths.append(target.with_name(f"{target.stem}-{theme.name}.svg"))
        write_atomically(paths[-1], picture(drawing.figure, "svg", transparent=True))
    # Not NAME.csv: next to effects.csv, that would be the file of the effects itself.
    paths.append(target.with_name(f"{target.stem}-drawn.csv"))
    write_atomically(paths[-1], effects_frame(effects).to_csv(index=False).encode())
    return paths, [*effect_table(effects), "", *conclusions(effects)]


def effect_table(effects: Sequence[StudyEffect]) -> list[str]:
    """Return Markdown lines, one row per effect, sorted by claim as the effects come."""
    claims = list(dict.fromkeys(effect.claim for effect in effects))
    ordered = sorted(effects, key=lambda effect: claims.index(effect.claim))
    lines = [table_row(_HEADINGS), table_row(["---"] * len(_HEADINGS)), *map(_row, ordered)]
    if any(effect.data != _KEPT for effect in effects):
        lines += [
            "",
            "\\* The data of this study were not kept: its page has the numbers, and its runs are lost.",
        ]
    return lines


def _row(effect: StudyEffect) -> str:
    expected = {1: "> 0", -1: "< 0", 0: "-"}[effect.expected]
    tests = f" (one of {effect.tests})" if effect.tests > 1 else ""
    study = f"[{effect.study}]({effect.page})" if effect.page else effect.study
    kept = "" if effect.data == _KEPT else "\\*"
    return table_row(
        [
            effect.claim,
            f"{effect.where}: {effect.effect}",
            f"{_unbroken(number_text(effect))} {_SHORT.get(effect.unit, effect.unit)}",
            expected,
            f"{effect.seeds}",
            f"*{effect.verdict}*{tests}",
            effect.equal_score,
            effect.equal_effort,
            f"{study}{kept}",
        ]
    )


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")
