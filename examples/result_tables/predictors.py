"""The tables of what predicts forgetting."""

import math

from .published_data import finding_of, runs_by_setting
from .words import intruders_by_seed, markdown, scientific

# What findings.json has before and after the name of a number that is correlated with what was forgotten.
_CORRELATION = ("rank correlation of ", " with the loss change")


def runs_at_one_score() -> list[str]:
    """Each setting of what-predicts-forgetting: what every seed forgot, its intruders, and means of the rest."""
    rows = []
    for setting, own in runs_by_setting("what-predicts-forgetting"):
        mean = own[
            ["accuracy", "kl_prompts", "update_frobenius", "update_output_energy", "a_movement"]
        ].mean()
        rows.append(
            [
                *setting,
                f"{mean['accuracy']:.2f}",
                ", ".join(f"{value:.3f}" for value in own["loss_change"]),
                f"{mean['kl_prompts']:.2f}",
                intruders_by_seed(own),
                f"{mean['update_frobenius']:.1f}",
                scientific(mean["update_output_energy"], 1),
                "-" if math.isnan(mean["a_movement"]) else f"{mean['a_movement']:.2f}",
            ]
        )
    return markdown(
        [
            "method, rank",
            "rate",
            "accuracy",
            "forgotten, by seed",
            "KL on prompts",
            "intruders, by seed",
            "update norm",
            "output energy",
            "movement of A",
        ],
        rows,
    )


def correlations() -> list[str]:
    """The rank correlation of every number of a run with what it forgot, the largest first."""
    finding = finding_of("what-predicts-forgetting", "predictors")
    prefix, suffix = _CORRELATION
    rows = [
        (effect["estimate"], effect["what"].removeprefix(prefix).removesuffix(suffix), effect)
        for effect in finding["effects"]
        if effect["what"].startswith(prefix) and effect["what"].endswith(suffix)
    ]
    return markdown(
        ["number of a run", "rank correlation with forgetting over runs (95 % CI, settings resampled)"],
        [
            [name, f"{estimate:+.2f} [{effect['low']:+.2f}, {effect['high']:+.2f}]"]
            for estimate, name, effect in sorted(rows, key=lambda row: -row[0])
        ],
    )
