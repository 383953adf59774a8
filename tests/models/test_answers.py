"""Answers as the model writes them, and whether they are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from intruders.data.task import Example, Task
from intruders.models.answers import generated_answers, graded, is_right
from intruders.models.loading import load_model
from intruders.models.tuned_model import OpenedModel
from intruders.training.finetune import finetune
from intruders.training.finetune_config import FinetuneConfig
from tests.tiny import character_tokenizer, save_bert, save_llama

ROWS = [Example(f"{i} and {i}: ", f"{2 * i}") for i in range(12)]


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        (r"The answer is: \frac{1}{2}", r"The answer is: \frac{3}{2}", False),
        (r"The answer is: \frac{1}{2}", "0.5", True),
        ("2e-5", "7e-5", False),
        (".5", "5", False),
        ("none", "none", False),
    ],
)
def test_an_answer_is_right_if_its_last_number_is(answer: str, target: str, expected: bool) -> None:
    task = Task("numbers", "causal", "final-number", [], [], [])
    assert is_right(task, Example("", target), answer) is expected


def test_what_a_pass_predicts_is_what_generation_gives(tmp_path: Path) -> None:
    """The short cut of scoring against the plain way: generate everything and compare."""
    llama = save_llama(tmp_path / "llama")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"p": "{row.text}", "c": "{row.target}"}}\n' for row in ROWS))
    run = finetune(
        FinetuneConfig(
            base=str(llama), task=f"{rows}?prompt=p&completion=c&validation={rows}", out=str(tmp_path / "run"),
            method="full", lr=5e-3, steps=60, precision="fp32", save_steps=1000, max_new_tokens=8,
        )
    )  # fmt: skip
    model, tokenizer = load_model(str(run.path), "causal"), character_tokenizer()
    task = Task("rows", "causal", "exact", ROWS, ROWS, [])
    opened = OpenedModel(model, tokenizer, 512)
    found = graded(opened, task, ROWS, batch_size=5).right
    assert found is not None
    plain = []
    for row in ROWS:
        ids = torch.tensor([tokenizer(row.text)["input_ids"]])
        written = model.generate(
            input_ids=ids, max_new_tokens=20, do_sample=False, eos_token_id=2, pad_token_id=0
        )  # type: ignore[operator]
        plain.append(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
    answers = generated_answers(opened, ROWS, batch_size=5)
    assert [answer.text for answer in answers] == plain
    assert found == [text.strip() == row.target for text, row in zip(plain, ROWS, strict=True)]
    assert any(found), "the case shows something"


def test_classes_follow_the_models_own_order_of_labels(tmp_path: Path) -> None:
    model: Any = load_model(str(save_bert(tmp_path)), "classification", ["b", "a"])
    model.classifier.weight.data.zero_()
    model.classifier.bias.data.copy_(torch.tensor([1.0, 0.0]))  # always output 0, which is "b"
    rows = [Example("x", "a"), Example("yy", "b"), Example("z", "b")]
    task = Task("t", "classification", "class", rows, rows, [])
    opened = OpenedModel(model, character_tokenizer(around=True), 128)
    named = graded(opened, task, rows, labels=["b", "a"])
    assert named.right == [False, True, True]
    assert graded(opened, task, rows).right == [True, False, False]
