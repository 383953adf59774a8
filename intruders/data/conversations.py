"""Prompts and completions of a data file: texts, or lists of messages, which a chat template renders later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import SettingError
from .task import Conversation, Example, Message
from .values import as_text, described, empty_value, is_list, whole

_KEYS = {"role", "content"}


def causal_example(names: Sequence[str], values: Sequence[Any], origin: str) -> Example:
    """Return the example of a row: prompt and completion as texts or as messages, or a complete conversation.

    Args:
      names: the columns: prompt and completion, or only the conversation.
      values: the values of these columns in this row.
      origin: the location of the row, for errors.

    Raises:
      SettingError: a value is neither text nor messages, or the last message is not an answer of the assistant.
    """
    if len(names) == 1:
        messages = _messages(values[0], names[0], origin)
        return _of_conversation(names[0], origin, messages[:-1], messages[-1:])
    if any(map(is_list, values)):
        prompt, completion = (
            _messages(value, name, origin) for name, value in zip(names, values, strict=True)
        )
        return _of_conversation(names[1], origin, prompt, completion)
    prompt_text, completion_text = (
        as_text(value, name, origin) for name, value in zip(names, values, strict=True)
    )
    if not completion_text:
        raise empty_value(names[1], origin)
    return Example(text=prompt_text, target=completion_text, origin=origin)


def _of_conversation(
    name: str, origin: str, prompt: tuple[Message, ...], completion: tuple[Message, ...]
) -> Example:
    if not prompt or not completion or completion[-1][0] != "assistant":
        raise SettingError(
            f"column {name!r} of {origin} does not end with an answer to a prompt; expected messages before it, "
            "and a last one with the role 'assistant'"
        )
    return Example(
        text="\n".join(content for _, content in prompt),
        target=completion[-1][1],
        origin=origin,
        conversation=Conversation(prompt, completion),
    )


def _messages(value: Any, name: str, origin: str) -> tuple[Message, ...]:
    if not is_list(value):
        raise SettingError(
            f"column {name!r} of {origin} is {described(value)}; expected a list of messages with role and content"
        )
    messages = []
    for number, message in enumerate(value, start=1):
        keys = (
            {key for key, content in message.items() if content is not None}
            if isinstance(message, dict)
            else set()
        )
        if keys != _KEYS or not all(isinstance(message[key], str) for key in _KEYS):
            raise SettingError(
                f"message {number} in column {name!r} of {origin} is not a role and a content of text; expected "
                '{"role": "user", "content": "..."} and nothing else'
            )
        content = whole(message["content"], f"message {number} in column {name!r} of {origin}")
        messages.append((message["role"], content))
    return tuple(messages)
