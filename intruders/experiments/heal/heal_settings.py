"""How doses are learned, on how much text and how many examples, and what they may cost."""

from __future__ import annotations

from dataclasses import dataclass

from ...settings import Settings, setting

PER = ("matrix", "direction", "layer", "kind")


@dataclass(frozen=True)
class HealSettings(Settings):
    """How the doses are learned and chosen.

    Examples:
      ``intruders.HealSettings(per="layer", steps=80)``
    """

    per: str = setting(
        "matrix",
        "What has a dose of its own: matrix, direction (of a low-rank update), layer or kind (of module).",
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
    weight: float = setting(
        3.0,
        "Weight of the divergence from the tuned model on examples beside that from the base on text, at the first "
        "step; it then follows --allow.",
        above=0,
        metavar="NUMBER",
        panel="Healing",
    )
    rate: float = setting(
        0.06,
        "Learning rate of the doses at the first step; it falls to zero.",
        above=0,
        most=1,
        metavar="NUMBER",
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
    estimate: bool = setting(
        False,
        "Masked models: mask a random 15 % of the tokens in one pass. This is faster but measures a different "
        "quantity.",
        panel="Measures",
    )


HEALING = HealSettings()
