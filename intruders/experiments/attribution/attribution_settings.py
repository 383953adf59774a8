"""On how much text and how many examples a rise is split, and how exactly."""

from __future__ import annotations

from dataclasses import dataclass

from ...settings import Settings, setting


@dataclass(frozen=True)
class AttributionSettings(Settings):
    """How the rise of a loss is split into parts.

    Examples:
      ``intruders.AttributionSettings(max_documents=64)``
    """

    nodes: int = setting(
        5,
        "Number of Gauss-Legendre nodes of the path integral, 2 or more. More follow where the parts miss the "
        "measured rise by over 2 %.",
        least=2,
        most=32,
        metavar="N",
        panel="Attribution",
    )
    check: int = setting(
        5,
        "Number of the largest matrices that are left out of the tuned model one by one, as a check; 0 for none.",
        least=0,
        metavar="N",
        panel="Attribution",
    )
    max_documents: int = setting(
        32,
        "Number of documents per corpus, sampled with --seed.",
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
        "Number of validation examples per task.",
        least=2,
        metavar="N",
        panel="Measures",
    )


ATTRIBUTION = AttributionSettings()
