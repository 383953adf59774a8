"""What a healing learns, on how much text and how many examples, and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import SettingError
from ...settings import Settings, setting

LEARN = ("doses", "weights")
SELF, RANDOM_TOKENS = OWN_TEXT = "self", "random-tokens"  # that the base writes, in the place of a corpus
PER = ("matrix", "direction", "layer", "block", "kind")
SHARE, BLOCKS, REPLAY, DOSES, WEIGHTS = "share", "blocks", "replay", "doses", "weights"
# What else is learned and reported beside the healing: of these the last two learn the weights on other text.
LEARNED_AS_WEIGHTS = (WEIGHTS, REPLAY, SELF, RANDOM_TOKENS)
RIVALS = (SHARE, BLOCKS, DOSES, *LEARNED_AS_WEIGHTS)
_RATES, _WEIGHTS = {DOSES: 0.06, WEIGHTS: 5e-4}, {DOSES: 3.0, WEIGHTS: 30.0}


@dataclass(frozen=True)
class HealSettings(Settings):
    """What is learned, and how it is chosen.

    Examples:
      ``intruders.HealSettings(per="layer", steps=80)``
    """

    learn: str = setting(
        DOSES,
        "What is learned: one dose for every matrix, or the weights of the update itself (the factors of an adapter).",
        choices=LEARN,
        panel="Healing",
    )
    per: str = setting(
        "matrix",
        "What has a dose of its own: matrix, direction (of a low-rank update), layer, block (a third of the layers) or "
        "kind (of module).",
        choices=PER,
        metavar="PART",
        panel="Healing",
    )
    steps: int = setting(40, "Number of steps of learning, 1 or more.", least=1, metavar="N", panel="Healing")
    allow: float = setting(
        0.01,
        "Rise of the task loss above the tuned model's that is allowed, in nats per token.",
        least=0,
        metavar="NATS",
        panel="Healing",
    )
    weight: float | None = setting(
        None,
        "Weight of the divergence from the tuned model on examples beside that from the base on text, at the first "
        "step; it then follows --allow.",
        above=0,
        unless_given="default: 3 for doses, 30 for weights",
        metavar="NUMBER",
        panel="Healing",
    )
    rate: float | None = setting(
        None,
        "Learning rate at the first step; it falls to zero.",
        above=0,
        unless_given="default: 0.06 for doses, 0.0005 for weights",
        most=1,
        metavar="NUMBER",
        panel="Healing",
    )
    rivals: tuple[str, ...] = setting(
        (),
        "Report beside the healing: the best share of the update; doses for three blocks of layers, or for every "
        "matrix; the weights, the same with the text replayed, or learned on samples of the base (self) or on random "
        "tokens.",
        choices=RIVALS,
        by_commas=True,
        metavar="NAMES",
        panel="Healing",
    )
    max_documents: int = setting(
        64,
        "Number of documents per corpus, sampled with --seed: half are learned from, half are reported.",
        least=2,
        metavar="N",
        panel="Measures",
    )
    max_tokens: int = setting(
        192,
        "Number of tokens of each document, from its start.",
        least=2,
        metavar="TOKENS",
        panel="Measures",
    )
    max_examples: int = setting(
        64,
        "Number of examples of each split: training examples are learned from, validation examples choose, and test "
        "examples are reported.",
        least=1,
        metavar="N",
        panel="Measures",
    )
    report_examples: int | None = setting(
        None,
        "Number of test examples that are reported.",
        least=1,
        unless_given="default: as --max-examples",
        metavar="N",
        panel="Measures",
    )
    estimate: bool = setting(
        False,
        "Masked models: mask a random 15 % of the tokens in one pass. This is faster but measures a different "
        "quantity.",
        panel="Measures",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learn == WEIGHTS and self.per != "matrix":
            raise SettingError(
                f"per is {self.per!r}, and weights have no doses that could be shared; leave it out, or pass --learn "
                "doses"
            )

    def rate_of(self, learn: str) -> float:
        return _RATES[learn] if self.rate is None or learn != self.learn else self.rate

    def weight_of(self, learn: str) -> float:
        return _WEIGHTS[learn] if self.weight is None or learn != self.learn else self.weight


HEALING = HealSettings()
