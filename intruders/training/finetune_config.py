"""The settings of one fine-tuning run, and their checks before any work starts: what they mean, and go together."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.columns import Columns
from ..data.corpora import SELF
from ..errors import SettingError
from ..models.loading_settings import IN_SINGLE, Loading
from ..settings import option_of, settings_of
from .callback.limits import Limits
from .run_settings import METHODS, PLAIN_LORA, Meanwhile, Method, Training

if TYPE_CHECKING:
    from ..data.task import Kind

# Schedules of the Trainer that leave warm-up out.
_WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")


@dataclass(frozen=True)
class FinetuneConfig(Limits, Meanwhile, Columns, Training):
    """One run: what is trained, on which columns of the data, and what is measured meanwhile.

    Examples:
      ``intruders.FinetuneConfig(base="smollm2-135m", task="word-problems", out="my-run", method="lora")``
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is None and self.epochs is None:
            raise SettingError("neither steps nor epochs is given; expected one of the two")
        if self.steps is not None and self.epochs is not None:
            raise SettingError(f"steps is {self.steps} and epochs is {self.epochs}; expected one of the two")
        self._check_method()
        for name in ("stop_above", "loss_on", "keep_forgetting_below", "keep_intruders_below"):
            given = getattr(self, name)
            if given is not None and self.audit_steps is None:
                raise SettingError(f"{name} is {given!r}, but no audits are made; pass audit_steps too")
        if self.go_on_over_limit and not self.has_limit:
            raise SettingError(
                "go_on_over_limit is given without a limit; pass keep_forgetting_below or keep_intruders_below too"
            )
        _ = self.lora_alpha, self.target_accuracy  # which refuse what they cannot read
        if self.replay is not None:
            rows_of_text(self.replayed[1], self.batch_size)
        if self.steps is not None:
            self.check_steps(self.steps)

    @property
    def kind_of_method(self) -> Method:
        return METHODS[self.method]

    @property
    def starts_from_changed_base(self) -> bool:
        return self.kind_of_method.starts_from_changed_base

    @property
    def changes_base_weights(self) -> bool:
        """Whether weights of the base are trained, or start from other values than the checkpoint's."""
        return self.method == "full" or self.starts_from_changed_base

    @property
    def lora_alpha(self) -> float:
        """Alpha as a number: a multiple of the rank is worked out."""
        text = str(self.alpha).strip()
        value = _number(text[:-1] or "1") * self.rank if text.endswith("r") else _number(text)
        if not 0 < value < math.inf:
            raise SettingError(
                f"alpha is {self.alpha!r}; expected a positive number, or a multiple of the rank such as '2r'"
            )
        return value

    @property
    def replayed(self) -> tuple[str, float]:
        """The corpus that ``replay`` names, and the share of every batch that is text of it."""
        corpus, _, text = str(self.replay).rpartition("@")
        share = _number(text)
        if not corpus or not 0 < share < 1:
            raise SettingError(
                f"replay is {self.replay!r}; expected CORPUS@SHARE with a share above 0 and below 1, such as "
                "'pydoc@0.25'"
            )
        return corpus, share

    @property
    def replayed_corpus(self) -> str | None:
        """The corpus that is replayed; None without replay, and where the base itself writes the text."""
        return None if self.replay is None or self.replayed[0] == SELF else self.replayed[0]

    @property
    def target_accuracy(self) -> float | None:
        """The accuracy at which training stops, or None."""
        if self.match is None:
            return None
        name, _, value = self.match.partition("=")
        target = _number(value)
        if name.strip() != "accuracy" or not 0 < target <= 1:
            raise SettingError(
                f"match is {self.match!r}; expected accuracy=NUMBER with a number above 0 and up to 1"
            )
        return target

    def loading(self, kind: "Kind") -> Loading:
        """Return how the base is loaded for this kind of task; SettingError if a head would not be in float32."""
        if self.changes_base_weights:
            return IN_SINGLE
        if kind != "classification":
            return Loading(dtype=self.dtype, load_in=self.load_in)
        for name, allowed in (("load_in", (None,)), ("dtype", ("auto", "float32"))):
            if getattr(self, name) not in allowed:
                raise SettingError(
                    f"{name} is {getattr(self, name)!r}, but the head of a classification task is trained with the "
                    f"base, which needs float32; leave {option_of(name)} out"
                )
        return IN_SINGLE

    def check_steps(self, steps: int) -> None:
        """Raise SettingError for settings that a run of ``steps`` optimizer steps would never reach."""
        if self.match is not None and self.eval_steps > steps:
            raise SettingError(
                f"eval_steps is {self.eval_steps}, and the run has {steps} steps, so that the accuracy for "
                f"match {self.match!r} would never be measured; lower eval_steps to {steps} or less"
            )
        if self.warmup_steps >= max(1, steps) and self.lr_scheduler_type not in _WITHOUT_WARMUP:
            raise SettingError(
                f"warmup_steps is {self.warmup_steps:g}, and the run has {steps} steps, so that it would end before "
                f"the learning rate {self.lr:g} is reached; lower warmup_steps, or pass a fraction below 1"
            )

    def _check_method(self) -> None:
        if self.init_a != "random" and not self.kind_of_method.freezes_a:
            raise SettingError(
                f"init_a is {self.init_a!r}, which is for lora-fa and b-only; method is {self.method!r}"
            )
        if self.start_from is not None and self.changes_base_weights:
            raise SettingError(
                f"start_from is {self.start_from!r}, which method {self.method!r} cannot go on from; "
                "merge that adapter into the base instead"
            )
        for name in ("budget", "budget_pilot"):
            given = getattr(self, name)
            # Of full fine-tuning it is ignored, as all settings of adapters: a study may ask it of all methods.
            if given is not None and not (self.kind_of_method.is_plain_lora or self.method == "full"):
                raise SettingError(
                    f"{name} is {given!r}, but the update of method {self.method!r} is not alpha/r B A, which it "
                    f"scales; pass one of {', '.join(PLAIN_LORA)} as --method"
                )
            if given is not None and self.load_in is not None:
                raise SettingError(
                    f"{name} is {given!r}, and load_in is {self.load_in!r}: the budget is of the base's singular "
                    "values, which packed numbers do not have; leave one of the two out"
                )
        if self.dtype not in ("auto", "float32") and self.changes_base_weights:
            raise SettingError(
                f"dtype is {self.dtype!r}, but method {self.method!r} changes the base's weights, which needs "
                "float32; leave --dtype out, or choose a method that keeps them, such as lora"
            )
        if self.load_in is not None and (self.changes_base_weights or self.kind_of_method.reads_base_weights):
            raise SettingError(
                f"load_in is {self.load_in!r}, but method {self.method!r} needs the base's own weights; leave "
                "--load-in out, or choose a method that only adds to them, such as lora"
            )
        if self.train_all and self.method != "full":
            raise SettingError(f"train_all is for method full; method is {self.method!r}")


# Settings that a full fine-tuning carries along without using them.
ADAPTER_ONLY = frozenset(
    name for name, setting in settings_of(FinetuneConfig).items() if setting.adapter_only
)


def rows_of_text(share: float, batch_size: int) -> int:
    """Return how many rows of a batch are text, to the nearest; SettingError if that is none of them or all."""
    rows = math.floor(share * batch_size + 0.5)
    if not 0 < rows < batch_size:
        raise SettingError(
            f"replay has a share of {share:g}, which is {rows} of the {batch_size} rows of a batch; expected at least "
            "one of text and one of the task; pass another share, or a larger batch_size"
        )
    return rows


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
