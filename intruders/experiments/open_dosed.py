"""The models whose updates get doses, and what they read: their updates, and texts and examples as tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ..checkpoints.pairing.in_memory import in_memory
from ..checkpoints.pairing.pairing import PairedMatrix
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.names import tensor_of
from ..data.corpora import OWN_TEXT, Corpora, Corpus
from ..data.task import Task
from ..errors import NonFiniteError, NotEnoughMemoryError, SettingError
from ..linalg.low_rank import LowRank
from ..linalg.svd import significant
from ..measures.losses import Outcome, TaskOutcome, mean_loss
from ..measures.measure_settings import LossSettings
from ..mitigation.beyond_doses import require_only_matrices, require_same_head, require_same_vocabulary
from ..models.answers import own_text
from ..models.encoding import ids_at_start
from ..models.given_model import GivenModel
from ..models.loading_settings import Loading, require_one_device, require_whole_weights
from ..models.memory_plan import available_memory
from ..models.task_fit import is_masked
from ..models.tuned_model import OpenedModel, open_language_model, reading_as
from ..system.progress import Progress
from ..system.store import Kept
from .bench import Measuring, Scored, distinct_models, opened_for_tasks
from .data_shares import DataShare, HealData, data_of, own_answers, task_of_prompts
from .dosed_model import DosedUpdate, DoseGroups, DoseVector, TunedState, dose_groups, put_in_doses
from .experiment_settings import LEARNED_AS_WEIGHTS, HealSettings
from .learning import OnTask, standard_error
from .question import Question


def read_updates(
    pairs: Sequence[PairedMatrix],
    per: str,
    device: torch.device,
    progress: Progress,
    dense_dtype: torch.dtype = torch.float32,
) -> dict[str, DosedUpdate]:
    """Read every update that is not zero, by its matrix; dense ones are held in ``dense_dtype``."""
    updates: dict[str, DosedUpdate] = {}
    for done, pair in enumerate(pairs):
        progress("read updates", done, len(pairs))
        loaded = pair.load()
        if loaded is None:
            continue
        update = loaded.widened().update
        whole = update if isinstance(update, LowRank) else update.dense()
        parts = (whole.left, whole.right) if isinstance(whole, LowRank) else (whole,)
        if not all(bool(part.isfinite().all()) for part in parts):
            raise NonFiniteError(
                f"the update of '{pair.name}' contains NaN or infinity, so no dose of it is a model; fix the tuned "
                "model"
            )
        if per == "direction" and isinstance(whole, LowRank):
            # A column for every singular direction, strongest first: (m, r) and (r, n).
            svd = whole.svd
            count = max(1, significant(svd.values))
            whole = LowRank((svd.left[:count] * svd.values[:count].unsqueeze(-1)).mT, svd.right[:count])
        # A dense update is as large as the weight.
        updates[pair.name] = whole.to(device, torch.float32 if isinstance(whole, LowRank) else dense_dtype)
    return updates


def encoded_texts(opened: OpenedModel, corpus: Corpus, max_tokens: int) -> list[list[int]]:
    """Return the token ids of every document of two tokens or more, at most as many as are read."""
    width = min(max_tokens, opened.context)
    rows: list[list[int]] = [ids_at_start(opened.tokenizer, text, width) for text in corpus.documents]
    kept = [ids for ids in rows if len(ids) > 1]
    if not kept:
        raise SettingError(
            f"no document of corpus {corpus.name!r} has two tokens or more; expected text to learn from; pass "
            "another --loss-on"
        )
    return kept


def tuned_elsewhere(model: nn.Module, base: Checkpoint, paired: Sequence[str]) -> list[str]:
    """Return the base's names of tensors that were tuned and contain none of the paired matrices."""
    paired_tensors = {tensor_of(name) for name in paired}
    state: Mapping[str, Tensor] = model.state_dict()
    held = in_memory(base, model)
    unpaired = [name for name in base.names() if name not in paired_tensors]
    return [changed.name for changed in held.changed(unpaired, state)]


@dataclass(frozen=True)
class DosedModels:
    """The models of texts and tasks, with one vector of doses on all of them."""

    language: OpenedModel
    scored: Scored  # by task
    updates: Mapping[str, DosedUpdate]  # of the tuned model, by the base's names of the matrices
    groups: DoseGroups
    doses: DoseVector

    @property
    def is_in_full(self) -> bool:  # whether any update is a matrix and no factors
        return any(isinstance(update, Tensor) for update in self.updates.values())

    def add(self, changes: Mapping[str, LowRank], factor: float) -> DoseVector:
        """Add low-rank matrices to those that are dosed from now on, each times a factor; return the factors."""
        device = self.doses.values.device
        factors = DoseVector(torch.full((len(changes),), factor, device=device))
        self.doses.added = {
            name: (change.to(device, torch.float32), factors, position)
            for position, (name, change) in enumerate(changes.items())
        }
        return factors


def open_dosed(question: Question, tasks: Mapping[str, Task], per: str, *, so: str) -> DosedModels:
    """Open the models, and let them compute with their updates in doses, each dose 1 at first.

    Of an adapter on causal tasks the base is opened, to whose weights the updates are added. A dense update has one
    dose where others have one ``per`` direction. ``so`` says in an error what follows where the tuned model changes
    nothing. SettingError where an adapter changes what no dose acts on.
    """
    pairs, loading = question.pairs, question.loading
    require_same_head(question.both)
    require_same_vocabulary(question.both)
    require_only_matrices(question.both)
    question.progress("open the models", 0, 1)
    is_base = question.is_adapter and all(task.kind == "causal" for task in tasks.values())
    at: tuple[str, str | None, Loading] = (question.tuned, question.base, loading)
    if is_base:
        require_one_device(loading)
        at = (question.base_source, None, loading)
    else:
        require_whole_weights(loading)
    language = open_language_model(*at, merged=True)
    if is_base:
        language = reading_as(language, question.tuned)
    scored = opened_for_tasks(language, *at, tasks)
    device = language.device
    updates = read_updates(pairs, per, device, question.progress, language.dtype)
    if not updates:
        raise SettingError(
            f"'{question.tuned}' changes nothing in '{question.base_source}', so {so}; pass the model after fine-tuning"
        )
    base, others = question.stacks, list[str]()
    if not question.is_adapter:  # such as norms, which only a checkpoint can store in a dose
        others = tuned_elsewhere(language.model, base, [pair.name for pair in pairs])
    ranks = {name: update.rank if isinstance(update, LowRank) else 1 for name, update in updates.items()}
    groups = dose_groups(list(updates), per, ranks, with_elsewhere=bool(others))
    doses = DoseVector(torch.ones(len(groups.names), device=device))
    for model in distinct_models(language, scored):
        model.requires_grad_(False).eval()
        put_in_doses(model, base, updates, groups, doses, others, is_base=is_base)
    return DosedModels(language, scored, updates, groups, doses)


NOT_KEPT = Kept(None)
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
        return TunedState([dose] * len(self.groups.names))

    def task_outcome(self, state: TunedState, share: DataShare) -> TaskOutcome:
        """Measure the losses of a state on the task that is kept, and the targets that it reproduces."""
        task = self.data.task
        alone = replace(share, corpora={}, examples={task: share.examples[task]})
        return self.outcome(state, alone, answers=False).tasks[task]

    def on_task(self, state: TunedState, share: DataShare, *, beside: TaskOutcome | None = None) -> OnTask:
        """Return what a state does on the task that is kept; with its standard error ``beside`` another's outcome."""
        own = self.task_outcome(state, share)
        error = 0.0 if beside is None else standard_error(own.losses, beside.losses)
        return OnTask(own.losses.mean, sum(own.reproduced), error)

    def text_loss(self, state: TunedState, share: DataShare) -> float:
        """Return the mean loss on text, in nats per token."""
        outcome = self.outcome(state, replace(share, examples={}), answers=False)
        means = [mean_loss(parts, share.weights[name]) for name, parts in outcome.corpora.items()]
        return sum(means) / len(means)


def open_to_heal(
    question: Question,
    corpora: Corpora,
    tasks: Mapping[str, Task],
    settings: HealSettings,
    *,
    prompts: Sequence[str] | None = None,
    kept: Kept = NOT_KEPT,
) -> HealBench:
    """Open the models with their updates in doses, and the data.

    Where there are no tasks, the tuned model's answers to ``prompts`` are one. Answers and measures are ``kept``.
    """
    causal = [name for name, task in tasks.items() if task.kind == "causal"]
    masked = is_masked(GivenModel(question.base_source).location)
    if masked and (causal or not tasks):
        what = f"task {causal[0]!r} wants" if causal else "prompts want"
        raise SettingError(
            f"'{question.base_source}' is a masked language model, and {what} one that writes; pass a "
            "task of classes"
        )
    if masked and set(OWN_TEXT) & set(corpora):
        raise SettingError(
            f"'{question.base_source}' is a masked language model, which writes no text; pass --loss-on pydoc, or a "
            "text file such as it was trained on"
        )
    if {settings.learn, *settings.rivals} & set(LEARNED_AS_WEIGHTS):
        _require_memory(question)
    dosed = open_dosed(question, tasks, settings.per, so="there is nothing to heal")
    language, scored, seed = dosed.language, dosed.scored, question.seed
    if prompts is not None:
        question.progress(f"answer {len(prompts)} prompts", 0, 1)
        unit = {"answers": list(prompts)}
        answers = kept.once(unit, list[str], partial(own_answers, language, prompts))
        task = task_of_prompts(prompts, answers, seed)
        tasks, scored = {task.name: task}, {task.name: language}
    amount = (settings.max_documents, settings.max_tokens, seed)
    with dosed.doses.off():
        corpora = {
            name: [own_text(language, name, *amount, kept, question.progress)] if name in OWN_TEXT else parts
            for name, parts in corpora.items()
        }
    losses = LossSettings(max_tokens=settings.max_tokens, estimate=settings.estimate)
    return HealBench(
        **{**vars(dosed), "scored": scored},
        question=question,
        measuring=Measuring(losses, tasks, seed),
        data=data_of(corpora, tasks, settings, seed),
        kept=kept,
    )


def _require_memory(question: Question) -> None:
    """Raise NotEnoughMemoryError where there is too little to learn weights in, before a model is opened."""
    numbers = sum(
        rows * columns if pair.rank is None else pair.rank * (rows + columns)
        for pair in question.pairs
        for rows, columns in [pair.shape]
    )
    needed, available = numbers * _BYTES_OF_LEARNED, available_memory(question.loading.torch_device())
    if needed > available:
        raise NotEnoughMemoryError(
            f"{numbers:,} weights to learn need {needed / 2**30:.1f} GiB of {available / 2**30:.1f} GiB beside the "
            "model; pass --learn doses, which needs none of it, or use a machine with more memory"
        )
