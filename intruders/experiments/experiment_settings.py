"""What experiments are asked for: their settings, which import nothing heavy."""

from dataclasses import dataclass, replace
from functools import partial

from ..data.corpora import RANDOM_TOKENS, SELF
from ..errors import SettingError
from ..measures.measure_settings import document_tokens, masked_estimate, measure_in_detail, measure_setting
from ..mitigation.remedies.remedy_table import (
    CONTROLS,
    INTRUDERS,
    PUBLISHED,
    SHRINK_OUTPUT,
    WHICH,
    WHICH_HELP,
)
from ..settings import Settings, setting, settings_of
from ..system.plugins import REMEDIES as OF_PLUGINS
from ..system.plugins import plugins_of

AUTO = "auto"
SHARE, BLOCKS, REPLAY, DOSES, WEIGHTS = "share", "blocks", "replay", "doses", "weights"
# What else is learned and reported beside the healing: of these the last two learn the weights on other text.
LEARNED_AS_WEIGHTS = (WEIGHTS, REPLAY, SELF, RANDOM_TOKENS)
RIVALS = (SHARE, BLOCKS, DOSES, *LEARNED_AS_WEIGHTS)

_healing = partial(setting, panel="Healing")
_healing_in_detail = partial(_healing, advanced=True)
_attribution = partial(setting, panel="Attribution")
_remedies = partial(setting, panel="Remedies")
_intervention = partial(setting, panel="Intervention")

# Shares of the update at which interpolation is measured; the base itself is the first point.
ALPHAS = tuple(round(0.1 * step, 1) for step in range(11))
DOCUMENTS, EXAMPLES = 4, 16  # of a step of a healing
_WEIGHTS, _IN_FULL = {DOSES: 3.0, WEIGHTS: 12.0}, 4.0  # of the task, in nats of text per nat


@dataclass(frozen=True)
class HealSettings(Settings):
    """What is learned, and how it is chosen.

    Examples:
      ``intruders.HealSettings(per="layer", steps=80)``
    """

    learn: str = _healing(
        AUTO,
        "What is learned: the weights of the update itself (the factors of an adapter), one dose for every matrix, or "
        "auto: weights, but doses with --per and of an adapter without a low rank.",
        choices=(AUTO, WEIGHTS, DOSES),
        metavar="WHAT",
    )
    per: str = _healing_in_detail(
        "matrix",
        "What has a dose of its own: matrix, direction (of a low-rank update), layer, block (a third of the layers) or "
        "kind (of module).",
        choices=("matrix", "direction", "layer", "block", "kind"),
        metavar="PART",
    )
    steps: int = _healing_in_detail(30, "Number of steps of learning, 1 or more.", least=1)
    allow: float = _healing(
        0.01,
        "Rise of the task loss above the tuned model's that is allowed, in nats per token.",
        least=0,
        metavar="NATS",
    )
    weight: float | None = _healing_in_detail(
        None,
        "First weight of staying close to the tuned model on task examples; it is adjusted to meet --allow.",
        above=0,
        unless_given="default: 3 for doses, 12 for factors, 4 for weights in full",
        metavar="NUMBER",
    )
    rate: float = _healing_in_detail(
        0.06,
        "Share of each update that a step may change, by doses or weights; it rises for five steps and falls to zero.",
        above=0,
        most=1,
        metavar="NUMBER",
    )
    rivals: tuple[str, ...] = _healing_in_detail(
        (),
        "Report beside the healing: the best share of the update; doses for three blocks of layers, or for every "
        "matrix; the weights, the same with the text replayed, or learned on samples of the base (self) or on random "
        "tokens.",
        choices=RIVALS,
        by_commas=True,
        metavar="NAMES",
    )
    max_documents: int = measure_setting(
        64,
        "Number of documents per corpus, sampled with --seed: half are learned from, half are reported.",
        least=2,
    )
    max_tokens: int = document_tokens(96)
    max_examples: int = measure_in_detail(
        64,
        "Number of validation examples, which choose, and of test examples, which are reported. Every step learns from "
        "16 training examples.",
        least=1,
    )
    report_examples: int | None = measure_in_detail(
        None, "Number of test examples that are reported.", least=1, unless_given="default: as --max-examples"
    )
    estimate: bool = masked_estimate()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn == WEIGHTS and self.per != "matrix":
            raise SettingError(
                f"per is {self.per!r}, and weights have no doses that could be shared; leave it out, or pass --learn "
                "doses"
            )

    @property
    def learned_examples(self) -> int:
        return self.steps * EXAMPLES

    def weight_of(self, learn: str, *, in_full: bool) -> float:
        """Return the task's first weight; ``in_full`` tells that the weights are all entries and no factors."""
        default = _IN_FULL if in_full and learn == WEIGHTS else _WEIGHTS[learn]
        return default if self.weight is None or learn != self.learn else self.weight


HEALING = HealSettings()


@dataclass(frozen=True)
class AttributionSettings(Settings):
    """How the rise of a loss is split into parts.

    Examples:
      ``intruders.AttributionSettings(max_documents=64)``
    """

    nodes: int = _attribution(
        5,
        "Number of Gauss-Legendre nodes of the path integral, 2 or more. More follow where the parts miss the "
        "measured rise by over 2 %.",
        least=2,
        most=32,
    )
    check: int = _attribution(
        5,
        "Number of the largest matrices that are left out of the tuned model one by one, as a check; 0 for none.",
        least=0,
    )
    max_documents: int = measure_setting(32, "Number of documents per corpus, sampled with --seed.", least=2)
    max_tokens: int = document_tokens(192)
    max_examples: int = measure_setting(64, "Number of validation examples per task.", least=2)


ATTRIBUTION = AttributionSettings()


# The order of the table: the dose alone, what this package is about, and then the others.
_FIRST, *_OTHERS = PUBLISHED
REMEDIES = (_FIRST, INTRUDERS, *_OTHERS)


@dataclass(frozen=True)
class ComparisonSettings(Settings):
    """Which remedies are compared, at which strengths and at what cost for the task.

    Examples:
      ``intruders.ComparisonSettings(strengths=5)``
    """

    only: tuple[str, ...] = _remedies(
        (),
        f"Comma-separated remedies to compare: {', '.join(REMEDIES[:-1])} or {REMEDIES[-1]}, or one of a plugin.",
        item="remedy",
        by_commas=True,
        metavar="NAMES",
        unless_given="default: all",
    )
    strengths: int = _remedies(3, "Number of strengths to try of each remedy, 1 or more.", least=1)
    which: str = _remedies("all", WHICH_HELP, choices=WHICH, new_in="0.2", metavar="NAME", advanced=True)
    allow: float = _remedies(
        0.02,
        "Rise of the task loss that a remedy may cost, in nats per token, when its strength is chosen.",
        least=0,
        metavar="NATS",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not set(self.only) <= set(REMEDIES):  # plugins are loaded only for a name that is none of these
            replace(settings_of(type(self))["only"], choices=_all_names()).read(self.only)

    def names(self) -> list[str]:
        """Return the remedies to compare, in the order of the table; those of plugins come last."""
        return [name for name in _all_names() if not self.only or name in self.only]


def _all_names() -> list[str]:
    return [*REMEDIES, *(name for name in plugins_of(OF_PLUGINS) if name not in REMEDIES)]


EVERY_REMEDY = ComparisonSettings()


# Of the controls the one that scales the complete update by one factor, and is compared at equal task loss.
INTERPOLATE = "interpolate"


@dataclass(frozen=True)
class SweepSettings(Settings):
    """Which interventions are measured, and on how much of the evaluation's data.

    Examples:
      ``intruders.SweepSettings(scales=(0, 0.5), controls=("shrink", "interpolate"))``
    """

    scales: tuple[float, ...] = _intervention(
        (0.0, 0.5),
        "Comma-separated intruder scales: 0 removes the intruders, 1 changes nothing.",
        item="scale",
        least=0,
        expected="a number, the share of the intruders to keep: 0 removes them, 1 changes nothing",
        may_be_empty=False,
        by_commas=True,
        metavar="NUMBERS",
    )
    controls: tuple[str, ...] = _intervention(
        ("shrink", "random"),
        "Comma-separated controls: shrink, shrink-output, random, neighbours, update, resized, complement and "
        "interpolate.",
        item="control",
        choices=(*CONTROLS, SHRINK_OUTPUT, INTERPOLATE, INTRUDERS),
        by_commas=True,
        metavar="NAMES",
    )
    which: str = _intervention("all", WHICH_HELP, choices=WHICH, new_in="0.2", metavar="NAME", advanced=True)
    max_documents: int | None = setting(
        None, "Number of documents per corpus; the evaluation's, if None.", least=1
    )
    max_examples: int | None = setting(
        None, "Number of examples per task; the evaluation's, if None.", least=1
    )


# The paper's Tables 3 and 4: the strongest intruder of each matrix, and the vector next to it as the control.
AS_IN_THE_PAPER = SweepSettings(scales=(0.1, 0.3, 0.5, 0.7, 0.9), controls=("neighbours",), which="top")
IN_QUARTERS = SweepSettings(scales=(0.0, 0.25, 0.5, 0.75, 1.0))
