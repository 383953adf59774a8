"""Whether an accuracy is reached, against all outcomes; and that no more answers are generated than decide it."""

from __future__ import annotations

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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of generated answers. The first ten targets are settled; of the others every third answer is right."""
    counts: list[int] = []

    def targets(*given: Any) -> Graded:
        return Graded([0.0] * 40, [1] * 40, None, [number < 10 for number in range(40)])

    def generated(opened: Any, examples: list[Example], **options: Any) -> list[Answer]:
        counts.append(len(examples))
        numbers = [int(example.target.strip(" .")) for example in examples]
        return [Answer(f" {number if number % 3 == 0 else 99}.", has_ended=True) for number in numbers]

    monkeypatch.setattr(answers, "_targets", targets)
    monkeypatch.setattr(answers, "generated_answers", generated)
    return counts


def reached(accuracy: float) -> list[bool | None]:
    return outcomes_until_decided(OpenedModel(nn.Identity(), None, 64), TASK, EXAMPLES, accuracy=accuracy)


def test_what_is_reached_has_all_outcomes(asked: list[int]) -> None:
    # 10 settled, and 12, 15, ..., 39.
    expected = [number < 10 or number % 3 == 0 for number in range(40)]
    assert sum(expected) == 20
    assert reached(0.5) == expected
    assert sum(asked) == 30


def test_what_cannot_be_reached_is_not_asked_to_the_end(asked: list[int]) -> None:
    # Of the first 16, from 10 to 25, 5 are right and 11 wrong: at best 29 of 40.
    right = reached(0.75)
    assert asked == [16]
    assert right.count(None) == 14
    assert right.count(False) == 11
    asked.clear()
    assert None not in reached(29 / 40)
    assert asked == [16, 14]


def test_on_a_model_they_are_all_outcomes(tmp_path: Path) -> None:
    folder = save_llama(tmp_path / "llama")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    opened = OpenedModel(model, tokenizer, 64)
    given = outcomes(opened, TASK, EXAMPLES[:4])
    share = sum(given) / 4
    assert outcomes_until_decided(opened, TASK, EXAMPLES[:4], accuracy=share) == given
