"""The models of a healing, opened with their updates in doses, and the data that they are measured on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...checkpoints.pairing.pairing import PairedMatrix
from ...data.corpora import Corpora, Corpus
from ...data.task import Task
from ...errors import NotEnoughMemoryError, SettingError
from ...measures.kept_outcomes import KeptOutcomes
from ...measures.measure_settings import LossSettings
from ...models.loading_settings import Loading
from ...models.memory_plan import available_memory
from ...models.tuned_model import OpenedModel
from ...system.progress import Progress
from ..bench.given_sides import OpenedSides
from ..bench.live_models import Scored
from ..bench.measuring import Measuring
from ..doses.open_to_dose import in_doses, open_to_dose
from ..doses.updates import Updates, read_updates
from .heal_bench import HealBench
from .heal_data import HealData, data_of, own_answers, task_of_prompts
from .heal_settings import LEARNED_AS_WEIGHTS, OWN_TEXT, HealSettings
from .work_folder import NOWHERE, WorkFolder

# Of a learned weight in single precision: the tuned value, the present and the kept one, the gradient, Adam's moments.
_BYTES_OF_LEARNED = 6 * 4


@dataclass(frozen=True)
class OpenedBench:
    """The bench within the block that it is open in, its data, and the updates that have doses."""

    bench: HealBench
    data: HealData
    updates: Updates


@contextmanager
def open_bench(
    sides: OpenedSides,
    corpora: Corpora,
    tasks: Mapping[str, Task],
    prompts: Sequence[str] | None = None,
    *,
    settings: HealSettings,
    seed: int,
    loading: Loading,
    progress: Progress,
    work: WorkFolder = NOWHERE,
    key: Mapping[str, Any] | None = None,
) -> Iterator[OpenedBench]:
    """Open the models with their updates in doses, and the data, within the block.

    Args:
      sides: base and tuned model, opened.
      corpora: the text.
      tasks: the tasks; none where there are prompts.
      prompts: prompts whose answers by the tuned model are the task.
      settings: what has a dose, and on how much data.
      seed: seed of halves and samples.
      loading: how the models are loaded.
      progress: called with (what is being done, done, in all).
      work: where answers and measures are kept.
      key: everything that these depend on.

    Raises:
      SettingError: the tuned model changes nothing, or cannot answer; or there is too little data.
      IntrudersError: the models do not match, or cannot be loaded.
    """
    pairs = sides.pairs  # refuses models that do not match before either is opened
    if {settings.learn, *settings.rivals} & set(LEARNED_AS_WEIGHTS):
        _require_memory(pairs, loading)
    progress("open the models", 0, 1)
    language, scored = _opened(sides, tasks, loading)
    device = next(language.model.parameters()).device
    updates = read_updates(pairs, settings.per, device, progress, language.dtype)
    if not updates.names:
        raise SettingError(
            f"'{sides.tuned}' changes nothing in '{sides.base_source}', so there is nothing to heal; "
            "pass the model after fine-tuning"
        )
    with in_doses(language, scored, sides, updates, settings.per, tasks) as (groups, doses):
        kept = KeptOutcomes(work.folder, dict(key or {}))
        if prompts is not None:
            task = _task_of(prompts, language, seed, kept, progress)
            tasks, scored = {task.name: task}, {task.name: (language, [])}
        losses = LossSettings(max_tokens=settings.max_tokens, estimate=settings.estimate)
        bench = HealBench(
            language=language,
            scored=scored,
            measuring=Measuring(losses, tasks, seed),
            base=sides.stacks,
            groups=groups,
            doses=doses,
            updates=updates.by_name,
            kept=kept,
        )
        corpora = {name: _written(name, parts, bench, settings, seed) for name, parts in corpora.items()}
        data = data_of(corpora, tasks, settings, seed)
        yield OpenedBench(bench, data, updates)


def _opened(sides: OpenedSides, tasks: Mapping[str, Task], loading: Loading) -> tuple[OpenedModel, Scored]:
    language, scored = open_to_dose(sides, tasks, loading)
    causal = [name for name, task in tasks.items() if task.kind == "causal"]
    if language.is_masked and (causal or not tasks):
        what = f"task {causal[0]!r} wants" if causal else "prompts want"
        raise SettingError(
            f"'{sides.base_source}' is a masked language model, and {what} one that writes; pass a "
            "task of classes"
        )
    return language, scored


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


def _written(
    name: str, parts: Sequence[Corpus], bench: HealBench, settings: HealSettings, seed: int
) -> Sequence[Corpus]:
    """Return a corpus, and for one that the base writes its documents."""
    if name not in OWN_TEXT:
        return parts
    return [Corpus(name, bench.own_text(name, settings.max_documents, settings.max_tokens, seed))]


def _task_of(
    prompts: Sequence[str], language: OpenedModel, seed: int, kept: KeptOutcomes, progress: Progress
) -> Task:
    unit = {"answers": list(prompts)}
    answers = kept.get_plain(unit)
    if answers is None:
        progress(f"answer {len(prompts)} prompts", 0, 1)
        answers = own_answers(language, prompts)
        kept.put_plain(unit, answers)
    return task_of_prompts(prompts, answers, seed)
