"""The result of a sequence."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..system.result_protocol import JsonResult


@dataclass(frozen=True)
class SequenceResult(JsonResult):
    """Accuracies after each stage, and the intruders against the first base.

    Attributes:
      tasks: the tasks, in the order of training.
      accuracies: after each stage, one per task seen so far.
      intruders: their number after each stage, against the first base.
      vectors: number of examined vectors after each stage.
      steps: number of steps of each stage.
      reached: whether each stage reached the score of ``match``; None without one.
      sources: where the rows of each task are from, of public sets.
      head_steps: per stage and earlier task, for how many steps its head was trained again; empty where heads are
        kept.
    """

    what = "the result of a sequence"
    written_by = "intruders sequence"
    file_name: ClassVar[str] = "sequence.json"
    indent: ClassVar[int] = 2

    tasks: list[str]
    accuracies: list[list[float]]
    intruders: list[int]
    vectors: list[int]
    steps: list[int] = field(default_factory=list)
    reached: list[bool | None] = field(default_factory=list)
    sources: list[str | None] = field(default_factory=list)
    head_steps: list[list[int]] = field(default_factory=list)

    @property
    def average_accuracy(self) -> float:
        """Mean over all tasks of the accuracy after the last stage."""
        return sum(self.accuracies[-1]) / len(self.accuracies[-1])

    @property
    def backward_transfer(self) -> float | None:
        """Mean over earlier tasks of accuracy at the end minus that in their own stage (Lopez-Paz 2017)."""
        last, earlier = self.accuracies[-1], len(self.accuracies) - 1
        if earlier < 1:
            return None
        return sum(last[task] - self.accuracies[task][task] for task in range(earlier)) / earlier

    @property
    def forgetting(self) -> list[float]:
        """The best accuracy of each earlier task before the last stage minus its last accuracy (Chaudhry 2018)."""
        stages, last = self.accuracies[:-1], self.accuracies[-1]
        return [max(row[task] for row in stages[task:]) - last[task] for task in range(len(stages))]

    def to_document(self) -> dict[str, Any]:
        document = super().to_document()
        first = {name: document[name] for name in ("schema", "tasks", "accuracies")}
        measures = ("average_accuracy", "backward_transfer", "forgetting")
        return first | {name: getattr(self, name) for name in measures} | document
