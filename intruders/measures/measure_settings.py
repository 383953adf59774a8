"""What is measured of a model: on which text, and on which tasks."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..data.columns import Columns
from ..errors import SettingError
from ..settings import Settings, setting

measure_setting = partial(setting, panel="Measures")
measure_in_detail = partial(measure_setting, advanced=True)


def document_tokens(default: int | None, **more: Any) -> Any:
    words = "Number of tokens of each document, from its start."
    return measure_in_detail(default, words, least=2, metavar="TOKENS", **more)


def masked_estimate() -> Any:
    words = "Masked models: mask a random 15 % of the tokens in one pass. This is faster but measures a different "
    return measure_in_detail(False, words + "quantity.")


@dataclass(frozen=True)
class LossSettings(Settings):
    """The text that losses are measured on, and how.

    Examples:
      ``intruders.LossSettings(loss_on=("pydoc",), max_documents=100)``
    """

    loss_on: tuple[str, ...] = measure_setting(
        (),
        "Text for the pre-training loss: pydoc, a text or data file, a folder, a Hub corpus such as c4, or a mixture "
        "A@0.7+B@0.3; repeatable.",
        item="corpus",
        metavar="CORPUS",
    )
    max_documents: int | None = measure_setting(
        None,
        "Number of documents per corpus, sampled with --seed.",
        least=1,
        unless_given="default: all; 200 of a Hub corpus",
    )
    max_tokens: int | None = document_tokens(None, new_in="0.2", unless_given="default: all")
    window: int | None = measure_in_detail(
        None,
        "Context window in tokens.",
        least=1,
        metavar="TOKENS",
        unless_given="default: 1024, or the model's context if smaller",
    )
    stride: int | None = measure_in_detail(
        None,
        "Number of tokens by which the window moves.",
        least=1,
        new_in="0.2",
        metavar="TOKENS",
        unless_given="default: half the window",
    )
    estimate: bool = masked_estimate()
    batch_size: int | str | None = measure_in_detail(
        None,
        "Number of windows of text in one pass, or auto: the default, halved where memory runs out. No loss depends "
        "on it.",
        least=1,
        expected="a whole number of windows, 1 or more, or auto",
        new_in="0.2",
        unless_given="default: as many as have 2048 tokens; 32 of a masked model",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.batch_size
        if isinstance(given, str) and given != "auto":
            if not (given.isdecimal() and int(given) >= 1):
                raise SettingError(
                    f"batch_size is {given!r}; expected a whole number of windows, 1 or more, or auto"
                )
            object.__setattr__(self, "batch_size", int(given))

    @property
    def windows(self) -> int | None:
        return self.batch_size if isinstance(self.batch_size, int) else None


@dataclass(frozen=True)
class ScoreSettings(Columns):
    """Which tasks are scored, from which columns, on how many examples of which split.

    Examples:
      ``intruders.ScoreSettings(tasks=("sst2",), max_examples=200)``
    """

    tasks: tuple[str, ...] = measure_setting(
        (),
        "Task to score: word-problems, pydoc-topics, a Hub task such as sst2, or a data file; repeatable.",
        item="task",
        metavar="TASK",
        option="task",
    )
    split: str | None = measure_in_detail(
        None,
        "Split to score: validation or test.",
        metavar="SPLIT",
        unless_given="default: test if it has rows",
    )
    max_examples: int | None = measure_setting(
        None, "Number of examples per task, from the first.", least=1, unless_given="default: all"
    )


@dataclass(frozen=True)
class HarnessSettings(Settings):
    """Which tasks of lm-evaluation-harness are scored.

    Examples:
      ``intruders.HarnessSettings(lm_eval=("arc_easy",))``
    """

    lm_eval: tuple[str, ...] = measure_setting(
        (),
        "Comma-separated tasks of lm-evaluation-harness.",
        item="task",
        by_commas=True,
        metavar="TASKS",
    )
    lm_eval_include: str | None = measure_in_detail(
        None,
        "Folder of your own lm-evaluation-harness tasks.",
        is_path=True,
        metavar="FOLDER",
    )


NO_LOSSES = LossSettings()
NO_SCORES = ScoreSettings()
NO_HARNESS = HarnessSettings()
