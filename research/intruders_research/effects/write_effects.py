"""The forest plot and the table of all effects in a folder: what `intruders forest` does."""

from collections.abc import Sequence
from pathlib import Path

from intruders.charts.drawing import picture
from intruders.errors import SettingError
from intruders.system.files import check_writable, user_path, write_atomically
from intruders.system.words import plural

from ..claims.shared.claim import CONTRADICTED, REPORTED, SUPPORTED
from ..claims.shared.words import table_lines
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


# What the effects of some claims say together.
_TOPICS = {
    "LoRA leaves more intruders, or forgets more, than full fine-tuning at one score": ["structure"],
    "Rate, rank, size and duration change the intruders and the spectrum of the update as claimed": [
        "causes", "rank", "dynamics", "threshold"
    ],
    "Intruders or KL identify the runs and matrices that forget more": ["forgetting", "predictors", "places"],
    "Scaling intruders down, or another remedy, saves forgetting": ["intervention", "remedies"],
    "In a sequence of tasks, low ranks and LoRA forget more, and intruders accumulate": ["sequence"],
}  # fmt: skip


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
        raise SettingError(f"out is '{file}'; expected a file that ends in .svg, such as effects.svg")
    check_writable(target)
    effects = read_effects(user_path(folder))
    paths = []
    for theme in (LIGHT, DARK):
        paths.append(target.with_name(f"{target.stem}-{theme.name}.svg"))
        write_atomically(paths[-1], picture(forest_plot(effects, theme), "svg", transparent=True))
    # Not NAME.csv: next to effects.csv, that would be the file of the effects itself.
    paths.append(target.with_name(f"{target.stem}-drawn.csv"))
    write_atomically(paths[-1], effects_frame(effects).to_csv(index=False).encode())
    return paths, [*effect_table(effects), "", *conclusions(effects)]


def effect_table(effects: Sequence[StudyEffect]) -> list[str]:
    """Return Markdown lines, one row per effect, sorted by claim as the effects come."""
    claims = list(dict.fromkeys(effect.claim for effect in effects))
    ordered = sorted(effects, key=lambda effect: claims.index(effect.claim))
    lines = table_lines(_HEADINGS, map(_row, ordered))
    if any(effect.data != _KEPT for effect in effects):
        lines += [
            "",
            "\\* The data of this study were not kept: its page has the numbers, and its runs are lost.",
        ]
    return lines


def _row(effect: StudyEffect) -> list[str]:
    expected = {1: "> 0", -1: "< 0", 0: "-"}[effect.expected]
    tests = f" (one of {effect.tests})" if effect.tests > 1 else ""
    study = f"[{effect.study}]({effect.page})" if effect.page else effect.study
    kept = "" if effect.data == _KEPT else "\\*"
    unbroken = number_text(effect).replace(" ", "\N{NO-BREAK SPACE}")
    return [
        effect.claim,
        f"{effect.where}: {effect.effect}",
        f"{unbroken} {_SHORT.get(effect.unit, effect.unit)}",
        expected,
        f"{effect.seeds}",
        f"*{effect.verdict}*{tests}",
        effect.equal_score,
        effect.equal_effort,
        f"{study}{kept}",
    ]


def conclusions(effects: Sequence[StudyEffect]) -> list[str]:
    """Return one Markdown line per topic, with the number of effects of every verdict.

    Effects without an expected sign are not counted. Of those at equal score and at equal tuning effort, the ones that
    are supported are counted apart.
    """
    counted = [effect for effect in effects if effect.verdict != REPORTED]
    return [
        f"- **{statement}:** {_sentence([effect for effect in counted if effect.claim in claims])}"
        for statement, claims in _TOPICS.items()
    ]


def _sentence(own: Sequence[StudyEffect]) -> str:
    if not own:
        return "no effect was measured."
    verdicts = [effect.verdict for effect in own]
    supported, contradicted = verdicts.count(SUPPORTED), verdicts.count(CONTRADICTED)
    studies = len({effect.study for effect in own})
    fair = [effect for effect in own if effect.equal_score != "no" and effect.equal_effort == "yes"]
    fairly = sum(effect.verdict == SUPPORTED for effect in fair)
    text = (
        f"{supported} of {plural(len(own), 'effect')} in {plural(studies, 'study', 'studies')} "
        f"support it, {contradicted} contradict it, and {len(own) - supported - contradicted} are undecided."
    )
    if fair:
        text += f" At equal score and equal tuning effort, {fairly} of {len(fair)} support it."
    return text
