"""The sensitivity of the loss on a task to every direction of an update: the weights of the remedy `surgery`."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.pairing.in_memory import in_memory
from ..checkpoints.pairing.open_sides import open_sides
from ..checkpoints.pairing.pair_sides import pair_sides
from ..checkpoints.writing.training_record import FinetunedFolder
from ..data.columns import Columns
from ..data.load_task import load_task
from ..data.task import Example, Task
from ..errors import NonFiniteError, PairingError, SettingError
from ..linalg.low_rank import LowRank
from ..mitigation.remedies.surgery import Surgery
from ..models.encoding import IGNORED, PadRight, labels_of_next, pad_token_id
from ..models.loading_settings import AS_STORED, Loading
from ..models.token_losses import add_gradient_of_labels
from ..models.tuned_model import OpenedModel, open_for_task
from ..system.progress import Progress, silent
from .task_score import encoded_examples

_BATCH = 8


def with_sensitivities(
    surgery: Surgery,
    base: str | None,
    tuned: str | None = None,
    *,
    data_seed: int | None = None,
    loading: Loading = AS_STORED,
    progress: Progress = silent,
) -> Surgery:
    """Return ``surgery`` with the sensitivities of its own task, measured on the tuned model.

    The task's rows have the seed of the run, or ``data_seed``. Raises SettingError where ``surgery`` names no task, or
    the update is not low-rank.
    """
    if surgery.task is None:
        raise SettingError("remedy 'surgery' needs a task to measure its loss on; pass --task TASK")
    before, after = open_sides(base, tuned)
    directions = {}
    for pair in pair_sides(before, after).pairs:
        loaded = pair.load() if surgery.reaches(pair.name) else None
        if loaded is None:
            continue
        update = loaded.widened().update
        if not isinstance(update, LowRank):
            raise SettingError(surgery.refusal(pair.name, pair.shape, None) or "")
        svd = update.svd
        directions[pair.name] = svd.left, svd.right
    rows_by = FinetunedFolder.of(after.source).data_seed if data_seed is None else data_seed
    task = load_task(surgery.task, Columns(), rows_by)
    opened = open_for_task(after.source, task, before.source, loading, merged=True)
    modules = in_memory(before, opened.model).modules_of(directions)
    batches = task_batches(opened, task, task.train[: surgery.examples])
    return replace(surgery, sensitivities=sensitivities(opened.model, batches, directions, modules, progress))


def sensitivities(
    model: Any,
    batches: Sequence[dict[str, Tensor]],
    directions: Mapping[str, tuple[Tensor, Tensor]],
    modules: Mapping[str, str],
    progress: Progress = silent,
) -> dict[str, list[float]]:
    """Return ``p_i^T (dL/dW) q_i`` for the directions ``(p_i, q_i)`` of every matrix, with L the batches' mean loss.

    ``sum over tokens of (dL/dy . p_i) (x . q_i)`` for its module in ``modules``, with the inputs x and outputs y. No
    gradient of a complete matrix is formed: a factor delta_i = 0 on ``(x . q_i) p_i``, added to y, has it as its own.
    PairingError for a matrix without a module, NonFiniteError for a gradient that is NaN or infinite.
    """
    if missing := [name for name in directions if name not in modules]:
        raise PairingError(
            f"the model that is measured has no module with the complete weight '{missing[0]}'; choose another remedy"
        )
    model.requires_grad_(False).eval()
    with ExitStack() as probes:
        deltas = {}
        for name, part in directions.items():
            module = model.get_submodule(modules[name])
            deltas[name], add = _probe(module.weight, part)
            probes.callback(module.register_forward_hook(add).remove)
        for done, batch in enumerate(batches):
            progress("measure the task's loss", done, len(batches))
            placed = {name: tensor.to(model.device) for name, tensor in batch.items()}
            labels = labels_of_next(placed.pop("labels"))
            targets = int((labels != IGNORED).sum())
            add_gradient_of_labels(model, placed, labels, 1 / (targets * len(batches)))
    felt = {}
    for name, delta in deltas.items():
        gradient = torch.zeros_like(delta) if delta.grad is None else delta.grad
        if not bool(gradient.isfinite().all()):
            raise NonFiniteError(
                f"the gradient of the loss on training examples is NaN or infinite in '{modules[name]}'; choose "
                "another remedy than surgery"
            )
        felt[name] = gradient.tolist()
    return felt


def _probe(weight: Tensor, directions: tuple[Tensor, Tensor]) -> tuple[Tensor, Any]:
    """Return a zero factor per direction, whose gradient is the sensitivity to it, and the hook that adds them."""
    dtype = weight.dtype if weight.element_size() > 2 else torch.float32
    left, right = (side.to(weight.device, dtype) for side in directions)
    delta = torch.zeros(len(left), dtype=dtype, device=weight.device, requires_grad=True)

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return (output + ((inputs[0].to(dtype) @ right.mT) * delta) @ left).to(output.dtype)

    return delta, add


def task_batches(opened: OpenedModel, task: Task, chosen: Sequence[Example]) -> list[dict[str, Tensor]]:
    """Return training examples in batches, encoded by :func:`encoded_examples`."""
    rows = encoded_examples(opened, task, chosen)
    collate = PadRight(pad_token_id(opened.tokenizer))
    return [collate(rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]
