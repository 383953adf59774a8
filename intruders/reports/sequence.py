"""A sequence of fine-tunings as text for a terminal."""

from ..training.sequence_result import SequenceResult


def sequence_lines(result: SequenceResult) -> list[str]:
    names = [f"task {number}" for number in range(1, len(result.tasks) + 1)]
    lines = [f"{name}: {task}" for name, task in zip(names, result.tasks, strict=True)]
    lines.append("after      " + "".join(f"{name:>9}" for name in names) + "   intruders")
    for stage, row in enumerate(result.accuracies):
        cells = "".join(f"{value:9.3f}" for value in row).ljust(9 * len(names))
        line = f"{names[stage]:<11}{cells}   {result.intruders[stage]} of {result.vectors[stage]}"
        if stage < len(result.reached) and result.reached[stage] is False:
            line += f"   did not reach the score in {result.steps[stage]} steps"
        lines.append(line)
    if result.head_steps:
        lines.append(
            "before every test, the heads of earlier tasks were trained again on the frozen body, from where their own "
            "stage left them and for as many steps"
        )
    lines.append(f"average accuracy {result.average_accuracy:.3f}")
    if result.backward_transfer is not None:
        lines[-1] += f", backward transfer {result.backward_transfer:+.3f}"
    return lines
