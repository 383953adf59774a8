"""What an adapter does to the weights of its base, whatever family it is of, and the fields of its config.

The fields of an ``adapter_config.json`` decide what its tensors mean; their types are checked when they are asked for.
"""

import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

from ...errors import CheckpointError, first_line
from ..stored.checkpoint import Checkpoint, StoredTensor, Tensors
from ..stored.locate import DEMO_MODELS, HubOrigin, split_revision
from ..stored.names import Shapes

if TYPE_CHECKING:
    from torch import Tensor

    from ...linalg.low_rank import LowRank


# Some seconds' worth. Patterns come from strangers, and Python's re backtracks without a limit.
_MOST_STEPS = 1e9


def fields_of_base(source: str) -> dict[str, str]:
    """Return how an adapter's config names a base: PEFT has the revision of a hub id in a field of its own."""
    repository, revision = split_revision(source) or (source, None)
    if revision is None or os.path.exists(source):
        return {"base_model_name_or_path": source}
    return {"base_model_name_or_path": repository, "revision": revision}


def usual_and_pattern(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What most modules have, and a pattern for each other one: readers compare every pattern with every module."""
    usual = Counter(values.values()).most_common(1)[0][0]
    # PEFT takes keys as regular expressions that any path may precede.
    others = {name: value for name, value in values.items() if value != usual}
    return usual, {f"^{re.escape(name.replace('.base_layer', ''))}": value for name, value in others.items()}


class AdapterConfig:
    """A config whose values are checked when they are asked for, under the name of where it came from."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values, self.source = values, source
        self.scales: dict[str, float] = {}  # by module, where a model in memory has its own
        self.steps = 0.0  # that matching patterns may have taken so far, at worst

    @property
    def peft_type(self) -> str:
        value = self.values.get("peft_type")
        text = getattr(value, "value", value)  # an enumeration in memory, a string in a file
        if not isinstance(text, str) or not text.isprintable():
            raise self.wrong("peft_type", "the name of a PEFT method")
        return text.upper()

    @property
    def base_source(self) -> str | None:
        """The base as the adapter names it, with the revision that PEFT notes beside a hub id."""
        value, revision = self.values.get("base_model_name_or_path"), self.values.get("revision")
        if not isinstance(value, str) or not value or not value.isprintable():
            return None
        if not isinstance(revision, str) or value in DEMO_MODELS or os.path.exists(value):
            return value
        with_revision = f"{value}@{revision}"
        return with_revision if split_revision(with_revision) == (value, revision) else value

    def flag(self, key: str) -> bool:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return bool(value)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        if not _is_number(value):
            raise self.wrong(key, "a number")
        return value

    def names(self, key: str) -> list[str]:
        value = self.values.get(key) or []
        names = [value] if isinstance(value, str) else value
        is_list = isinstance(names, list | tuple | set)
        if not is_list or not all(isinstance(item, str) and item.isprintable() for item in names):
            raise self.wrong(key, "a list of names")
        return sorted(names)

    def pattern_value(self, key: str, module: str, default: float, *, anywhere: bool = False) -> float:
        """The value that a pattern such as ``rank_pattern`` gives a module by its path; OSF's match ``anywhere``."""
        patterns = self.values.get(key) or {}
        if not isinstance(patterns, Mapping):
            raise self.wrong(key, "an object of module names and numbers")
        for pattern, value in patterns.items():
            if not _is_number(value):
                raise self.wrong(key, "an object of module names and numbers")
            whole = rf".*?({pattern})" if anywhere else rf"(.*\.)?({pattern})$"
            if self.matches(whole, str(pattern), module, key):
                return value
        return default

    def matches(self, whole: str, pattern: str, module: str, key: str) -> bool:
        self.steps += steps_at_worst(pattern, module)
        if self.steps > _MOST_STEPS:
            raise CheckpointError(
                f"the adapter config of '{self.source}' has the pattern {pattern[:60]!r}, which could keep "
                "the matching of module names busy forever; write the modules' names instead"
            )
        try:
            return re.match(whole, module) is not None
        except (re.error, RecursionError, OverflowError) as error:
            raise self.wrong(key, f"patterns that re compiles ({first_line(error)})") from None

    def wrong(self, key: str, expected: str) -> CheckpointError:
        given = str(self.values.get(key))[:60]
        return CheckpointError(
            f"the adapter config of '{self.source}' has {key} = {given!r}; expected {expected}"
        )


def _is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value can be computed with as a float: JSON has integers that are larger than any."""
    # Not by math.isfinite, which raises OverflowError for these.
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= sys.float_info.max


def steps_at_worst(pattern: str, name: str) -> float:
    """A bound on what matching may cost: length^(repeats + 1) * 2^(optional items); no bound for repeated groups."""
    bare = re.sub(r"\[[^\]]*\]", "x", re.sub(r"\\.", "x", pattern, flags=re.DOTALL))
    if re.search(r"\)[*+{]", bare):
        return math.inf
    repeats = len(re.findall(r"[*+{]", bare))
    optional = len(re.findall(r"(?<![*+}(])\?", bare))
    if repeats > 20 or optional > 60:
        return math.inf
    return float(max(len(name), 1)) ** (repeats + 1) * 2.0**optional


@dataclass(frozen=True)
class AdaptedWeight:
    """The update of one weight of the base by an adapter.

    ``change`` takes the base's weight (m, n), output side first, and the number of the expert whose weight it is; it
    gives the update with every scale folded in or, where it is not of low rank, the tuned weight (m, n).
    """

    name: str  # the weight, as the adapter names it
    shape: tuple[int, int]  # (m, n)
    rank: int | None  # of the update, when it comes as factors
    scale: float | None  # that PEFT puts on B A; None where there is none
    method: str  # "lora", "dora", "replaced", ...
    change: "Callable[[Tensor, int | None], LowRank | Tensor]" = field(repr=False)
    experts: int | None = None  # when the weight is a stack of this many matrices
    component: str = ""  # the part of a pipeline it is for ("unet", "te1"), where one file has several
    factor_rank: int | None = None  # of the factors inside an update that is dense itself, as DoRA's
    # Of a weight that PEFT makes, which is a linear layer's: as a merge by PEFT leaves it in the type of the base's
    # weight that it is given.
    merged: "Callable[[Tensor], Tensor] | None" = field(default=None, repr=False)
    # Of a method that changes the module's bias with its weight: the same update of a module that has this bias.
    with_bias: "Callable[[StoredTensor], AdaptedWeight] | None" = field(default=None, repr=False)
    # The bias as the adapter leaves it, from the base's weight (m, n); None where it changes none.
    bias: "Callable[[Tensor], Tensor] | None" = field(default=None, repr=False)

    @property
    def full_shape(self) -> tuple[int, ...]:
        """(m, n), or (experts, m, n); -1 where the adapter does not say."""
        return self.shape if self.experts is None else (self.experts, *self.shape)


@dataclass(frozen=True)
class Adapter:
    """An adapter: updates to weights of a base that is elsewhere.

    ``updates`` have the adapter's own names. ``named_for`` gives them for a base: under its names where the adapter
    writes these otherwise, for the parameters that its shapes decide, and made where modules share tensors.
    """

    source: str
    peft_type: str
    base_source: str | None  # as the adapter names its base
    replaced: Checkpoint = field(repr=False)  # weights trained and stored in full (``modules_to_save``)
    # Of a weight that only a base's shapes decide, the first that it may be.
    updates: list[AdaptedWeight] = field(repr=False)
    named_for: Callable[[Checkpoint, Shapes], list[AdaptedWeight]] | None = field(default=None, repr=False)
    ignored: list[tuple[str, str]] = field(default_factory=list, repr=False)  # (tensor, why)
    # The weights beneath the updates that it stores, by the updates' names: PEFT puts them in the base's place.
    beneath: Tensors = field(default_factory=dict, repr=False)
    # An initialization that took something out of the base that the adapter belongs to, as PiSSA does.
    start: str | None = None
    # What it makes of the base as it was before the start; None where the start cannot be repeated.
    repeated: list[AdaptedWeight] | None = field(default=None, repr=False)
    family: str = "PEFT"  # whose files it comes in
    decomposes: bool = False  # every weight in full, when it is made
    numbers: int | None = None  # that it stores, where the shapes of its updates do not tell
    notes: list[str] = field(default_factory=list)  # what a reader of the result should know
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)  # PEFT's settings as they are
    kind: str = "adapter"
    hub: tuple[HubOrigin, ...] = ()  # the commit that it was read from, if it lies in the hub's cache
