"""What ends an answer."""

from __future__ import annotations

import pytest
from transformers import GenerationConfig

from intruders.models.ends import end_in_template, ends_of_answers
from tests.chat_models import CHAT_SHAPES, chat_tokenizer
from tests.tiny import character_tokenizer


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
