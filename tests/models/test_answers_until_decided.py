"""Whether an accuracy is reached, against all outcomes; and that no more answers are generated than decide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from intruders.data.task import Example, Task
from intruders.models import answers
from intruders.models.answers import Answer, Graded, outcomes, outcomes_until_decided
from intruders.models.tuned_model import OpenedModel
from tests.tiny import save_llama

EXAMPLES = [Example(text=f"question {number}:", target=f" {number}.") for number in range(40)]
TASK = Task(name="numbers", kind="causal", score="final-number", train=[], validation=EXAMPLES, test=[])


@dataclass
class Work:
    """Numbers of examples whose targets were read, and of those whose answers were generated, call by call."""

    read: list[int] = field(default_factory=list)
    generated: list[int] = field(default_factory=list)


def number_of(example: Example) -> int:
    return int(example.target.strip(" ."))


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Of the 40 examples the targets of 20 to 29 are settled; of the others every third answer is right."""
    done = Work()

    def targets(opened: Any, examples: Sequence[Example], batch_size: int) -> Graded:
        done.read.append(len(examples))
        count = len(examples)
        return Graded([0.0] * count, [1] * count, [20 <= number_of(example) < 30 for example in examples])

    def generated(opened: Any, examples: list[Example], **options: Any) -> list[Answer]:
        done.generated.append(len(examples))
        numbers = [number_of(example) for example in examples]
        return [Answer(f" {number if number % 3 == 0 else 99}.", has_ended=True) for number in numbers]

    monkeypatch.setattr(answers, "_encoded", lambda opened, examples: examples)
    monkeypatch.setattr(answers, "_targets", targets)
    monkeypatch.setattr(answers, "generated_answers", generated)
    return done


def reached(accuracy: float) -> list[bool | None]:
    return outcomes_until_decided(OpenedModel(nn.Identity(), None, 64), TASK, EXAMPLES, accuracy=accuracy)


def test_what_is_reached_has_all_outcomes(work: Work) -> None:
    # 20 to 29, and 0, 3, ..., 18 and 30, 33, 36, 39.
    expected = [20 <= number < 30 or number % 3 == 0 for number in range(40)]
    assert sum(expected) == 21
    assert reached(0.5) == expected
    assert (sum(work.read), sum(work.generated)) == (40, 30)


def test_what_cannot_be_reached_is_not_looked_at_to_the_end(work: Work) -> None:
    # Of the first 16, which are 0 to 15, 6 are right and 10 wrong: at best 30 of 40.
    right = reached(31 / 40)
    assert (work.read, work.generated) == ([16], [16])
    assert (right.count(None), right.count(False)) == (24, 10)
    # Of the other 24, ten are settled, and 14 are generated in one go: 9 of them are wrong.
    assert None not in reached(30 / 40)
    assert (work.read[1:], work.generated[1:]) == ([16, 24], [16, 14])


def test_on_a_model_they_are_all_outcomes(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "llama")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    opened = OpenedModel(model, tokenizer, 64)
    given = outcomes(opened, TASK, EXAMPLES[:4])
    share = sum(given) / 4
    assert outcomes_until_decided(opened, TASK, EXAMPLES[:4], accuracy=share) == given
