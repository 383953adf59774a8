"""Halves of the data: one to choose by, and one, which had no part in the choice, to report on."""

from __future__ import annotations

import random
from dataclasses import replace

from ..errors import SettingError
from .corpora import Corpus
from .task import Example, Task


def halves_of_corpus(corpus: Corpus, seed: int) -> tuple[Corpus, Corpus]:
    """Split the documents by seed into those to choose by and those to report on; SettingError for fewer than two."""
    if len(corpus.documents) < 2:
        raise SettingError(
            f"corpus {corpus.name!r} has 1 document; expected 2 or more, since strengths are chosen on one half and "
            "shown on the other; pass a larger corpus or --max-documents; a text file is cut at blank lines into "
            "documents of 4,000 characters or more, and a data file has a document per row of its column 'text'"
        )
    documents = list(corpus.documents)
    random.Random(f"halves {seed}").shuffle(documents)
    middle = len(documents) // 2
    return replace(corpus, documents=documents[:middle]), replace(corpus, documents=documents[middle:])


def halves_of_task(task: Task, max_examples: int | None) -> tuple[list[Example], list[Example]]:
    """Return at most ``max_examples`` to choose by and to report on: validation and test, or halves of validation."""
    if task.test:
        halves = task.validation[:max_examples], task.test[:max_examples]
    else:
        middle = (len(task.validation) + 1) // 2
        halves = task.validation[:middle][:max_examples], task.validation[middle:][:max_examples]
    if not all(halves):
        raise SettingError(
            f"task {task.name!r} has {len(task.validation)} examples to score; expected 2 or more, since strengths are "
            "chosen on one half and shown on the other; pass a task with more"
        )
    return halves
