"""The result of a healing: what was learned, and what every model measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, ClassVar

from ..system.plain_values import plain
from ..system.result_protocol import JsonResult
from ..system.versions import installed_versions
from ..system.words import printable
from .experiment_settings import DOSES
from .point import HealedPoint

RECORD = "heal.json"

BASE, TUNED, HEALED, INTERPOLATION = "base", "tuned", "healed", "interpolation"
CURVE, INTRUDERS = "curve", "intruders scaled"

# Below this rise of the loss, in nats per token, there is little to heal.
LITTLE = 0.02

# By how much the share healed may be less on a corpus that chose nothing, before it is said in words.
_GAP = 0.15


@dataclass(frozen=True)
class Healing(JsonResult):
    """The doses and measures of a healing, as in ``heal.json``.

    Attributes:
      base: the model before fine-tuning.
      tuned: the fine-tuned model.
      out: the folder of the healed model, or None.
      form: "adapter" or "checkpoint".
      learn: what was learned: "doses" or "weights".
      per: what has a dose of its own: "matrix", "direction", "layer", "block" or "kind".
      task: the task that is kept.
      corpus: the corpus that it was learned on.
      start: the interpolation that learning started from.
      step: the step of the state that is kept.
      doses: the doses of every matrix; of learned weights those that they are in.
      elsewhere: the dose of other tuned tensors, or None.
      points: the measured models.
      learning: the measures of every state on the half that chooses.
      rivals: of its rivals the measures of the kept state, and then of every state, by name.
      norms: Frobenius norm of the update before and after, by matrix.
      documents: number of documents that are reported, by corpus.
      examples: number of examples that are reported, by task.
      digests: digests of the documents, by corpus.
      settings: the settings that were used.
      intruders_before: number of intruders before healing.
      intruders_after: number of intruders after healing, or None if nothing was written.
      intruders: number of intruders before and after, by matrix.
      seconds: the time it took.
      at_bounds: number of doses at an end of their range.
      notes: facts that a person should know.
      of: digests of the models and data, and the settings, by which the same healing is known again.
      versions: versions of the packages.

    Examples:
      ``intruders.heal("smollm2-135m", "my-adapter", task="word-problems", loss_on="pydoc").healed``
    """

    what = "the record of a healing"
    written_by = "intruders heal"
    file_name: ClassVar[str] = RECORD

    base: str
    tuned: str
    out: str | None
    form: str
    per: str
    task: str  # that is kept
    corpus: str  # that it was learned on
    start: float  # the interpolation that learning started from
    step: int  # of the state that is kept
    doses: Mapping[str, Sequence[float]] = field(repr=False)
    elsewhere: float | None  # of other tuned tensors
    points: Sequence[HealedPoint] = field(repr=False)
    learning: Sequence[Mapping[str, Any]] = field(repr=False)  # measures on the half that chooses
    documents: Mapping[str, int]
    examples: Mapping[str, int]
    digests: Mapping[str, Sequence[str]] = field(repr=False)  # of the documents of every corpus
    settings: Mapping[str, Any]
    intruders_before: int
    intruders_after: int | None
    intruders: Mapping[str, Sequence[int | None]] = field(default_factory=dict, repr=False)
    norms: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)
    rivals: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict, repr=False)
    seconds: float = 0.0
    at_bounds: int = 0
    learn: str = DOSES
    notes: Sequence[str] = ()
    of: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=installed_versions, repr=False)

    def point(self, name: str) -> HealedPoint | None:
        """Return the first model of that name."""
        return next((point for point in self.points if point.name == name), None)

    @property
    def base_point(self) -> HealedPoint:
        """The measures of the base."""
        return self._certain(BASE)

    @property
    def tuned_point(self) -> HealedPoint:
        """The measures of the tuned model."""
        return self._certain(TUNED)

    @property
    def healed_point(self) -> HealedPoint:
        """The measures of the healed model."""
        return self._certain(HEALED)

    @property
    def healed(self) -> float | None:
        """The healed share of the forgetting on the corpus chosen on; None if little was forgotten."""
        share = self.healed_point.corpora[self.corpus].healed
        return None if share is None else share.estimate

    def gaps(self) -> list[str]:
        """Name the corpora on which clearly less was healed than on the one that it was learned on."""
        own = self.healed
        if own is None:
            return []
        return [
            f"{share.estimate:.0%} healed on {name}, which chose nothing, and {own:.0%} on {self.corpus}: learn on "
            f"text that is nearer to {name}, or on more of it"
            for name, measure in self.healed_point.corpora.items()
            if (share := measure.healed) is not None and name != self.corpus and own - share.estimate > _GAP
        ]

    def in_card(self) -> list[str]:
        """Return its lines of the model card: the doses, and the losses of base, tuned and healed model."""
        doses = [dose for own in self.doses.values() for dose in own]
        what, ends = "Weights were learned", ""
        if self.step == 0:
            what = f"Interpolation with the dose {self.start:.2f} was chosen"
        elif self.learn == DOSES:
            what = f"A dose per {self.per} was learned"
            ends = f", from {min(doses):.2f} to {max(doses):.2f} (median {median(doses):.2f})"
        models = (self.base_point, self.tuned_point, self.healed_point)
        rows = {f"loss on {name}": [p.corpora[name].loss for p in models] for name in self.documents}
        rows |= {f"task loss of {name}": [p.tasks[name].loss for p in models] for name in self.examples}
        price = self.healed_point.tasks[self.task].rise
        return [
            f"- {what} on {self.corpus}{ends}; the price is {price.estimate:+.4f} nats of the task loss of {self.task}",
            "",
            "| nats per token | base | tuned | healed |",
            "|---|---:|---:|---:|",
            *(
                f"| {printable(name)} | {' | '.join(f'{loss.estimate:.4f}' for loss in losses)} |"
                for name, losses in rows.items()
            ),
        ]

    def to_document(self) -> dict[str, Any]:
        """Return plain JSON values: the content of ``heal.json``."""
        healing = plain(self)
        of, versions = healing.pop("of"), healing.pop("versions")
        return self.head() | {"of": of, "healing": healing, "versions": versions}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Healing":
        """Make it from the content of ``heal.json``."""
        own = {name: document[name] for name in ("of", "versions")}
        return super().from_document({**document["healing"], **own})

    def _certain(self, name: str) -> HealedPoint:
        point = self.point(name)
        assert point is not None
        return point
