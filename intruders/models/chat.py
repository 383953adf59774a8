"""Conversations as tokens: what a tokenizer's chat template makes of a prompt and of the answer to it."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from ..data.task import Conversation, Example
from ..errors import SettingError, first_line


def rendered(tokenizer: Any, example: Example) -> tuple[list[int], list[int]]:
    """Return prompt and completion of a conversation as token ids, split where TRL splits them.

    The prompt ends with the opening of an answer. If the conversation goes on differently once the answer exists, in
    its template or because tokens merge, the prompt is what both have in common. The completion is the rest, with the
    template's own end of an answer.

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
        texts = _texts(tokenizer, conversation)
    except Exception as error:  # a template is a program of its own and raises what it likes
        raise SettingError(
            f"{where} is a conversation that the tokenizer's chat template refuses: {first_line(error)}"
        ) from error
    opened, whole = (tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in texts)
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(opened, whole, strict=False))
    common = sum(1 for _ in pairs)
    return whole[:common], whole[common:]


def _texts(tokenizer: Any, conversation: Conversation) -> tuple[str, str]:
    """Return the prompt with what opens an answer, and the conversation as a whole."""
    prompt = [{"role": role, "content": content} for role, content in conversation.prompt]
    answer = [{"role": role, "content": content} for role, content in conversation.completion]
    opened = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return opened, tokenizer.apply_chat_template(prompt + answer, tokenize=False)
