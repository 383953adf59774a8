"""The models of a healing, opened with their updates in doses, and the data that they are measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..checkpoints.pairing.pairing import PairedMatrix
from ..data.corpora import Corpora, Corpus
from ..data.task import Task
from ..errors import NotEnoughMemoryError, SettingError
from ..measures.losses import mean_loss
from ..measures.measure_settings import LossSettings
from ..measures.outcome import Outcome, TaskOutcome
from ..models.loading_settings import Loading
from ..models.memory_plan import available_memory
from ..models.tuned_model import OpenedModel
from ..system.store import Kept
from .bench import Measuring
from .data_shares import DataShare
from .dosed_model import TunedState
from .experiment_settings import LEARNED_AS_WEIGHTS, OWN_TEXT, HealSettings
from .heal_data import HealData, data_of, own_answers, own_documents, task_of_prompts
from .open_dosed import DosedModels, open_dosed
from .question import Question
from .work_folder import NOWHERE, WorkFolder

# Every halving of the range of a dose is one measure of the task.
_HALVINGS = 5


# Of a learned weight in single precision: the tuned value, the present and the kept one, the gradient, Adam's moments.
_BYTES_OF_LEARNED = 6 * 4


@dataclass(frozen=True, kw_only=True)
class HealBench(DosedModels):
    """The tuned model, measured in any state on any share of the data; what was measured before is kept."""

    question: Question
    measuring: Measuring
    data: HealData
    kept: Kept

    def outcome(self, state: TunedState, share: DataShare, *, answers: bool, removed: str = "") -> Outcome:
        """Measure the losses of documents and examples of a state; with ``answers`` also which answers are right.

        ``removed`` names another change of the model during the measurement.
        """
        unit = {**state.unit(), **self.measuring.unit(share, answers)}
        if removed:
            unit["removed"] = removed

        def measured() -> Outcome:
            own = self.doses.values
            doses = torch.tensor(state.doses, dtype=own.dtype, device=own.device)
            with self.doses.at(doses, state.learned):
                scored = {name: self.scored[name] for name in share.examples}
                return self.measuring.outcome(self.language, scored, share, answers)

        outcome: Outcome = self.kept.once(unit, Outcome, measured)
        return outcome

    def everywhere(self, dose: float) -> TunedState:
        """Return the interpolation with this dose: 1 is the tuned model, 0 the base."""
        return TunedState(self.groups.everywhere(dose))

    def on_task(self, state: TunedState, share: DataShare) -> TaskOutcome:
        """Return the losses on the examples of the task that is kept, and which targets the model reproduces."""
        task = self.data.task
        alone = replace(share, corpora={}, examples={task: share.examples[task]})
        return self.outcome(state, alone, answers=False).tasks[task]

    def text_loss(self, state: TunedState, share: DataShare) -> float:
        """Return the mean loss on text, in nats per token."""
        outcome = self.outcome(state, replace(share, examples={}), answers=False)
        means = [mean_loss(parts, share.weights[name]) for name, parts in outcome.corpora.items()]
        return sum(means) / len(means)

    def own_text(self, kind: str, count: int, tokens: int) -> list[Corpus]:
        """Return a corpus that the base itself writes, as :func:`own_documents`."""
        return _own_text(self, self.kept, kind, count, tokens, self.question.seed)


@contextmanager
def open_to_heal(
    question: Question,
    corpora: Corpora,
    tasks: Mapping[str, Task],
    settings: HealSettings,
    *,
    prompts: Sequence[str] | None = None,
    work: WorkFolder = NOWHERE,
    key: Mapping[str, Any] | None = None,
) -> Iterator[HealBench]:
    """Open the models with their updates in doses, and the data, within the block.

    Args:
      question: base and tuned model.
      corpora: the text.
      tasks: the tasks; none where there are prompts.
      settings: what has a dose, and on how much data.
      prompts: prompts whose answers by the tuned model are the task.
      work: where answers and measures are kept.
      key: everything that these depend on.

    Raises:
      SettingError: the tuned model changes nothing, or cannot answer; or there is too little data.
      IntrudersError: the models do not match, or cannot be loaded.
    """
    if {settings.learn, *settings.rivals} & set(LEARNED_AS_WEIGHTS):
        _require_memory(question.pairs, question.loading)
    with open_dosed(question, tasks, settings.per, so="there is nothing to heal") as dosed:
        language, scored, seed = dosed.language, dosed.scored, question.seed
        causal = [name for name, task in tasks.items() if task.kind == "causal"]
        if language.is_masked and (causal or not tasks):
            what = f"task {causal[0]!r} wants" if causal else "prompts want"
            raise SettingError(
                f"'{question.base_source}' is a masked language model, and {what} one that writes; pass a "
                "task of classes"
            )
        kept = Kept(work.folder, dict(key or {}))
        if prompts is not None:
            task = _task_of(prompts, language, kept, question)
            tasks, scored = {task.name: task}, {task.name: (language, [])}
        most = settings.max_documents, settings.max_tokens, seed
        corpora = {
            name: _own_text(dosed, kept, name, *most) if name in OWN_TEXT else parts
            for name, parts in corpora.items()
        }
        losses = LossSettings(max_tokens=settings.max_tokens, estimate=settings.estimate)
        yield HealBench(
            **{**vars(dosed), "scored": scored},
            question=question,
            measuring=Measuring(losses, tasks, seed),
            data=data_of(corpora, tasks, settings, seed),
            kept=kept,
        )


def _require_memory(pairs: Sequence[PairedMatrix], loading: Loading) -> None:
    """Refuse weights that cannot be learned in the memory that there is, before a model is opened.

    Raises:
      NotEnoughMemoryError: they need more than there is.
    """
    numbers = sum(
        rows * columns if pair.rank is None else pair.rank * (rows + columns)
        for pair in pairs
        for rows, columns in [pair.shape]
    )
    needed, available = numbers * _BYTES_OF_LEARNED, available_memory(loading.torch_device())
    if needed > available:
        raise NotEnoughMemoryError(
            f"{numbers:,} weights to learn need {needed / 2**30:.1f} GiB of {available / 2**30:.1f} GiB beside the "
            "model; pass --learn doses, which needs none of it, or use a machine with more memory"
        )


def _own_text(models: DosedModels, kept: Kept, kind: str, count: int, tokens: int, seed: int) -> list[Corpus]:
    unit = {"text": kind, "count": count, "tokens": tokens, "seed": seed}

    def written() -> list[str]:
        with models.doses.off():
            return own_documents(models.language, kind, count, tokens, seed)

    return [Corpus(kind, kept.once(unit, list[str], written))]


def _task_of(prompts: Sequence[str], language: OpenedModel, kept: Kept, question: Question) -> Task:
    unit = {"answers": list(prompts)}
    answers = kept.get(unit)
    if answers is None:
        question.progress(f"answer {len(prompts)} prompts", 0, 1)
        answers = own_answers(language, prompts)
        kept.put(unit, answers)
    return task_of_prompts(prompts, answers, question.seed)


def least_dose(is_enough: Callable[[float], bool], halvings: int = _HALVINGS) -> float:
    """Return the smallest common dose, to ``0.5 ** halvings``, that is enough; 1 if none is."""
    low, high = 0.0, 1.0
    for _ in range(halvings):
        middle = (low + high) / 2
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return high
