"""Conversations as texts: what a tokenizer's chat template makes of a prompt and of the answer to it."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from ..data.task import Conversation, Example
from ..errors import SettingError, first_line


def rendered(tokenizer: Any, example: Example) -> tuple[str, str]:
    """Return prompt and completion of a conversation as texts, split where TRL splits them.

    The prompt ends with the opening of an answer. If the template writes that differently once the answer exists, the
    prompt is what both have in common. The completion is the rest, with the template's own end of an answer.

    Raises:
      SettingError: the tokenizer has no chat template, or its template refuses these messages.
    """
    conversation = example.conversation
    assert conversation is not None
    where = example.origin or "a row"
    if not getattr(tokenizer, "chat_template", None):
        raise SettingError(
            f"{where} is a conversation, and the tokenizer has no chat template to make a text of it; "
            "use a model that was trained to chat, or pass prompt and completion as texts"
        )
    try:
        opened, whole = _texts(tokenizer, conversation)
    except Exception as error:  # a template is a program of its own and raises what it likes
        raise SettingError(
            f"{where} is a conversation that the tokenizer's chat template refuses: {first_line(error)}"
        ) from error
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(opened, whole, strict=False))
    prompt = whole[: sum(1 for _ in pairs)]
    return prompt, whole[len(prompt) :]


def _texts(tokenizer: Any, conversation: Conversation) -> tuple[str, str]:
    """Return the prompt with what opens an answer, and the conversation as a whole."""
    prompt = [{"role": role, "content": content} for role, content in conversation.prompt]
    answer = [{"role": role, "content": content} for role, content in conversation.completion]
    # A prompt that ends in the middle of an answer is gone on with.
    is_begun = prompt[-1]["role"] == "assistant"
    opened = tokenizer.apply_chat_template(
        prompt, tokenize=False, add_generation_prompt=not is_begun, continue_final_message=is_begun
    )
    return opened, tokenizer.apply_chat_template(prompt + answer, tokenize=False)
