"""The result of an attribution: the parts of a rise, by matrix and in groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from ..measures.intervals import Interval
from ..system.plain_values import plain
from ..system.result_protocol import JsonResult
from .dosed_model import ELSEWHERE


@dataclass(frozen=True)
class MeasuredRise:
    """One corpus or task: what tuning changed there, in nats per token."""

    name: str
    kind: Literal["text", "task"]
    measure: str
    documents: int  # or examples
    tokens: int
    base_loss: float
    tuned_loss: float
    rise: Interval  # tuned minus base, over documents
    total: float  # of all parts
    nodes: int  # of the path integral


@dataclass(frozen=True)
class Share:
    """The part of one matrix, layer or module type in every rise, in nats per token."""

    name: str
    parts: Mapping[str, Interval]  # by corpus or task
    matrices: int = 1

    def ratio(self, text: str, task: str | None) -> float | None:
        """Return the rise on the text per nat that the task's loss fell; None if it did not fall."""
        if task is None or self.parts[task].estimate >= 0:
            return None
        return self.parts[text].estimate / -self.parts[task].estimate


@dataclass(frozen=True)
class MatrixShare(Share):
    """The part of one matrix in every rise."""

    intruders: int | None = None  # None where it was not audited
    of_intruders: Mapping[str, float] = field(default_factory=dict)  # of the update inside their span
    directions: Mapping[str, Sequence[float]] = field(default_factory=dict)  # of the update, strongest first


@dataclass(frozen=True)
class LeftOut:
    """The check of a part: the fall of the rise when that matrix alone is the base's."""

    name: str
    part: float
    fall: float


@dataclass(frozen=True)
class Attribution(JsonResult):
    """Which matrices make a fine-tuned model forget, and which earn its task.

    Attributes:
      base: the model before fine-tuning, as it was given or named.
      tuned: the fine-tuned model.
      rises: the change of every corpus and task, the texts first.
      matrices: the part of each tuned matrix, in the model's order.
      layers: the parts summed by layer.
      kinds: the parts summed by module type.
      elsewhere: the part of tuned norms, biases and other tensors that are not matrices, or None.
      checks: for the largest matrices, the fall of the rise when that matrix alone is the base's.
      correlations: Spearman correlations over matrices of the first text's parts with other quantities.
      settings: the settings that were used.
      seconds: the time it took.

    Examples:
      ``intruders.attribute("smollm2-135m", "my-adapter", loss_on="pydoc").to_pandas()``
    """

    what = "an attribution"
    written_by = "intruders attribute --json"

    base: str
    tuned: str
    rises: Sequence[MeasuredRise]
    matrices: Sequence[MatrixShare] = field(repr=False)
    layers: Sequence[Share] = field(repr=False)
    kinds: Sequence[Share]
    elsewhere: Share | None
    checks: Sequence[LeftOut] = field(repr=False)
    correlations: Mapping[str, float]
    settings: Mapping[str, Any]
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The first corpus."""
        return self.rises[0].name

    @property
    def task(self) -> str | None:
        """The first task."""
        return next((rise.name for rise in self.rises if rise.kind == "task"), None)

    def largest(self, count: int) -> list[MatrixShare]:
        """Return the matrices with the largest parts of the first text's rise, largest first."""
        return sorted(self.matrices, key=lambda share: -share.parts[self.text].estimate)[:count]

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row per matrix and measure."""
        return pd.DataFrame(
            {
                "name": share.name,
                "measure": rise.name,
                "kind": rise.kind,
                **share.parts[rise.name].cells("part"),
                "intruders": share.intruders,
                "part_of_intruders": share.of_intruders.get(rise.name),
            }
            for share in self.matrices
            for rise in self.rises
        )

    def to_document(self) -> dict[str, Any]:
        return {
            "schema": self.schema,
            "base": self.base,
            "tuned": self.tuned,
            "rise": self.rises[0].rise.estimate,
            "measures": plain(self.rises),
            "modules": [
                {
                    "name": share.name,
                    "part": share.parts[self.text].estimate,
                    "parts": plain(share.parts, short=True),
                    "intruders": share.intruders,
                    "part_of_intruders": plain(share.of_intruders),
                    "directions": plain(share.directions),
                }
                for share in self.matrices
            ],
            "layers": [_group(share) for share in self.layers],
            "kinds": [_group(share) for share in self.kinds],
            "elsewhere": None if self.elsewhere is None else plain(self.elsewhere.parts, short=True),
            "left_out": plain(self.checks),
            "correlations": dict(self.correlations),
            "settings": dict(self.settings),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Attribution":
        """Make it from its document, which does not say how long it took."""
        modules, elsewhere = document["modules"], document["elsewhere"]
        own = {
            "rises": document["measures"],
            "matrices": [{**share, "of_intruders": share["part_of_intruders"]} for share in modules],
            "elsewhere": elsewhere and {"name": ELSEWHERE, "parts": elsewhere, "matrices": 0},
            "checks": document["left_out"],
        }
        return super().from_document({**document, **own})


def _group(share: Share) -> dict[str, Any]:
    return {"name": share.name, "matrices": share.matrices, "parts": plain(share.parts, short=True)}
