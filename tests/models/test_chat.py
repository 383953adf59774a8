"""Conversations as tokens, against TRL's own labels for the templates of published models."""

from __future__ import annotations

from pathlib import Path

import pytest

from intruders.data.task import Conversation, Example
from intruders.models.encoding import encode_completions
from tests.chat_models import CHAT_SHAPES, save_chat_model, trl_trainer

# The answers begin and end with spaces and lines, which some templates remove and which merge with the prompt's end.
_TALKS = [
    ["What is 1 plus 2?", "It is 3."],
    ["Hi?", "Yes", "What is 2 plus 2?", "It is 4."],
    ["a", "\nb "],
    [" a ", "\n\n  It is 3.\n\n"],
]


@pytest.mark.parametrize("name", CHAT_SHAPES)
def test_the_labels_of_a_conversation_are_those_of_trl(name: str, tmp_path: Path) -> None:
    shape = CHAT_SHAPES[name]
    talks = [
        [(("user", "assistant")[number % 2], text) for number, text in enumerate(talk)] for talk in _TALKS
    ]
    trainer = trl_trainer(save_chat_model(tmp_path / "model", shape), talks, tmp_path / "out", steps=1)
    tokenizer = trainer.processing_class
    examples = [
        Example("", talk[-1][1], conversation=Conversation(tuple(talk[:-1]), tuple(talk[-1:])))
        for talk in talks
    ]
    ours = encode_completions(tokenizer, examples, 256, where="rows")
    theirs = [trainer.data_collator([row]) for row in trainer.train_dataset]
    assert [row["input_ids"] for row in ours] == [batch["input_ids"][0].tolist() for batch in theirs]
    assert [row["labels"] for row in ours] == [batch["labels"][0].tolist() for batch in theirs]
