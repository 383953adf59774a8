"""A sweep of interventions as text for a terminal: the trade-off, and whether the controls do as well."""

from ..experiments.sweep import CHANGE, Intervention, InterventionSweep

MEASURE = ".4f"  # the format of a loss or an accuracy


def sweep_lines(sweep: InterventionSweep) -> list[str]:
    audit = sweep.audit
    where = f"{audit.affected:,} of {len(audit.matrices):,} matrices (k {audit.k}, epsilon {audit.epsilon:g})"
    lines = [f"{audit.intruders:,} intruders in {where}"]
    if sweep.which == "top":
        lines.append(
            f"scaled: the intruder with the largest singular value of each matrix, {audit.affected:,} in all"
        )
    width = 2 + max((len(point.control) for point in sweep.points), default=0)
    for name, loss in sweep.tuned_point.losses.items():
        sides = f"base {sweep.base_losses[name].loss.text(MEASURE)}, tuned {loss.loss.text(MEASURE)}"
        lines += ["", f"{loss.losses[0].measure} on {name}: {sides}"]
        lines += [
            f"  {_label(point, width)}  {point.losses[name].loss.estimate:.4f}  "
            f"{sweep.trade(point).losses[name].text(CHANGE)}"
            for point in sweep.points
        ]
    for name, score in sweep.tuned_point.scores.items():
        examples = f"{len(score.right)} examples"
        lines += ["", f"accuracy on {name} ({examples}): tuned {score.accuracy.text(MEASURE)}"]
        lines += [
            f"  {_label(point, width)}  {point.scores[name].accuracy.estimate:.4f}  "
            f"{sweep.trade(point).accuracies[name].text(CHANGE)}"
            for point in sweep.points
        ]
    if sweep.curve:
        lines += ["", "gain over interpolation at equal task loss, nats per token"]
        gains = [(point, point.gain) for point in sweep.points if point.gain is not None]
        lines += [f"  {_label(point, width)}  {gain.text(CHANGE)}" for point, gain in gains]
    lines += ["", "norm of the changed updates, 1 being the tuned model's"]
    for point in sweep.points:
        alone = f"  ({point.left_alone:,} matrices have no such control and stay as tuned)"
        lines.append(f"  {_label(point, width)}  {point.update_norm:.4f}{alone if point.left_alone else ''}")
    paired = "changes are against the tuned model, with 95 % intervals, paired by document and example"
    return [*lines, "", paired, "", *sweep.verdicts()]


def _label(point: Intervention, width: int) -> str:
    return f"{point.control:<{width}}{point.scale:>5g}"
