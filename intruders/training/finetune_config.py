"""The settings of one fine-tuning run, checked before any work starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import SettingError
from ..models.loading_settings import IN_SINGLE, Loading
from .config_checks import accuracy_to_match, alpha_value, check_together, replayed_share
from .run_settings import RunSettings

if TYPE_CHECKING:
    from ..data.task import Kind


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
