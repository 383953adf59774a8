"""The models whose updates get doses: opened as texts and tasks need them, and computing with the doses in a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ...checkpoints.pairing.in_memory import BaseInMemory
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.names import tensor_of
from ...data.task import Task
from ...mitigation.beyond_doses import require_only_matrices, require_same_head, require_same_vocabulary
from ...models.loading_settings import Loading, require_one_device, require_whole_weights
from ...models.tuned_model import OpenedModel, open_language_model, reading_as
from ..bench.given_sides import OpenedSides
from ..bench.live_models import Scored, opened_for_tasks
from .dose_groups import DoseGroups, dose_groups
from .dosed_model import DosedModel, DoseVector
from .updates import Updates


def open_models(
    tuned: str, base: str | None, tasks: Mapping[str, Task], loading: Loading, *, read_as: str | None = None
) -> tuple[OpenedModel, Scored]:
    """Open the tuned model as a language model and as its tasks need it; one model may serve both.

    It reads as the adapter ``read_as`` was trained to, if that is given.
    """
    language = open_language_model(tuned, base, loading, merged=True)
    if read_as is not None:
        language = reading_as(language, read_as)
    scored = opened_for_tasks(language, tuned, base, tasks, loading)
    for opened in [language, *(opened_model for opened_model, _ in scored.values())]:
        opened.model.requires_grad_(False).eval()
    return language, scored


def distinct_models(language: OpenedModel, scored: Scored) -> list[nn.Module]:
    """Return each model once, the language model first."""
    opened = [language, *(opened_model for opened_model, _ in scored.values())]
    return list({id(opened_model.model): opened_model.model for opened_model in opened}.values())


def tuned_elsewhere(model: nn.Module, base: Checkpoint, paired: Sequence[str]) -> list[str]:
    """Return the base's names of tensors that were tuned and contain none of the paired matrices."""
    paired_tensors = {tensor_of(name) for name in paired}
    state: Mapping[str, Tensor] = model.state_dict()
    held = BaseInMemory.of(base, {name: tuple(tensor.shape) for name, tensor in state.items()})
    unpaired = [name for name in base.names() if name not in paired_tensors]
    return [changed.name for changed in held.changed(unpaired, state)]


def open_to_dose(
    sides: OpenedSides,
    tasks: Mapping[str, Task],
    loading: Loading,
) -> tuple[OpenedModel, Scored]:
    """Open the models whose updates get doses.

    Args:
      sides: base and tuned model.
      tasks: that are to be measured.
      loading: how the models are loaded.

    Raises:
      SettingError: an adapter changes what no dose acts on.
    """
    require_same_head(sides.both)
    require_same_vocabulary(sides.both)
    require_only_matrices(sides.both)
    if opens_base(sides, tasks):
        require_one_device(loading)
        return open_models(sides.base_source, None, tasks, loading, read_as=sides.tuned)
    require_whole_weights(loading)
    return open_models(sides.tuned, sides.sources.base, tasks, loading)


def opens_base(sides: OpenedSides, tasks: Mapping[str, Task]) -> bool:
    """Return whether the base is opened: for an adapter on causal tasks, whose updates are added to its weights."""
    is_adapter = not isinstance(sides.after, Checkpoint)
    return is_adapter and all(task.kind == "causal" for task in tasks.values())


def dosed_elsewhere(sides: OpenedSides, model: nn.Module) -> list[str]:
    """Return other tuned tensors, such as norms, which only a checkpoint can store in a dose."""
    if not isinstance(sides.after, Checkpoint):
        return []
    return tuned_elsewhere(model, sides.stacks, [pair.name for pair in sides.pairs])


@contextmanager
def in_doses(
    language: OpenedModel,
    scored: Scored,
    sides: OpenedSides,
    updates: Updates,
    per: str,
    tasks: Mapping[str, Task],
) -> Iterator[tuple[DoseGroups, DoseVector]]:
    """Let all models compute with their updates in doses within the block, each dose 1 at first.

    Args:
      language: the model of texts.
      scored: the models of tasks.
      sides: base and tuned model.
      updates: their updates.
      per: what has a dose of its own.
      tasks: that are measured.
    """
    others = dosed_elsewhere(sides, language.model)
    groups = dose_groups(updates.names, per, updates.ranks, with_elsewhere=bool(others))
    doses = DoseVector(torch.ones(len(groups.names), device=next(language.model.parameters()).device))
    is_base = opens_base(sides, tasks)
    with ExitStack() as entered:
        for model in distinct_models(language, scored):
            entered.enter_context(
                DosedModel(model, sides.stacks, updates.by_name, groups, doses, others, is_base=is_base)
            )
        yield groups, doses
