"""Conversations as tokens, against TRL's own labels for the templates of published models; what ends an answer."""

from pathlib import Path

import pytest
from transformers import GenerationConfig

from intruders.data.task import Conversation, Example
from intruders.models.encoding import encode_completions, end_in_template, ends_of_answers
from tests.chat_models import CHAT_SHAPES, chat_tokenizer, save_chat_model, trl_trainer
from tests.tiny import character_tokenizer

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
    talks = [list(zip(["user", "assistant"] * 2, talk, strict=False)) for talk in _TALKS]
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


@pytest.mark.parametrize("name", CHAT_SHAPES)
def test_the_template_says_what_ends_an_answer(name: str) -> None:
    shape = CHAT_SHAPES[name]
    tokenizer = chat_tokenizer(shape)
    end, eos = tokenizer.convert_tokens_to_ids([shape.end, shape.eos])
    assert end_in_template(tokenizer) == end
    assert set(ends_of_answers(tokenizer, GenerationConfig())) == {end, eos}
    assert set(ends_of_answers(tokenizer, GenerationConfig(eos_token_id=[eos, 7]))) == {end, eos, 7}
    assert set(ends_of_answers(tokenizer, GenerationConfig(eos_token_id=7))) == {end, eos, 7}


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n\n{% endfor %}",
        "{{ raise_exception('a chat has a system prompt') }}",
    ],
)
def test_a_template_may_have_no_end(template: str | None) -> None:
    tokenizer = character_tokenizer()
    tokenizer.chat_template = template
    tokenizer.add_tokens(["\n\n"])  # as Gemma's has: lines are no end
    assert end_in_template(tokenizer) is None
    assert ends_of_answers(tokenizer, GenerationConfig()) == [tokenizer.eos_token_id]


def test_an_end_that_is_not_marked_as_special_is_one() -> None:
    tokenizer = character_tokenizer()
    tokenizer.add_tokens(["<|im_end|>"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
    assert end_in_template(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
