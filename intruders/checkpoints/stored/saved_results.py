"""The names of results that are saved beside a model, and say nothing of what it computes."""

from __future__ import annotations

# As commands, pages and a study's runs name them. A record that is written together with the weights is not of these.
SAVED_RESULTS = frozenset(
    {
        "advice.json",
        "attribution.json",
        "audit.json",
        "evaluation.json",
        "findings.json",
        "intervention.json",
        "kl.json",
        "outputs.json",
        "published.json",
        "remedies.json",
        "scale.json",
        "sequence.json",
        "study.json",
    }
)
