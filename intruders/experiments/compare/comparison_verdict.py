"""What a comparison says in a sentence: which remedy to use, and the command that writes it."""

from __future__ import annotations

import shlex
from typing import Any

from ...audits.audit_settings import AuditSettings
from ...audits.command_line import changed_options
from ...measures.intervals import Interval
from ..bench.point import Point
from .compared import ComparedRemedy, RemedyComparison
from .tried_strengths import strength_name


def winner(comparison: RemedyComparison) -> ComparedRemedy | None:
    """Return the remedy with the largest clear gain over interpolation at equal task loss, within the allowance.

    A remedy that clearly beats its dose comes before one that does not.
    """
    ranked = [*comparison.beyond_dose, *comparison.better]
    return next((remedy for remedy in ranked if not remedy.is_over_allowance), None)


def has_forgotten(comparison: RemedyComparison) -> bool:
    """Return whether tuning clearly raised the loss on text."""
    return comparison.forgotten.low > 0


def sentence(comparison: RemedyComparison) -> str:
    """Say which remedy to use, with its numbers, or that none is clearly better than interpolation."""
    if not has_forgotten(comparison):
        return (
            "Tuning did not clearly raise the loss on text "
            f"({nats(comparison.forgotten)} nats per token), so there is nothing to heal: keep the tuned model."
        )
    best = winner(comparison)
    if best is not None and best.chosen is not None and best.chosen.gain is not None:
        text = (
            f"Use {best.name} at {_strength(best)}: its loss is {nats(best.chosen.gain)} nats per token below that of "
            "interpolation at equal task loss"
        )
        if best not in comparison.beyond_dose and best.controls:
            text += "; the same dose without its directions is not clearly worse"
        return f"{text}.{_accuracies(comparison, best.chosen)}"
    chosen = next((remedy for remedy in comparison.remedies if remedy.name == "interpolate"), None)
    if chosen is None or chosen.chosen is None:
        return "No remedy is clearly better than turning the update down."
    text = f"No remedy is clearly better than turning the update down: use interpolate at {_strength(chosen)}"
    if chosen.is_over_allowance:
        text += f", though no alpha keeps the task loss within {comparison.allow:.3g} nats per token"
    return f"{text}.{_accuracies(comparison, chosen.chosen)}"


def _accuracies(comparison: RemedyComparison, chosen: Point) -> str:
    """Say what the dose costs the task; empty if its score is not an accuracy."""
    own = chosen.accuracies.get(comparison.target)
    tuned = comparison.tuned_point.accuracies.get(comparison.target)
    if own is None or tuned is None:
        return ""
    return f" Its accuracy on {comparison.target} is {own:.2f}, the tuned model's {tuned:.2f}."


def command(comparison: RemedyComparison, out: str = "DIR") -> str | None:
    """Return the shell line that writes the model that :func:`sentence` names."""
    if not has_forgotten(comparison):
        return None
    best = winner(comparison) or next(
        (remedy for remedy in comparison.remedies if remedy.name == "interpolate"), None
    )
    if best is None or best.chosen is None or best.chosen.strength is None:
        return None
    parts = ["intruders", "mitigate", comparison.base, comparison.tuned]
    strength = f"{best.chosen.strength:g}"
    if best.name == "doses":
        return _healing_command(comparison, out)
    if best.name == "intruders":
        parts += ["--scale", strength]
        if (which := comparison.settings.get("which", "all")) != "all":
            parts += ["--which", str(which)]
    else:
        parts += ["--remedy", best.name, "--strength", strength]
    if best.name == "surgery":
        parts += ["--task", str(comparison.settings.get("task") or comparison.target)]
        if (data_seed := comparison.settings.get("data_seed")) is not None:
            parts += ["--data-seed", str(data_seed)]
    if best.name == "drop" and comparison.settings["seed"]:
        parts += ["--seed", str(comparison.settings["seed"])]
    if comparison.tuned_kind != "checkpoint" and _needs_a_checkpoint(best, comparison):
        parts += ["--as", "checkpoint"]
    names = ("k", "epsilon", "include", "exclude")
    audited: dict[str, Any] = {name: comparison.settings.get(name) or () for name in names}
    parts += changed_options(AuditSettings(**audited), names)
    return shlex.join([*parts, "--out", out])


def _healing_command(comparison: RemedyComparison, out: str) -> str:
    """Return the command that learns doses again and writes the model."""
    parts = ["intruders", "heal", comparison.base, comparison.tuned]
    parts += ["--task", str(comparison.settings.get("task") or comparison.target)]
    for corpus in comparison.base_point.losses:
        parts += ["--loss-on", corpus]
    return shlex.join([*parts, "--allow", f"{comparison.allow:g}", "--out", out])


def nats(value: Interval) -> str:
    return value.text(".3g")


def _strength(remedy: ComparedRemedy) -> str:
    assert remedy.chosen is not None
    return f"{strength_name(remedy.name)} {remedy.chosen.strength:g}"


def _needs_a_checkpoint(remedy: ComparedRemedy, comparison: RemedyComparison) -> bool:
    """Return whether a remedy needs a checkpoint: adapters cannot store single entries or change full tensors."""
    from ...mitigation.remedies.every_remedy import known_remedies

    cls = known_remedies().get(remedy.name)
    if cls is None:
        return False
    return not cls.fits_an_adapter or (cls.reach == "model" and bool(comparison.others))
