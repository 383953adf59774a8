"""What the values of a data file are: missing, text, or a conversation, which a chat template renders later."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from ..errors import SettingError
from ..system.files import as_utf8, is_utf8
from .task import Conversation, Example, Message

_SHOWN = 8  # rows that an error names


def is_missing(value: Any) -> bool:
    """Return whether a value is null, or the NaN that represents it in a table of numbers."""
    return value is None or (isinstance(value, float) and value != value)


def as_text(value: Any, name: str, origin: str) -> str:
    """Return a text or a number of column ``name`` as text. SettingError for anything else."""
    if isinstance(value, str | bool | int | float | Decimal):
        return whole(str(value), f"column {name!r} of {origin}")
    raise SettingError(
        f"column {name!r} of {origin} is {described(value)}; expected text or a number in every row"
    )


def whole(text: str, where: str) -> str:
    """Return a text; SettingError for half a character, which JSON can escape (``\\ud83d``) and UTF-8 cannot write."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SettingError(
            f"{where} has half a character, {text[error.start]!r}, which no tokenizer reads; expected complete ones; "
            "fix what wrote the file"
        ) from error
    return text


def require_utf8(name: str, kind: str) -> None:
    """Raise SettingError for a file whose name no result can say, before anything is measured on it."""
    if not is_utf8(name):
        raise SettingError(
            f"{kind} '{as_utf8(name)}' is not UTF-8, as results must be; rename the file or folder"
        )


def empty_value(name: str, origin: str, others: Sequence[str] = ()) -> SettingError:
    """Return the error for a value that is missing; ``others`` are the further rows that lack one.

    >>> print(empty_value("answer", "line 2 of a.csv", ["line 5 of a.csv", "line 9 of a.csv"]))
    column 'answer' of line 2 of a.csv is empty; expected a value in every row; 2 further rows lack one: line 5, line 9
    """
    said = f"column {name!r} of {origin} is empty; expected a value in every row"
    if others:
        shown = ", ".join(other.partition(" of ")[0] for other in others[:_SHOWN])
        more = ", ..." if len(others) > _SHOWN else ""
        rows = "1 further row lacks" if len(others) == 1 else f"{len(others):,} further rows lack"
        said += f"; {rows} one: {shown}{more}"
    return SettingError(said)


def described(value: Any) -> str:
    """Say in words what a value is that is not a text."""
    if isinstance(value, list):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a value of type {type(value).__name__}"


_KEYS = {"role", "content"}


class NotTextError(SettingError):
    """A message has tool calls, an image or another part that is no text."""


def causal_example(names: Sequence[str], values: Sequence[Any], origin: str) -> Example:
    """Return the example of a row: prompt and completion as texts or as messages, or a complete conversation.

    ``names`` are the columns of ``values``, and ``origin`` is the location of the row, for errors. NotTextError for a
    message with more than a text, SettingError for what is no text or message, or ends with no answer.
    """
    cells = list(zip(names, values, strict=True))
    if len(names) == 2 and not any(isinstance(value, list) for value in values):
        text, target = (as_text(value, name, origin) for name, value in cells)
        return Example(text=text, target=target, origin=origin)
    *before, last = (_messages(value, name, origin) for name, value in cells)
    prompt, completion = (before[0], last) if before else (last[:-1], last[-1:])
    if not prompt or not completion or completion[-1][0] != "assistant":
        raise SettingError(
            f"column {names[-1]!r} of {origin} does not end with an answer to a prompt; expected messages before it, "
            "and a last one with the role 'assistant'"
        )
    return Example(
        text="\n".join(content for _, content in prompt),
        target=completion[-1][1],
        origin=origin,
        conversation=Conversation(prompt, completion),
    )


def classified_example(names: Sequence[str], values: Sequence[Any], origin: str) -> Example:
    """Return the example of a row with one text or two, and behind them its label."""
    *texts, label = (as_text(value, name, origin) for name, value in zip(names, values, strict=True))
    if not label.strip():
        raise empty_value(names[-1], origin)
    return Example(text=texts[0], target=label, pair=texts[1] if len(texts) == 2 else None, origin=origin)


def _messages(value: Any, name: str, origin: str) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise SettingError(
            f"column {name!r} of {origin} is {described(value)}; expected a list of messages with role and content"
        )
    return tuple(
        _message(message, f"message {number} in column {name!r} of {origin}")
        for number, message in enumerate(value, start=1)
    )


def _message(message: Any, where: str) -> Message:
    # Parts of text are one text, as chat templates join them.
    given: dict[str, Any] = {}
    if isinstance(message, dict):
        given = {key: value for key, value in message.items() if value is not None}
    role: Any = given.get("role")
    content: Any = given.get("content")
    parts = [content] if isinstance(content, str) else content if isinstance(content, list) else []
    # A part of one is a text of its own; an image and whatever else a part may be is none.
    inner = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part for part in parts
    ]
    texts = [text for text in inner if isinstance(text, str)]
    if given.keys() == _KEYS and isinstance(role, str) and parts and len(texts) == len(parts):
        return role, whole("".join(texts), where)
    said = (
        f"{where} is not a role and a content of text; expected "
        '{"role": "user", "content": "..."} and nothing else'
    )
    if given.keys() - _KEYS or len(texts) < len(parts):
        raise NotTextError(f"{said}; leave out rows with tool calls or images with --drop-not-text")
    raise SettingError(said)
