"""The remedy `surgery` in a comparison: by the sensitivities of the task that the model was tuned for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import SettingError
from ...measures.sensitivities import SingularDirections
from ...mitigation.remedies.remedy import Case
from ...mitigation.remedies.surgery import Surgery
from ..bench.bench import Bench


def of_task(surgeries: Sequence[Surgery], task: str, cases: Sequence[Case], bench: Bench) -> list[Surgery]:
    """Return one remedy at several strengths with a task's sensitivities, which are measured once.

    Raises:
      SettingError: no update in reach has two singular values to compare.
    """
    first = surgeries[0]
    reached = {case.matrix.name: first.directions(case) for case in cases if first.reaches(case.matrix.name)}
    if reached and all(len(part.values) < 2 for part in reached.values()):
        raise SettingError(
            "changes nothing in this model: every update that it reaches has rank 1, and a single singular value "
            "keeps its size"
        )
    directions = {name: SingularDirections(part.left, part.right) for name, part in reached.items()}
    sensitivities = bench.sensitivities(directions, task, first.examples) if directions else {}
    return [replace(surgery, task=task, sensitivities=sensitivities) for surgery in surgeries]
