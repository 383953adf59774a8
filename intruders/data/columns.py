"""The columns of a user's own data file, and which of them mean what."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..settings import Settings, setting
from .task import ANSWER_TOKENS

_of_files = partial(setting, panel="Data files")


def _column(default: Any, meaning: str, usual: str, **more: Any) -> Any:
    return _of_files(
        default, meaning, metavar="COLUMN", unless_given=f"default: {usual}, where the file has it", **more
    )


@dataclass(frozen=True)
class Columns(Settings):
    """The columns of a data file, and the files of the other splits.

    Examples:
      ``intruders.Columns(text=("sentence",), label="label")``
    """

    text: tuple[str, ...] = _column(
        (),
        "Column of the text; two comma-separated columns for a pair.",
        "text",
        item="column",
        by_commas=True,
    )
    label: str | None = _column(None, "Column of the label.", "label")
    prompt: str | None = _column(None, "Column of the prompt.", "prompt")
    completion: str | None = _column(None, "Column of the completion.", "completion")
    messages: str | None = _column(
        None,
        "Column of a conversation, a list of messages with role and content; its last answer is the completion.",
        "messages",
        new_in="0.2",
    )
    score: str | None = _of_files(
        None,
        "How to score completions: exact, final-number or none.",
        choices=("final-number", "exact", "none"),
        metavar="RULE",
        unless_given="default: exact",
    )
    validation_file: str | None = _of_files(
        None,
        "Data file of the validation split.",
        metavar="FILE",
        unless_given="default: a tenth of the data file, held out",
    )
    test_file: str | None = _of_files(None, "Data file of the test split.", metavar="FILE")
    no_header: bool = _of_files(False, "The data file has no header; its columns are 0, 1, 2, and so on.")
    drop_not_text: bool = _of_files(
        False,
        "Skip conversations with tool calls or images, instead of stopping, and say how many they are.",
        new_in="0.2",
    )
    max_new_tokens: int = _of_files(
        ANSWER_TOKENS,
        "Number of tokens that a generated answer may have, at least; a longer target gets 16 more than its own.",
        least=1,
        new_in="0.2",
        in_id="answers{}",
        metavar="TOKENS",
    )

    def named(self) -> list[str]:
        """Return what the named columns are: "prompt", "completion" and so on."""
        return [name for name in ("text", "label", "prompt", "completion", "messages") if getattr(self, name)]
