"""The models whose updates get doses, and what they read: their updates, and texts and examples as tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.pairing.in_memory import BaseInMemory
from ..checkpoints.pairing.pairing import PairedMatrix
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.names import tensor_of
from ..data.corpora import Corpus
from ..data.task import Example, Task
from ..errors import NonFiniteError, SettingError
from ..linalg.low_rank import LowRank
from ..linalg.svd import significant
from ..mitigation.beyond_doses import require_only_matrices, require_same_head, require_same_vocabulary
from ..models.encoding import encode_classification, encode_completions, ids_at_start
from ..models.loading_settings import Loading, require_one_device, require_whole_weights
from ..models.tuned_model import OpenedModel, open_language_model, reading_as
from ..system.progress import Progress
from .bench import Scored, opened_for_tasks
from .dose_groups import DoseGroups, dose_groups
from .dosed_model import DosedModel, DosedUpdate, DoseVector
from .question import Question


@dataclass(frozen=True)
class Updates:
    """The updates that are added to the base, by the base's names of the matrices."""

    by_name: Mapping[str, DosedUpdate]
    shapes: Mapping[str, tuple[int, int]]

    @property
    def names(self) -> list[str]:
        return list(self.by_name)

    @property
    def ranks(self) -> dict[str, int]:
        """The number of directions of each update; a dense one counts as one."""
        return {
            name: 1 if update.left is None else len(update.right) for name, update in self.by_name.items()
        }

    def in_directions(self) -> Updates:
        """Return the updates with every low-rank one in its singular directions, strongest first."""
        by_name = {
            name: update
            if update.left is None
            else DosedUpdate.of(_in_directions(LowRank(update.left, update.right)), update.right.device)
            for name, update in self.by_name.items()
        }
        return Updates(by_name, self.shapes)


def read_updates(
    pairs: Sequence[PairedMatrix],
    per: str,
    device: torch.device,
    progress: Progress,
    dense_dtype: torch.dtype = torch.float32,
) -> Updates:
    """Read every update that is not zero, one by one; dense ones are held in ``dense_dtype``.

    Raises:
      SettingError: nothing was changed, or an update without a low rank should have a dose per direction.
      NonFiniteError: an update contains NaN or infinity.
    """
    by_name: dict[str, DosedUpdate] = {}
    for done, pair in enumerate(pairs):
        progress("read updates", done, len(pairs))
        loaded = pair.load()
        if loaded is None:
            continue
        update = loaded.widened().update
        if isinstance(update, LowRank):
            if not bool(update.left.isfinite().all() and update.right.isfinite().all()):
                raise _not_finite(pair.name)
            if per == "direction":
                update = _in_directions(update)
            by_name[pair.name] = DosedUpdate.of(update, device)
            continue
        if per == "direction":
            raise SettingError(
                f"per is 'direction', and the update of '{pair.name}' has no low rank; pass --per matrix"
            )
        dense = update.dense()
        if not bool(dense.isfinite().all()):
            raise _not_finite(pair.name)
        by_name[pair.name] = DosedUpdate.of(dense, device, dense_dtype)
    return Updates(by_name, {pair.name: pair.shape for pair in pairs if pair.name in by_name})


def _in_directions(update: LowRank) -> LowRank:
    """Return the update with a column for every singular direction, strongest first, (m, r) and (r, n)."""
    svd = update.svd()
    count = max(1, significant(svd.values))
    return LowRank((svd.left[:count] * svd.values[:count].unsqueeze(-1)).mT, svd.right[:count])


def _not_finite(name: str) -> NonFiniteError:
    return NonFiniteError(
        f"the update of '{name}' contains NaN or infinity, so no dose of it is a model; fix the tuned model"
    )


def encoded_texts(opened: OpenedModel, corpus: Corpus, max_tokens: int) -> list[list[int]]:
    """Return the token ids of every document, at most as many as are read.

    Raises:
      SettingError: no document has two tokens.
    """
    width = min(max_tokens, opened.context)
    rows: list[list[int]] = [ids_at_start(opened.tokenizer, text, width) for text in corpus.documents]
    kept = [ids for ids in rows if len(ids) > 1]
    if not kept:
        raise SettingError(
            f"no document of corpus {corpus.name!r} has two tokens or more; expected text to learn from; pass "
            "another --loss-on"
        )
    return kept


def encoded_examples(
    opened: OpenedModel, task: Task, examples: Sequence[Example], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Encode examples with their targets for the model; those too long for it are skipped."""
    if task.kind == "classification":
        return encode_classification(opened.tokenizer, examples, labels, opened.context)
    where = f"train split of task {task.name!r}"
    return encode_completions(opened.tokenizer, examples, opened.context, drop_too_long=True, where=where)


def open_models(
    tuned: str, base: str | None, tasks: Mapping[str, Task], loading: Loading, *, read_as: str | None = None
) -> tuple[OpenedModel, Scored]:
    """Open the tuned model as a language model and as its tasks need it; one model may serve both.

    It reads as the adapter ``read_as`` was trained to, if that is given.
    """
    language = open_language_model(tuned, base, loading, merged=True)
    if read_as is not None:
        language = reading_as(language, read_as)
    scored = opened_for_tasks(language, tuned, base, loading, tasks)
    for opened in [language, *(opened_model for opened_model, _ in scored.values())]:
        opened.model.requires_grad_(False).eval()
    return language, scored


def tuned_elsewhere(model: nn.Module, base: Checkpoint, paired: Sequence[str]) -> list[str]:
    """Return the base's names of tensors that were tuned and contain none of the paired matrices."""
    paired_tensors = {tensor_of(name) for name in paired}
    state: Mapping[str, Tensor] = model.state_dict()
    held = BaseInMemory.of(base, {name: tuple(tensor.shape) for name, tensor in state.items()})
    unpaired = [name for name in base.names() if name not in paired_tensors]
    return [changed.name for changed in held.changed(unpaired, state)]


@dataclass(frozen=True)
class DosedModels:
    """The models of texts and tasks, with one vector of doses on all of them."""

    language: OpenedModel
    scored: Scored  # by task
    base: Checkpoint
    updates: Updates  # of the tuned model
    groups: DoseGroups
    doses: DoseVector

    @contextmanager
    def with_added(self, changes: Mapping[str, LowRank], factors: DoseVector) -> Iterator[None]:
        """Add low-rank matrices, in ``factors`` of their own, to the weights within the block, whatever the doses."""
        groups = dose_groups(list(changes), "matrix")
        with ExitStack() as entered:
            for model in _distinct_models(self.language, self.scored):
                device = next(model.parameters()).device
                updates = {name: DosedUpdate.of(change, device) for name, change in changes.items()}
                entered.enter_context(DosedModel(model, self.base, updates, groups, factors, is_base=True))
            yield


@contextmanager
def open_dosed(
    question: Question, tasks: Mapping[str, Task], per: str, *, so: str, dense_in_one: bool = False
) -> Iterator[DosedModels]:
    """Open the models, and let them compute with their updates in doses within the block, each dose 1 at first.

    Of an adapter on causal tasks the base is opened, to whose weights the updates are added.

    Args:
      question: base and tuned model.
      tasks: that are to be measured.
      per: what has a dose of its own.
      so: what follows where the tuned model changes nothing, for the error.
      dense_in_one: whether a dense update may have one dose where others have one for each direction.

    Raises:
      SettingError: an adapter changes what no dose acts on, or nothing is changed.
      PairingError: the models do not match.
    """
    pairs, loading = question.pairs, question.loading
    require_same_head(question.both)
    require_same_vocabulary(question.both)
    require_only_matrices(question.both)
    question.progress("open the models", 0, 1)
    is_base = question.is_adapter and all(task.kind == "causal" for task in tasks.values())
    if is_base:
        require_one_device(loading)
        language, scored = open_models(question.base_source, None, tasks, loading, read_as=question.tuned)
    else:
        require_whole_weights(loading)
        language, scored = open_models(question.tuned, question.base, tasks, loading)
    device = next(language.model.parameters()).device
    updates = read_updates(
        pairs, "matrix" if dense_in_one else per, device, question.progress, language.dtype
    )
    if not updates.names:
        raise SettingError(
            f"'{question.tuned}' changes nothing in '{question.base_source}', so {so}; pass the model after fine-tuning"
        )
    if dense_in_one:
        updates = updates.in_directions()
    base, others = question.stacks, list[str]()
    if not question.is_adapter:  # such as norms, which only a checkpoint can store in a dose
        others = tuned_elsewhere(language.model, base, [pair.name for pair in pairs])
    groups = dose_groups(updates.names, per, updates.ranks, with_elsewhere=bool(others))
    doses = DoseVector(torch.ones(len(groups.names), device=device))
    with ExitStack() as entered:
        for model in _distinct_models(language, scored):
            entered.enter_context(
                DosedModel(model, base, updates.by_name, groups, doses, others, is_base=is_base)
            )
        yield DosedModels(language, scored, base, updates, groups, doses)


def _distinct_models(language: OpenedModel, scored: Scored) -> list[nn.Module]:
    """Return each model once, the language model first."""
    opened = [language, *(opened_model for opened_model, _ in scored.values())]
    return list({id(opened_model.model): opened_model.model for opened_model in opened}.values())
