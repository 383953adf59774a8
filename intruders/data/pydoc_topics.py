"""Which chapter of Python's documentation is this sentence from? A real task that comes with every Python.

``pydoc_data.topics`` is installed with Python. Its sentences are the rows, the chapter's name is the label.
The text differs between versions of Python, so scores compare only within one; a run records the fingerprint.
"""

from __future__ import annotations

import random
import re

from ..errors import SettingError
from .task import Example, Task

# Chapters that hold none of each other's text, in three groups of four of about equal size.
GROUPS = (
    ("specialnames", "debugger", "typesseq", "assignment"),
    ("compound", "string-methods", "typesmapping", "execmodel"),
    ("types", "formatstrings", "comparisons", "import"),
)
_PER_TOPIC = 200  # of the largest chapters at most this many sentences, lest one label be most of the data
_VALIDATION, _TEST = 0.15, 0.15


def pydoc_topics(group: int | None = None, seed: int = 0) -> Task:
    """Load the task ``pydoc-topics`` (12 labels), or its disjoint sub-task ``-1``, ``-2`` or ``-3`` (4 labels).

    ``group`` counts from 1. Every label is in each split by the same share.
    """
    topics = sum(GROUPS, ()) if group is None else GROUPS[group - 1]
    train: list[Example] = []
    validation: list[Example] = []
    test: list[Example] = []
    for topic in topics:
        sentences = topic_sentences(topic)
        random.Random(f"pydoc-topics {seed} {topic}").shuffle(sentences)
        rows = [Example(text=sentence, target=topic) for sentence in sentences[:_PER_TOPIC]]
        for_validation, for_test = round(_VALIDATION * len(rows)), round(_TEST * len(rows))
        validation += rows[:for_validation]
        test += rows[for_validation : for_validation + for_test]
        train += rows[for_validation + for_test :]
    for split in (train, validation, test):
        random.Random(f"pydoc-topics {seed}").shuffle(split)
    name = "pydoc-topics" if group is None else f"pydoc-topics-{group}"
    return Task(name, "classification", "class", train, validation, test)


def topic_sentences(topic: str) -> list[str]:
    """Return the sentences of a chapter, each once, in order: no headings, grammars or interpreter sessions."""
    from pydoc_data.topics import topics

    if topic not in topics:
        raise SettingError(
            f"this Python's pydoc_data.topics has no chapter {topic!r}, which task pydoc-topics needs; "
            "use another version of Python"
        )
    sentences: dict[str, None] = {}
    for paragraph in re.split(r"\n\s*\n", topics[topic]):
        lines = [line.strip() for line in paragraph.strip().splitlines()]
        text = " ".join(lines)
        is_heading = bool(lines) and re.fullmatch(r"[*=\-~^\"]+", lines[-1]) is not None
        if is_heading or "::=" in text or ">>>" in text:
            continue
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"])", text):
            if 6 <= len(sentence.split()) <= 60 and sentence[-1] in ".:!?":
                sentences[sentence] = None
    return list(sentences)
