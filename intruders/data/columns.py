"""The columns of a user's own data file, and which of them mean what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..settings import Settings, setting
from .task import ANSWER_TOKENS


def _column(meaning: str, usual: str, new_in: str | None = None) -> Any:
    return setting(
        None,
        meaning,
        metavar="COLUMN",
        new_in=new_in,
        panel="Data files",
        unless_given=f"default: {usual}, where the file has it",
    )


@dataclass(frozen=True)
class Columns(Settings):
    """The columns of a data file, and the files of the other splits.

    Examples:
      ``intruders.Columns(text=("sentence",), label="label")``
    """

    text: tuple[str, ...] = setting(
        (),
        "Column of the text; two comma-separated columns for a pair.",
        item="column",
        by_commas=True,
        metavar="COLUMN",
        panel="Data files",
        unless_given="default: text, where the file has it",
    )
    label: str | None = _column("Column of the label.", "label")
    prompt: str | None = _column("Column of the prompt.", "prompt")
    completion: str | None = _column("Column of the completion.", "completion")
    messages: str | None = _column(
        "Column of a conversation, a list of messages with role and content; its last answer is the completion.",
        "messages",
        new_in="0.2",
    )
    score: str | None = setting(
        None,
        "How to score completions: exact, final-number or none.",
        choices=("final-number", "exact", "none"),
        metavar="RULE",
        panel="Data files",
        unless_given="default: exact",
    )
    validation_file: str | None = setting(
        None,
        "Data file of the validation split.",
        metavar="FILE",
        panel="Data files",
        unless_given="default: a tenth of the data file, held out",
    )
    test_file: str | None = setting(
        None, "Data file of the test split.", metavar="FILE", panel="Data files", unless_given="default: none"
    )
    no_header: bool = setting(
        False, "The data file has no header; its columns are 0, 1, 2, and so on.", panel="Data files"
    )
    drop_not_text: bool = setting(
        False,
        "Skip conversations with tool calls or images, instead of stopping, and say how many they are.",
        new_in="0.2",
        panel="Data files",
    )
    max_new_tokens: int = setting(
        ANSWER_TOKENS,
        "Number of tokens that a generated answer may have, at least; a longer target gets 16 more than its own.",
        least=1,
        new_in="0.2",
        in_id="answers{}",
        metavar="TOKENS",
        panel="Data files",
    )

    def named(self) -> list[str]:
        """Return what the named columns are: "prompt", "completion" and so on."""
        return [name for name in ("text", "label", "prompt", "completion", "messages") if getattr(self, name)]
