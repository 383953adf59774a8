"""Task scores with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..data.task import Example, Task
from ..errors import SettingError
from ..models.answers import BEYOND_TARGET, tokens_of_answers
from ..models.encoding import encode_classification, encode_completions, fitting
from ..models.tuned_model import OpenedModel
from .intervals import Interval, proportion_interval


@dataclass(frozen=True)
class TaskScore:
    """The number of examples of a split that were answered correctly."""

    task: str
    split: str
    right: list[bool]  # per example, so that two models can be paired
    is_held_out: bool = False  # the split is a share of a file that was given as a whole
    source: str | None = None  # of a public set: the hub, or the copy that stood in
    max_new_tokens: int | None = None  # of an answer whose target is not longer; None where none is generated
    unfinished: int = 0  # answers that did not end within their limit

    @property
    def limit(self) -> str | None:
        """Up to where answers were read, for people; None where none was generated."""
        if self.max_new_tokens is None:
            return None
        if self.max_new_tokens == 0:
            return f"{BEYOND_TARGET} tokens more than the target"
        return f"{self.max_new_tokens} tokens"

    @property
    def accuracy(self) -> Interval:
        """Share of right answers with Wilson's 95 % interval."""
        return proportion_interval(sum(self.right), len(self.right))


def score_of_answers(task: Task, split: str, right: list[bool], unfinished: int = 0) -> TaskScore:
    held_out = task.is_held_out and split == "validation"
    limit = tokens_of_answers(task) if task.kind == "causal" else None
    return TaskScore(task.name, split, right, held_out, task.source, limit, unfinished)


def scored_examples(task: Task, split: str | None, max_examples: int | None) -> tuple[str, list[Example]]:
    """Return :func:`first_examples`; raise SettingError for a task that has no right answers (score none)."""
    if task.score == "none":
        raise SettingError(
            f"task {task.name!r} has no right answers to count; measure a loss with --loss-on instead"
        )
    return first_examples(task, split, max_examples)


def first_examples(task: Task, split: str | None, max_examples: int | None) -> tuple[str, list[Example]]:
    """Return the split, by default the test split if it has rows, and its first examples; SettingError for none."""
    chosen = split or ("test" if task.test else "validation")
    examples = task.split(chosen)[:max_examples]
    if not examples:
        raise SettingError(f"the {chosen} split of task {task.name!r} is empty; choose another")
    return chosen, examples


def encoded_examples(opened: OpenedModel, task: Task, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Encode training examples with their targets for the model; those too long for it are skipped."""
    if task.kind == "classification":
        return encode_classification(opened.tokenizer, examples, opened.labels or task.labels, opened.context)
    where = f"train split of task {task.name!r}"
    return encode_completions(opened.tokenizer, examples, opened.context, drop_too_long=True, where=where)


def readable(
    task: Task, tokenizer: Any, context: int, *, max_examples: int | None, drop_too_long: bool
) -> Task:
    """Return the task with the first examples of the split that is scored, and without those that are dropped.

    An example is too long if its prompt and completion do not fit in ``context`` tokens; a text to classify is cut.
    Raises SettingError for an example that is too long, unless such are dropped; and if none is left.
    """
    split, examples = first_examples(task, None, max_examples)
    if task.kind != "causal":
        return task
    where = f"{split} split of task {task.name!r}"
    if drop_too_long:
        examples = fitting(tokenizer, examples, context, where)
    else:
        encode_completions(tokenizer, examples, context, where=where)
    return replace(task, test=examples) if split == "test" else replace(task, validation=examples)
