"""The tables of the usual recipe."""

from .published_data import finding_of, runs_by_setting
from .words import forgotten_by_seed, intruders_by_seed, lacking_of, markdown, with_ends


def recipe_verdicts() -> list[str]:
    """The effect that was named in advance, at the fastest and at the mildest rates of the recipe."""
    rows = []
    for answer in finding_of("the-usual-recipe", "structure")["answers"]:
        effect = with_ends([answer[name] for name in ("estimate", "low", "high")])
        rows.append(
            [
                f"{answer['where'].split()[-2]} rate",
                f"*{answer['decision']}*{lacking_of(answer)}",
                f"{effect}; {answer['expected']}",
                str(answer["seeds"]),
            ]
        )
    return markdown(
        [
            "each method at its",
            "verdict",
            "nats per token forgotten, LoRA minus full (95 % CI); expected",
            "seeds",
        ],
        rows,
    )


def recipe_runs() -> list[str]:
    """Each setting of the-usual-recipe: what every seed forgot, and means of the rest. A star is a missed score."""
    rows = []
    for setting, own in runs_by_setting("the-usual-recipe"):
        mean = own[
            ["trained_steps", "accuracy", "update_frobenius", "relative_update", "effective_rank"]
        ].mean()
        rows.append(
            [
                *setting,
                f"{mean['trained_steps']:.0f}",
                f"{mean['accuracy']:.2f}",
                forgotten_by_seed(own),
                intruders_by_seed(own),
                f"{mean['update_frobenius']:.1f}",
                f"{100 * mean['relative_update']:.1f} %",
                f"{mean['effective_rank']:.0f}",
            ]
        )
    return markdown(
        [
            "method, rank",
            "rate",
            "steps",
            "accuracy",
            "forgotten, by seed",
            "intruders, by seed",
            "update norm",
            "relative update",
            "effective rank",
        ],
        rows,
    )
