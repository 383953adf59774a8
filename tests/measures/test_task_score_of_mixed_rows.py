"""A row is scored as it is alone, whatever shares its batch: every way of scoring, on every kind of tiny model."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from intruders.data.columns import Columns
from intruders.data.load_task import load_task
from intruders.data.task import Example, Score, Task
from intruders.measures.task_score import score_of_answers
from intruders.models.answers import generated_answers, graded
from intruders.models.loading import load_model
from intruders.models.tuned_model import OpenedModel
from tests.checkpoints.models import moved
from tests.tiny import character_tokenizer, save_bert, save_gpt2, save_llama

CAUSAL = {"llama": (save_llama, 512), "gpt2": (save_gpt2, 256)}


def _texts(lengths: list[int]) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choice("abcdefgh 0123456789") for _ in range(length)) for length in lengths]


def _rows(context: int) -> list[Example]:
    """Prompts from one token to all but a few of the context, and targets of 1 to 50 tokens."""
    prompts = _texts([1, 8, 9, 40, 41, context - 80, context - 24, context - 12])
    targets = _texts([50, 1, 30, 2, 44, 6, 20, 3])
    return [Example(prompt, target) for prompt, target in zip(prompts, targets, strict=True)]


def _opened(folder: Path, name: str) -> OpenedModel:
    """A model with weights large enough that its answers depend on the prompt."""
    save, context = CAUSAL[name]
    save(folder)
    model = moved(load_model(str(folder), "causal"), 0.2, 1, only=lambda name, weight: weight.dim() == 2)
    return OpenedModel(model, character_tokenizer(), context)


def assert_as_alone(opened: OpenedModel, task: Task, rows: list[Example]) -> None:
    together = graded(opened, task, rows, batch_size=len(rows))
    alone = [graded(opened, task, [row]) for row in rows]
    assert together.right == [found.right[0] for found in alone if found.right]
    assert together.tokens == [found.tokens[0] for found in alone]
    assert together.losses == pytest.approx([found.losses[0] for found in alone], rel=1e-5)
    assert together.unfinished == sum(found.unfinished for found in alone)


@pytest.mark.parametrize("score", ["exact", "final-number"])
@pytest.mark.parametrize("name", CAUSAL)
def test_of_completions(name: str, score: Score, tmp_path: Path) -> None:
    opened = _opened(tmp_path, name)
    rows = _rows(opened.context)
    # The model's own answers as targets, so that the case has right ones, and ones of many lengths.
    own = generated_answers(opened, rows, batch_size=1, max_new_tokens=12)
    rows = [
        Example(row.text, answer.text[:9] if number % 2 else row.target)
        for number, (row, answer) in enumerate(zip(rows, own, strict=True))
    ]
    task = Task("t", "causal", score, rows, rows, [], max_new_tokens=60)
    assert_as_alone(opened, task, rows)


@pytest.mark.parametrize("name", CAUSAL)
def test_every_row_has_its_own_limit(name: str, tmp_path: Path) -> None:
    opened = _opened(tmp_path, name)
    tokenizer = opened.tokenizer
    tokenizer.eos_token = "<mask>"  # which this model never writes: every answer is as long as its limit
    opened.model.get_output_embeddings().weight.data[tokenizer.eos_token_id] = 0
    rows = _rows(opened.context)
    answers = generated_answers(opened, rows, batch_size=8, max_new_tokens=40)
    alone = [generated_answers(opened, [row], max_new_tokens=40)[0] for row in rows]
    assert answers == alone
    assert not any(answer.has_ended for answer in answers)
    # A token that is skipped in decoding shortens the text.
    assert max(len(tokenizer(each.text)["input_ids"]) for each in answers if "<" not in each.text) <= 66


@pytest.mark.parametrize("save", [save_llama, save_gpt2, save_bert])
def test_of_classes(save: Any, tmp_path: Path) -> None:
    save(tmp_path)
    torch.manual_seed(2)
    model: Any = load_model(str(tmp_path), "classification", ["0", "1", "2"])
    rows = [Example(text, str(number % 3)) for number, text in enumerate(_texts([1, 2, 7, 30, 31, 90, 120]))]
    task = Task("t", "classification", "class", rows, rows, [])
    opened = OpenedModel(model, character_tokenizer(around=save is save_bert), 128)
    assert_as_alone(opened, task, rows)


def test_the_limit_is_a_setting_of_the_task_and_is_told_with_the_score() -> None:
    task = load_task("word-problems", Columns(max_new_tokens=30))
    assert score_of_answers(task, "test", [True]).limit == "30 tokens"
