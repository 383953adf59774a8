"""When a training is audited and ended, the text on which its loss is measured, and the limits of a kept state."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any, TypedDict, TypeVar

from ...errors import SettingError
from ...settings import Settings, setting


@dataclass(frozen=True)
class Watch(Settings):
    """When a training is audited, and what then ends it or warns."""

    every: int = setting(
        100,
        "Number of steps between audits.",
        least=1,
        expected="a whole number of steps between audits, 1 or more",
    )
    stop_above: int | None = setting(
        None,
        "End the training when an audit finds more intruders than this.",
        least=0,
        expected="a whole number of intruders, 0 or more",
    )
    alert_above: int | None = setting(
        None,
        "Warn when an audit finds more intruders than this, in Weights & Biases and trackio too.",
        least=0,
        expected="a whole number of intruders, 0 or more",
    )


@dataclass(frozen=True)
class Text(Settings):
    """The text on which each audit measures the loss too."""

    loss_on: str | None = setting(
        None,
        "Corpus on which every audit measures the loss too, such as pydoc. Its rise over the base is logged.",
        changes_weights=False,
        new_in="0.2",
        metavar="CORPUS",
        panel="Accuracy and stopping",
        advanced=True,
        unless_given="default: none",
    )
    loss_documents: int = setting(
        8,
        "Number of documents of --loss-on.",
        least=1,
        changes_weights=False,
        new_in="0.2",
        metavar="N",
        panel="Accuracy and stopping",
        advanced=True,
    )
    loss_tokens: int = setting(
        256,
        "Number of tokens of each document of --loss-on, from its start.",
        least=2,
        changes_weights=False,
        new_in="0.2",
        metavar="N",
        panel="Accuracy and stopping",
        advanced=True,
    )


@dataclass(frozen=True)
class Limits(Settings):
    """The limits of a state that is kept; None of them means that none is. With both, a state is below both.

    The Trainer saves every audited state below them as a checkpoint, keeps the last one, and loads it when the training
    ends above, so that it is what is saved.
    """

    keep_forgetting_below: float | None = setting(
        None,
        "Save the last audited state whose loss on --loss-on is less than this many nats per token above the base's, "
        "and stop at the first audit that is not below.",
        above=0,
        in_id="below{:g}",
        new_in="0.2",
        metavar="NATS",
        panel="Accuracy and stopping",
        advanced=True,
        unless_given="default: no limit",
    )
    keep_intruders_below: int | None = setting(
        None,
        "Save the last audited state with fewer intruders than this number, and stop at the first audit that has as "
        "many.",
        least=1,
        in_id="below{}intruders",
        new_in="0.2",
        metavar="N",
        panel="Accuracy and stopping",
        advanced=True,
        unless_given="default: no limit",
    )
    go_on_over_limit: bool = setting(
        False,
        "Train on after an audit that is not below a limit; a later state below it is saved instead.",
        in_id="goes-on",
        new_in="0.2",
        panel="Accuracy and stopping",
        advanced=True,
    )

    @property
    def has_limit(self) -> bool:
        """Whether there is a limit."""
        return self.keep_forgetting_below is not None or self.keep_intruders_below is not None

    def is_below(self, intruders: int, forgetting: float | None) -> bool:
        """Return whether a state with this number of intruders and this rise is below both limits."""
        few = self.keep_intruders_below is None or intruders < self.keep_intruders_below
        # A rise that is not a number is below no limit.
        limit = self.keep_forgetting_below
        return few and (limit is None or forgetting is None or forgetting < limit)


def require_loss(limits: Limits, text: Text) -> None:
    """Raise SettingError for a limit of the loss where no loss is measured."""
    if limits.keep_forgetting_below is not None and text.loss_on is None:
        raise SettingError(
            f"keep_forgetting_below is {limits.keep_forgetting_below:g}, but no loss is measured; pass loss_on with a "
            "corpus, such as 'pydoc'"
        )


class Named(TypedDict, total=False):
    """The fields of the three by name."""

    every: int
    stop_above: int | None
    alert_above: int | None
    loss_on: str | os.PathLike[str] | None
    loss_documents: int
    loss_tokens: int
    keep_forgetting_below: float | None
    keep_intruders_below: int | None
    go_on_over_limit: bool


Group = TypeVar("Group", Watch, Text, Limits)


def taken(kind: type[Group], given: Group | None, named: dict[str, Any]) -> Group:
    """Return the values that are given as one object, or by their names, which are taken out of ``named``.

    Raises:
      SettingError: a value is out of range, or given both ways.
    """
    own = {field.name: named.pop(field.name) for field in fields(kind) if field.name in named}
    if given is None:
        return kind(**own)
    if own:
        raise SettingError(
            f"{', '.join(own)} and a {kind.__name__} are given; expected one of the two; put them into the "
            f"{kind.__name__}"
        )
    return given
