"""One model measured part by part: every finished part is kept and reported, and models are loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from typing import Any

from ..checkpoints.writing.training_record import FinetunedFolder
from ..data.corpora import Corpora, Corpus
from ..data.task import Example, Task
from ..models.encoding import encode_classification
from ..models.loading import load_tokenizer
from ..models.loading_settings import Loading
from ..models.memory_plan import memory_plan
from ..models.tuned_model import (
    OpenedModel,
    base_location,
    can_go_on,
    open_for_task,
    open_language_model,
    put_on,
)
from ..system.plain_values import from_plain, plain
from ..system.progress import Progress
from ..system.store import Kept
from ..system.words import plural
from .corpus_loss import losses_by_corpus, require_read_alike, tokens_to_read
from .harness import HarnessScore, digest_of_own_tasks, harness_scores
from .losses import DocumentLosses
from .measure_settings import HarnessSettings, LossSettings
from .task_score import BATCH, TaskScore, score_of_answers, score_task


@dataclass
class MeasuredModel:
    """A model, and the base that it may be compared with."""

    source: str
    base: str | None
    kept: Kept
    losses: LossSettings
    seed: int
    loading: Loading
    progress: Progress
    notes: list[str] = field(default_factory=list)
    _language: OpenedModel | None = None  # the model itself, once it is open

    def losses_of_both(
        self, corpora: Corpora
    ) -> tuple[dict[str, list[DocumentLosses]], dict[str, list[DocumentLosses]] | None]:
        """Return the losses of the model and of its base. An adapter is put on the base that has been measured."""
        if not corpora:
            return {}, None if self.base is None else {}
        if self.base is None:
            return self._losses("model", corpora, self._open), None
        opened: list[OpenedModel] = []

        def open_base() -> OpenedModel:
            if not opened:
                opened.append(open_language_model(str(self.base), loading=self.loading))
            return opened[0]

        before = self._losses("base", corpora, open_base)
        if opened and can_go_on(self.source, self.base):
            self._keep_open(put_on(opened.pop(), self.source, self.base))
        opened.clear()  # the memory of the base is needed for the model

        def open_model() -> OpenedModel:
            model, most = self._open(), self.losses.max_tokens
            of_base = load_tokenizer(self._location("base"))
            require_read_alike(model.tokenizer, of_base, corpora, most, self.source, str(self.base))
            return model

        return self._losses("model", corpora, open_model), before

    def score(self, task: Task, split: str, most: int | None) -> TaskScore:
        """Return the score of a task's split. A causal model that is open is reused."""
        examples = task.split(split)[:most]
        unit = {
            "task": [task.kind, task.score, task.labels, task.max_new_tokens],
            "examples": [asdict(example) for example in examples],
        }

        def measured() -> tuple[dict[str, Any], Iterable[str]]:
            if task.kind == "causal" and self._language is not None and not self._language.is_masked:
                opened, labels = self._language, list[str]()
            else:
                if task.kind == "classification":
                    self._language = None  # the memory of the encoder is needed for the classifier
                opened, labels = open_for_task(self.source, task, self.base, self.loading)
                if task.kind == "causal":
                    self._language = opened
            self.progress(f"score {task.name}", 0, len(examples))
            batch = self.losses.windows or BATCH
            scored = score_task(opened, task, split=split, max_examples=most, labels=labels, batch_size=batch)
            notes = [*opened.notes, *self._note_on_longer_rows(opened, task, examples)]
            return {"right": scored.right, "unfinished": scored.unfinished}, notes

        record = self._once(unit, Any, measured)
        return score_of_answers(task, split, record["right"], record["unfinished"])

    def harness(self, settings: HarnessSettings, limit: int | None) -> list[HarnessScore]:
        """Return the scores of tasks of lm-evaluation-harness."""
        own = digest_of_own_tasks(settings)
        unit = {"harness": list(settings.lm_eval), "own": own, "limit": limit, "seed": self.seed}

        def measured() -> tuple[list[HarnessScore], Iterable[str]]:
            self.progress("score by lm-evaluation-harness", 0, 1)
            scores = harness_scores(self._open(), settings, limit=limit, seed=self.seed)
            return scores, self._open().notes

        scores: list[HarnessScore] = self._once(unit, list[HarnessScore], measured)
        return scores

    def _losses(
        self, which: str, corpora: Corpora, opened: Callable[[], OpenedModel]
    ) -> dict[str, list[DocumentLosses]]:
        # A unit is found by its documents, whatever the corpus was called when it was kept.
        units = {name: self._unit(which, parts) for name, parts in corpora.items()}
        done, in_all = 0, 0

        def advance(tokens: int) -> None:
            nonlocal done
            done += tokens
            self.progress(f"loss of the {which} (tokens)", min(done, in_all), in_all)

        @cache
        def ready() -> OpenedModel:
            nonlocal in_all
            missing = [parts for name, parts in corpora.items() if self.kept.get(units[name]) is None]
            plan = memory_plan(self._location(which), self.loading)
            self.progress(f"open the {which}" + ("" if plan is None else f" ({plan.words()})"), 0, 1)
            model = opened()
            in_all = sum(tokens_to_read(model.tokenizer, parts, self.losses) for parts in missing)
            advance(0)
            return model

        def measured(name: str) -> tuple[list[DocumentLosses], Iterable[str]]:
            model, parts = ready(), {name: corpora[name]}
            losses = losses_by_corpus(model, parts, self.losses, self.seed, advance)[name]
            return losses, model.notes if which == "model" else ()

        return {
            name: self._once(unit, list[DocumentLosses], partial(measured, name))
            for name, unit in units.items()
        }

    def _location(self, which: str) -> str:
        return (
            base_location(self.source, self.base) if which == "model" else base_location(str(self.base), None)
        )

    def _unit(self, which: str, parts: Sequence[Corpus]) -> dict[str, Any]:
        settings = self.losses
        return {
            "losses": which,
            "documents": [part.digest for part in parts],
            "window": settings.window,
            "stride": settings.stride,
            "max_tokens": settings.max_tokens,
            "estimate": settings.estimate,
            "seed": self.seed,
        }

    def _open(self) -> OpenedModel:
        if self._language is None:
            self._keep_open(open_language_model(self.source, self.base, self.loading))
        assert self._language is not None
        return self._language

    def _keep_open(self, opened: OpenedModel) -> None:
        self._language = opened
        self._note(opened.notes)

    def _note(self, notes: Iterable[str]) -> None:
        self.notes += [note for note in notes if note not in self.notes]

    def _once(
        self, unit: Mapping[str, Any], kind: Any, measure: Callable[[], tuple[Any, Iterable[str]]]
    ) -> Any:
        """Return a kept measurement, or make and keep it; what was noted when it was made is noted again."""
        kept = self.kept.get(unit)
        if kept is None:
            value, notes = measure()
            kept = plain({"value": value, "notes": list(notes)})
            self.kept.put(unit, kept)
        self._note(kept["notes"])
        return from_plain(kind, kept["value"])

    def _note_on_longer_rows(
        self, opened: OpenedModel, task: Task, examples: Sequence[Example]
    ) -> Iterator[str]:
        """Yield that a classifier is scored on more of its rows than its training, which cut them, has read."""
        folder = FinetunedFolder.of(self.source) if task.kind == "classification" else None
        limit = None if folder is None else folder.max_length
        if limit is None or limit >= opened.context:
            return
        rows = encode_classification(opened.tokenizer, examples, task.labels, opened.context)
        longer = sum(len(row["input_ids"]) > limit for row in rows)
        if longer:
            yield (
                f"{longer:,} of {plural(len(rows), 'row')} of task {task.name!r} have more than the {limit} tokens "
                f"that the training read of a row (max_length); up to {opened.context} of them are scored here, so the "
                "accuracy may differ from that of the run's own validation"
            )
