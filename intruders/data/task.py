"""The records of a task, whatever its source; the number that scores an answer in words, and the names of tasks."""

import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ..errors import SettingError

Kind = Literal["causal", "classification"]
Score = Literal["class", "final-number", "exact", "none"]
SPLITS = ("train", "validation", "test")
# Of a generated answer where nothing else is asked for: a model may reason before it answers.
ANSWER_TOKENS = 256
_TRUTH = {"false": 0.0, "true": 1.0}  # as numbers, as which other rows may have them


Message = tuple[str, str]  # role and content


@dataclass(frozen=True)
class Conversation:
    """A prompt and a completion of messages, which a tokenizer's chat template makes texts of."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]


@dataclass(frozen=True)
class Example:
    """One row. Causal: prompt and the completion to learn. Classification: text (or a pair) and its label."""

    text: str
    target: str  # completion or label; of a conversation, the content of the answer
    pair: str | None = None  # second text of a classification
    origin: str = field(default="", compare=False)  # where a person finds the row: "line 41 of rows.jsonl"
    conversation: Conversation | None = None  # what is learned in place of the texts, where it is given


@dataclass(frozen=True)
class Task:
    """The examples to learn and how answers are scored."""

    name: str
    kind: Kind
    score: Score
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    # Of a classification, sorted: a label's place is its class number. They are those of the whole training
    # split, also where only part of it is used.
    labels: list[str] = field(default_factory=list)
    is_held_out: bool = False  # the validation split is a share of a file that was given as a whole
    # Of a public set: "hub PATH", or "copy DIGEST" of the local files that stood in.
    source: str | None = None
    max_new_tokens: int = ANSWER_TOKENS  # that a generated answer may have; see models/answers.py

    def __post_init__(self) -> None:
        if self.kind == "classification" and not self.labels:
            labels = sorted({example.target for example in self.train}, key=_label_order)
            object.__setattr__(self, "labels", labels)

    def split(self, name: str) -> list[Example]:
        if name not in SPLITS:
            raise SettingError(f"split {name!r} is not known; expected one of {', '.join(SPLITS)}")
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]

    def limited(self, train: int | None, evaluation: int | None) -> "Task":
        """Return the task with at most this many rows in training and in each evaluation split."""
        return replace(
            self,
            # The first rows will do: every source gives its rows in an order drawn by seed.
            train=self.train[:train],
            validation=self.validation[:evaluation],
            test=self.test[:evaluation],
        )

    def fingerprint(self) -> dict[str, dict[str, int | str]]:
        """Return rows and SHA-256 of each split: two runs used the same data if these agree."""
        prints: dict[str, dict[str, int | str]] = {}
        for name in SPLITS:
            digest = hashlib.sha256()
            for example in self.split(name):
                content: dict[str, Any] = {
                    "text": example.text,
                    "target": example.target,
                    "pair": example.pair,
                }
                if example.conversation is not None:
                    content["conversation"] = asdict(example.conversation)
                digest.update(json.dumps(content, sort_keys=True).encode() + b"\n")
            prints[name] = {"rows": len(self.split(name)), "sha256": digest.hexdigest()}
        return prints


def checked(task: Task) -> Task:
    """Return the task itself. SettingError for an empty split, or a label that training lacks."""
    if not task.train and task.is_held_out and task.validation:
        raise SettingError(
            f"task {task.name!r}: its only row is taken for validation, which leaves none to train on; expected two "
            "rows or more; pass more rows, or other rows to validate on as ?validation=FILE"
        )
    for name in ("train", "validation"):
        if not task.split(name):
            raise SettingError(
                f"task {task.name!r}: the {name} split is empty; expected at least one row; pass data with rows"
            )
    if task.kind == "classification":
        if len(task.labels) < 2:
            raise SettingError(
                f"task {task.name!r}: every row of the train split has the label {task.labels[0]!r}; "
                "expected two labels or more; pass rows of every label, and rows to score as ?validation=FILE"
            )
        _tell_of_spellings(task)
        known = set(task.labels)
        for name in ("validation", "test"):
            for row, example in enumerate(task.split(name)):
                if example.target not in known:
                    where = f"row {row + 1} of the {name} split"
                    if example.origin:
                        where = f"{example.origin} (the {name} split)"
                    shown, more = ", ".join(map(repr, task.labels[:8])), len(task.labels) - 8
                    raise SettingError(
                        f"task {task.name!r}: {where} has the label {example.target!r}, which the train split has not; "
                        f"expected {shown}{f' and {more} more' if more > 0 else ''}"
                    )
    return task


def _tell_of_spellings(task: Task) -> None:
    # Labels that differ only in spaces, in capitals, or as 0, 0.0 and False do are classes of their own.
    first: dict[str | float, str] = {}
    for label in task.labels:
        number, _ = _label_order(label.strip())
        word = label.strip().casefold()
        meant = _TRUTH.get(word, word) if number == float("inf") else number
        other = first.setdefault(meant, label)
        if other != label:
            warnings.warn(
                f"task {task.name!r}: the labels {other!r} and {label!r} are two classes; write them in one way if "
                "they mean one",
                stacklevel=4,
            )


def _label_order(label: str) -> tuple[float, str]:
    # Numbers in numerical order, then words in alphabetical order. The word "nan" is no number here.
    try:
        number = float(label)
    except ValueError:
        number = math.inf
    return (math.inf if math.isnan(number) else number), label


def halves_of_task(task: Task, max_examples: int | None) -> tuple[list[Example], list[Example]]:
    """Return at most ``max_examples`` to choose by and to report on: validation and test, or halves of validation."""
    if task.test:
        halves = task.validation[:max_examples], task.test[:max_examples]
    else:
        middle = (len(task.validation) + 1) // 2
        halves = task.validation[:middle][:max_examples], task.validation[middle:][:max_examples]
    if not all(halves):
        raise SettingError(
            f"task {task.name!r} has too few examples to score, {len(task.validation)}; expected 2 or more, since "
            "strengths are chosen on one half and shown on the other; pass a task with more"
        )
    return halves


def names_given(given: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return one name or path, or several, as a list of texts.

    >>> names_given("pydoc"), names_given(("pydoc", "notes.txt"))
    (['pydoc'], ['pydoc', 'notes.txt'])
    """
    return [os.fspath(name) for name in ([given] if isinstance(given, str | os.PathLike) else given)]


_UNSIGNED = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_NUMBER = re.compile(
    rf"(?P<sign>-?)(?:\\[dt]?frac\{{(?P<above>-?{_UNSIGNED})\}}\{{(?P<below>-?{_UNSIGNED})\}}"
    rf"|(?P<first>{_UNSIGNED})(?:/(?P<divisor>{_UNSIGNED}))?)"
)


def final_number(text: str) -> float | None:
    r"""Return the last number in ``text``, without thousands separators; None if it has no number.

    A fraction, written ``a/b`` or as LaTeX does, is one number.

    >>> final_number("8 / 2 = 4, so 1,204.50"), final_number(r"\frac{1}{2}"), final_number("-3/4"), final_number("none")
    (1204.5, 0.5, -0.75, None)
    """
    numbers = [*_NUMBER.finditer(text.replace(",", "").replace("\N{MINUS SIGN}", "-"))]
    if not numbers:
        return None
    last = numbers[-1]
    value = float(last["above"] or last["first"])
    divisor = float(last["below"] or last["divisor"] or 1)
    if divisor == 0 or not math.isfinite(value):
        return None
    return -value / divisor if last["sign"] else value / divisor
