"""Tokens, batches and contexts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from intruders.data.task import Conversation, Example, Task
from intruders.errors import SettingError
from intruders.models import encoding
from intruders.models.answers import generated_answers, graded
from intruders.models.encoding import (
    IGNORED,
    batches_by_length,
    context_length,
    encode_classification,
    encode_completions,
    encode_parts,
    fitting,
    longest_read,
)
from intruders.models.loading import load_model, load_tokenizer
from intruders.models.tuned_model import OpenedModel
from tests.tiny import character_tokenizer, save_gpt2, save_llama


def test_only_the_completion_and_its_end_are_learned() -> None:
    tokenizer = character_tokenizer()
    (row,) = encode_completions(tokenizer, [Example("ab", "cd")], 10, where="rows")
    a, b, c, d = (tokenizer(letter)["input_ids"][0] for letter in "abcd")
    end = tokenizer.eos_token_id
    assert row == {"input_ids": [a, b, c, d, end], "labels": [IGNORED, IGNORED, c, d, end]}


def test_a_template_that_refuses_a_conversation_is_quoted() -> None:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    talk = Conversation((("user", "hi?"),), (("assistant", "yes"),))
    asked = Example("hi?", "yes", conversation=talk, origin="line 3 of chat.jsonl")
    with pytest.raises(SettingError, match=r"line 3 of chat.jsonl .* refuses: roles must alternate"):
        encode_completions(tokenizer, [asked], 100, where="rows")


def test_a_row_that_does_not_fit_is_named_as_in_its_file() -> None:
    texts = {7: "ab", 41: "a" * 20}
    rows = [Example(text, "cd", origin=f"line {line} of x.jsonl") for line, text in texts.items()]
    said = r"line 41 of x.jsonl \(the train split of task 'x'\) has 20 tokens of prompt and 3 of completion"
    with pytest.raises(SettingError, match=said):
        encode_completions(character_tokenizer(), rows, 10, where="train split of task 'x'")
    assert fitting(character_tokenizer(), rows, 10, "rows") == rows[:1]
    nameless = [replace(row, origin="") for row in rows]
    with pytest.raises(SettingError, match="row 2 of the rows has 20 tokens of prompt and 3 of completion"):
        encode_completions(character_tokenizer(), nameless, 10, where="rows")
    assert len(encode_completions(character_tokenizer(), rows, 10, drop_too_long=True, where="rows")) == 1


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("llama", {"max_position_embeddings": 99}, 99),
        ("gpt2", {"n_positions": 77}, 77),
        ("mpt", {"max_seq_len": 88}, 88),  # its ALiBi is of that many tokens
        # RoBERTa's first position is padding_idx + 1: two of its 514 hold no token.
        ("roberta", {"max_position_embeddings": 514, "pad_token_id": 1}, 512),
    ],
)
def test_the_context_is_the_positions(kind: str, settings: dict[str, Any], expected: int) -> None:
    config = AutoConfig.for_model(kind, **settings)
    assert context_length(config, None) == expected
    assert context_length(config, 50) == 50
    with pytest.raises(SettingError, match=f"the model has {expected} positions"):
        context_length(config, expected + 1)


@pytest.mark.parametrize("kind", ["bloom", "mamba", "xlnet"])
def test_a_model_without_positions_reads_any_number_of_tokens(kind: str) -> None:
    config = AutoConfig.for_model(kind)
    assert longest_read(config) > 10**9
    assert context_length(config, None) == 1024  # the rows of a training, and the windows of a loss
    assert context_length(config, 5000) == 5000


def test_the_positions_of_a_model_of_text_and_images_are_those_of_its_text() -> None:
    config = AutoConfig.for_model("gemma3", text_config={"max_position_embeddings": 4096})
    assert longest_read(config) == context_length(config, None) == 4096


@pytest.mark.parametrize("kind", sorted({*encoding._NUMBERED_FROM_PADDING, "mpnet", "bert"}))
def test_a_row_as_long_as_the_context_fits_and_no_longer_one(kind: str) -> None:
    config = AutoConfig.for_model(
        kind, vocab_size=40, hidden_size=24, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=20, pad_token_id=3, bos_token_id=0, eos_token_id=2, attention_window=4,
        languages=["en_XX"], default_language="en_XX", visual_embed=False, coordinate_size=4,
        shape_size=4, channel_shrink_ratio=2,
    )  # fmt: skip
    model = AutoModel.from_config(config).eval()
    width = context_length(config, None)
    ids = torch.randint(5, 39, (1, width + 1))
    with torch.no_grad():
        model(input_ids=ids[:, :-1])
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids)


def test_batches_have_every_row_once_and_the_shortest_first() -> None:
    lengths = [5, 2, 9, 2, 7]
    rows = [{"input_ids": [length] * length, "labels": [row] * length} for row, length in enumerate(lengths)]
    batches = list(batches_by_length(rows, character_tokenizer(), 2, torch.device("cpu")))
    assert [chosen for chosen, _ in batches] == [[1, 3], [0, 4], [2]]
    for chosen, batch in batches:
        width = max(lengths[row] for row in chosen)
        for position, row in enumerate(chosen):
            left = width - lengths[row]
            assert batch["input_ids"][position].tolist() == [lengths[row]] * lengths[row] + [0] * left
            assert batch["labels"][position].tolist() == [row] * lengths[row] + [IGNORED] * left
            assert batch["attention_mask"][position].tolist() == [1] * lengths[row] + [0] * left


EXAMPLES = [Example("", "a cat"), Example("who sat? ", "a cat")]
TASK = Task("rows", "causal", "exact", EXAMPLES, EXAMPLES, [])


@pytest.mark.parametrize("save", [save_llama, save_gpt2])
def test_an_empty_prompt_is_scored_after_the_beginning_of_a_text(save: Any, tmp_path: Path) -> None:
    save(tmp_path / "base")
    model, tokenizer = load_model(str(tmp_path / "base"), "causal"), load_tokenizer(str(tmp_path / "base"))
    target = [*tokenizer("a cat", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ids = torch.tensor([[tokenizer.bos_token_id, *target]])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1].double()
    own = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
    opened = OpenedModel(model, tokenizer, 64)
    grades = graded(opened, TASK, EXAMPLES)
    assert grades.losses[0] == pytest.approx(float(own), rel=1e-6)
    assert grades.tokens[0] == len(target)  # the first of them too
    assert len(generated_answers(opened, EXAMPLES[:1], max_new_tokens=2)) == 1


def test_an_empty_text_of_a_classification_has_a_token_or_the_row_is_named() -> None:
    tokenizer = character_tokenizer()
    (row,) = encode_classification(tokenizer, [Example("", "x")], ["x", "y"], 16)
    assert row["input_ids"] == [tokenizer.bos_token_id]
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(SettingError, match=r"line 3 of rows\.csv has an empty text"):
        list(encode_parts(tokenizer, [Example("", "x", origin="line 3 of rows.csv")]))
