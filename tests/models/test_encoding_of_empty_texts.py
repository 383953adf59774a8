"""Empty prompts and texts: nothing stands before the first token, so the token that begins a text does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from intruders.data.task import Example, Task
from intruders.errors import SettingError
from intruders.models.answers import generated_answers, graded
from intruders.models.encoding import encode_classification, encode_parts
from intruders.models.loading import load_model, load_tokenizer
from intruders.models.tuned_model import OpenedModel
from tests.tiny import character_tokenizer, save_gpt2, save_llama

EXAMPLES = [Example("", "a cat"), Example("who sat? ", "a cat")]
TASK = Task("rows", "causal", "exact", EXAMPLES, EXAMPLES, [])


@pytest.mark.parametrize("save", [save_llama, save_gpt2])
def test_an_empty_prompt_is_scored_after_the_beginning_of_a_text(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "base")
    model, tokenizer = load_model(str(tmp_path / "base"), "causal"), load_tokenizer(str(tmp_path / "base"))
    target = [*tokenizer("a cat", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ids = torch.tensor([[tokenizer.bos_token_id, *target]])
    with torch.no_grad():
        own = torch.nn.functional.cross_entropy(
            model(ids).logits[0, :-1].double(), ids[0, 1:], reduction="sum"
        )
    opened = OpenedModel(model, tokenizer, 64)
    grades = graded(opened, TASK, EXAMPLES)
    assert grades.losses[0] == pytest.approx(float(own), rel=1e-6)
    assert grades.tokens[0] == len(target)  # the first of them too
    assert len(generated_answers(opened, EXAMPLES[:1], max_new_tokens=2)) == 1


def test_an_empty_text_of_a_classification_has_a_token() -> None:
    tokenizer = character_tokenizer()
    (row,) = encode_classification(tokenizer, [Example("", "x")], ["x", "y"], 16)
    assert row["input_ids"] == [tokenizer.bos_token_id]


def test_without_such_a_token_the_row_is_named() -> None:
    tokenizer = character_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(SettingError, match=r"line 3 of rows\.csv has an empty text"):
        list(encode_parts(tokenizer, [Example("", "x", origin="line 3 of rows.csv")]))
