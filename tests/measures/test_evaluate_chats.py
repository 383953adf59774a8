"""Models that TRL taught to chat, evaluated: against TRL's own loss, and against transformers' greedy generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from intruders.data.load_task import load_task
from intruders.measures.evaluate import evaluate
from intruders.measures.measure_settings import ScoreSettings
from intruders.models.answers import graded
from intruders.models.tuned_model import OpenedModel
from tests.chat_models import CHAT_SHAPES, save_chat_model, trl_trainer
from tests.json_lines import write_rows


@pytest.mark.parametrize("name", CHAT_SHAPES)
def test_a_chat_is_measured_as_it_was_trained(name: str, tmp_path: Path) -> None:
    shape = CHAT_SHAPES[name]
    answers = {
        "2 plus 3?": "It is 5.",
        "a word": "yes",
        "4?": "It is 4.",
        "none": "It is 0.",
        "7": "8",
        "b": "0",
    }
    talks = [[("user", question), ("assistant", answer)] for question, answer in answers.items()]
    base = save_chat_model(tmp_path / "base", shape)
    # It learns the first four, and is asked all.
    trainer = trl_trainer(base, talks[:4], tmp_path / "out", steps=40)
    trainer.train()
    trainer.save_model(tmp_path / "tuned")
    model, tokenizer = trainer.model.eval(), trainer.processing_class
    messages = [[{"role": role, "content": content} for role, content in talk] for talk in talks]
    rows = write_rows(tmp_path / "chat.jsonl", [{"messages": talk} for talk in messages])
    ends = tokenizer.convert_tokens_to_ids([shape.end, shape.eos])
    right = {
        question["content"]: _answer(model, tokenizer, [question], ends) == answer["content"]
        for question, answer in messages
    }
    assert 0 < sum(right.values()) < len(talks), "the case shows something"

    named = f"{rows}?messages=messages&validation={rows}"
    found = evaluate(str(tmp_path / "tuned"), base=str(base), scores=ScoreSettings(tasks=(named,)))
    (score,) = found.scores
    assert score.accuracy.estimate == sum(right.values()) / len(talks)
    assert score.unfinished == 0

    task = load_task(named)
    learned = [example for example in task.validation if example.text in {talk[0][1] for talk in talks[:4]}]
    grades = graded(OpenedModel(model, tokenizer, 256), task, learned)
    assert grades.right == [right[example.text] for example in learned]
    assert sum(grades.losses) / sum(grades.tokens) == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-4)


def _answer(model: Any, tokenizer: Any, prompt: list[dict[str, str]], ends: list[int]) -> str:
    """As a person asks a model: by the libraries alone."""
    text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    written = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    answer: str = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    return answer.strip()
