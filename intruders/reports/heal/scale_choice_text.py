"""The choice of one scale for a complete update as text for a terminal."""

from __future__ import annotations

from ...experiments.choose_scale import CHOSEN, ScaleChoice
from ...experiments.healing import TUNED


def scale_choice_lines(choice: ScaleChoice) -> list[str]:
    """Return the printed lines."""
    lines = [
        f"one scale for the complete update, on {choice.corpus} and {choice.task} (nats per token)",
        f"{'scale':>6}{'loss on text':>14}{'task loss':>11}",
    ]
    for point in choice.curve:
        mark = "  chosen" if point.scale == choice.scale else ""
        lines.append(f"{point.scale:>6.3g}{point.text_loss:>14.4f}{point.task_loss:>11.4f}{mark}")
    lines.append(
        f"scale {choice.scale:.3g} forgets least at a task loss of at most {choice.allow:g} above the tuned model's"
    )
    chosen = next(point for point in choice.points if point.name == CHOSEN)
    tuned = next(point for point in choice.points if point.name == TUNED)
    for corpus, measure in chosen.corpora.items():
        before = tuned.corpora[corpus].forgotten
        share = "" if measure.healed is None else f", {measure.healed.estimate:.0%} healed"
        lines.append(
            f"on other documents of {corpus}: forgotten {before.estimate:+.3f} tuned, "
            f"{measure.forgotten.estimate:+.3f} at that scale{share}"
        )
    for task, own in chosen.tasks.items():
        lines.append(
            f"on other examples of {task}: loss {tuned.tasks[task].loss.estimate:.4f} tuned, "
            f"{own.loss.estimate:.4f} at that scale"
        )
    return lines
