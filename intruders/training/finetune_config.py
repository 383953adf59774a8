"""The settings of one fine-tuning run, and their checks before any work starts: what they mean, and go together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.columns import Columns
from ..errors import SettingError
from ..models.loading_settings import IN_SINGLE, Loading
from .callback.limits import Limits, Text, require_loss
from .method_table import METHODS, PLAIN_LORA, Method
from .run_settings import Meanwhile, Training

if TYPE_CHECKING:
    from ..data.task import Kind

# Schedules of the Trainer that leave warm-up out.
_WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")


@dataclass(frozen=True)
class RunSettings(Limits, Text, Meanwhile, Columns, Training):
    """What is trained, on which columns of the data, and what is measured meanwhile; not checked together."""

    @property
    def kind_of_method(self) -> Method:
        """What the method is, as the table of methods has it."""
        return METHODS[self.method]

    @property
    def starts_from_changed_base(self) -> bool:
        """Whether the method's start takes something out of the base's weights, to be restored on saving."""
        return self.kind_of_method.starts_from_changed_base

    @property
    def changes_base_weights(self) -> bool:
        """Whether weights of the base are trained, or start from other values than the checkpoint's."""
        return self.method == "full" or self.starts_from_changed_base


def check_together(config: RunSettings) -> None:
    """Raise SettingError for settings that do not go together."""
    if config.steps is None and config.epochs is None:
        raise SettingError("neither steps nor epochs is given; expected one of the two")
    if config.steps is not None and config.epochs is not None:
        raise SettingError(f"steps is {config.steps} and epochs is {config.epochs}; expected one of the two")
    if config.init_a != "random" and not config.kind_of_method.freezes_a:
        raise SettingError(
            f"init_a is {config.init_a!r}, which is for lora-fa and b-only; method is {config.method!r}"
        )
    if config.start_from is not None and config.changes_base_weights:
        raise SettingError(
            f"start_from is {config.start_from!r}, which method {config.method!r} cannot go on from; "
            "merge that adapter into the base instead"
        )
    for name in ("budget", "budget_pilot"):
        given = getattr(config, name)
        # Of full fine-tuning it is ignored, as all settings of adapters: a study may ask it of all methods.
        if given is not None and not (config.kind_of_method.is_plain_lora or config.method == "full"):
            raise SettingError(
                f"{name} is {given!r}, but the update of method {config.method!r} is not alpha/r B A, which it scales; "
                f"pass one of {', '.join(PLAIN_LORA)} as --method"
            )
        if given is not None and config.load_in is not None:
            raise SettingError(
                f"{name} is {given!r}, and load_in is {config.load_in!r}: the budget is of the base's singular values, "
                "which packed numbers do not have; leave one of the two out"
            )
    if config.dtype not in ("auto", "float32") and config.changes_base_weights:
        raise SettingError(
            f"dtype is {config.dtype!r}, but method {config.method!r} changes the base's weights, which needs float32; "
            "leave --dtype out, or choose a method that keeps them, such as lora"
        )
    if config.load_in is not None and (
        config.changes_base_weights or config.kind_of_method.reads_base_weights
    ):
        raise SettingError(
            f"load_in is {config.load_in!r}, but method {config.method!r} needs the base's own weights; leave "
            "--load-in out, or choose a method that only adds to them, such as lora"
        )
    if config.train_all and config.method != "full":
        raise SettingError(f"train_all is for method full; method is {config.method!r}")
    if config.stop_above is not None and config.audit_steps is None:
        raise SettingError(f"stop_above is {config.stop_above}, but no audits are made; pass audit_steps too")
    _check_limits(config)
    alpha_value(config.alpha, config.rank)
    if config.replay is not None:
        rows_of_text(replayed_share(config.replay)[1], config.batch_size)
    if config.match is not None:
        accuracy_to_match(config.match)
    if config.steps is not None:
        check_steps(config, config.steps)


def _check_limits(config: RunSettings) -> None:
    """Raise SettingError for a limit, or a loss to measure, without the audits that it needs."""
    for name in ("loss_on", "keep_forgetting_below", "keep_intruders_below"):
        given = getattr(config, name)
        if given is not None and config.audit_steps is None:
            raise SettingError(f"{name} is {given!r}, but no audits are made; pass audit_steps too")
    require_loss(config, config)
    if config.go_on_over_limit and not config.has_limit:
        raise SettingError(
            "go_on_over_limit is given without a limit; pass keep_forgetting_below or keep_intruders_below too"
        )


def check_steps(config: RunSettings, steps: int) -> None:
    """Raise SettingError for settings that a run of ``steps`` optimizer steps would never reach."""
    if config.match is not None and config.eval_steps > steps:
        raise SettingError(
            f"eval_steps is {config.eval_steps}, and the run has {steps} steps, so that the accuracy for "
            f"match {config.match!r} would never be measured; lower eval_steps to {steps} or less"
        )
    if config.warmup_steps >= max(1, steps) and config.lr_scheduler_type not in _WITHOUT_WARMUP:
        raise SettingError(
            f"warmup_steps is {config.warmup_steps:g}, and the run has {steps} steps, so that it would end before "
            f"the learning rate {config.lr:g} is reached; lower warmup_steps, or pass a fraction below 1"
        )


def alpha_value(alpha: float | str, rank: int) -> float:
    """Return alpha as a number; SettingError if it is neither a number nor a multiple of the rank."""
    text = str(alpha).strip()
    try:
        value = float(text[:-1] or 1) * rank if text.endswith("r") else float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise SettingError(
            f"alpha is {alpha!r}; expected a positive number, or a multiple of the rank such as '2r'"
        )
    return value


def replayed_share(replay: str) -> tuple[str, float]:
    """Return the corpus and the share of every batch that ``replay`` names; SettingError for other texts."""
    corpus, _, text = replay.rpartition("@")
    try:
        share = float(text)
    except ValueError:
        share = float("nan")
    if not corpus or not 0 < share < 1:
        raise SettingError(
            f"replay is {replay!r}; expected CORPUS@SHARE with a share above 0 and below 1, such as 'pydoc@0.25'"
        )
    return corpus, share


def rows_of_text(share: float, batch_size: int) -> int:
    """Return how many rows of a batch are text, to the nearest.

    Raises:
      SettingError: that is none of them or all.
    """
    rows = math.floor(share * batch_size + 0.5)
    if not 0 < rows < batch_size:
        raise SettingError(
            f"replay has a share of {share:g}, which is {rows} of the {batch_size} rows of a batch; expected at least "
            "one of text and one of the task; pass another share, or a larger batch_size"
        )
    return rows


def accuracy_to_match(match: str) -> float:
    """Return the accuracy that ``match`` names; SettingError for other texts."""
    name, _, value = match.partition("=")
    try:
        target = float(value)
    except ValueError:
        target = float("nan")
    if name.strip() != "accuracy" or not 0 < target <= 1:
        raise SettingError(f"match is {match!r}; expected accuracy=NUMBER with a number above 0 and up to 1")
    return target


@dataclass(frozen=True)
class FinetuneConfig(RunSettings):
    """One run: what is trained, on which columns of the data, and what is measured meanwhile.

    Examples:
      ``intruders.FinetuneConfig(base="smollm2-135m", task="word-problems", out="my-run", method="lora")``
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_together(self)

    @property
    def lora_alpha(self) -> float:
        """Alpha as a number: a multiple of the rank is worked out."""
        return alpha_value(self.alpha, self.rank)

    def loading(self, kind: Kind) -> Loading:
        """Return how the base is loaded to train on a task of this kind: weights that are trained in float32.

        Raises:
          SettingError: a type of 16 bits or a quantized base is asked for, and a classification head would be trained
            with it.
        """
        if self.changes_base_weights:
            return IN_SINGLE
        if kind == "classification":
            if self.load_in is not None:
                raise SettingError(
                    f"load_in is {self.load_in!r}, but the head of a classification task is trained with the base, "
                    "which needs float32; leave --load-in out"
                )
            if self.dtype not in ("auto", "float32"):
                raise SettingError(
                    f"dtype is {self.dtype!r}, but the head of a classification task is trained with the base, which "
                    "needs float32; leave --dtype out"
                )
            return IN_SINGLE
        return Loading(dtype=self.dtype, load_in=self.load_in)

    @property
    def replayed(self) -> tuple[str, float]:
        """The corpus that ``replay`` names, and the share of every batch that is text of it."""
        assert self.replay is not None
        return replayed_share(self.replay)

    @property
    def target_accuracy(self) -> float | None:
        """The accuracy at which training stops, or None."""
        return None if self.match is None else accuracy_to_match(self.match)
