"""How much an update adds to what the base's own layers put out: the mean of ||D h||^2 over the base's inputs h.

The update's norm says how large D is in all directions. A layer sees few of them: two updates of one norm can change
the base's outputs by very different amounts. No model is trained or changed here.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from ..audits.audit_settings import AS_USUAL, AuditSettings
from ..checkpoints.opening.open import Source
from ..checkpoints.pairing.in_memory import in_memory
from ..checkpoints.pairing.open_sides import open_sides
from ..checkpoints.pairing.pair_sides import pair_sides
from ..checkpoints.stored.checkpoint import Checkpoint
from ..data.corpora import Corpora
from ..errors import CheckpointError
from ..models.answers import evaluating
from ..models.base_model import base_model_location
from ..models.encoding import ids_at_start
from ..models.loading_settings import AS_STORED, Loading
from ..models.tuned_model import OpenedModel, open_language_model
from .text_loss import WINDOW

_DOCUMENTS, _TOKENS, _WINDOW = 8, 32, 256  # how many documents, tokens of each, and of how many at its start


def documents_of(corpora: Corpora) -> list[str]:
    """Return the texts of all corpora in turn, so that the first few come from each of them."""
    parts = [part.documents for several in corpora.values() for part in several]
    return [text for turn in zip_longest(*parts) for text in turn if text is not None]


def linear_layers(base: Checkpoint, model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return the linear layers of a model whose whole weight is one of these matrices of its base, by its name."""
    from transformers.pytorch_utils import Conv1D

    modules = in_memory(base, model).modules_of(names)
    layers = {name: model.get_submodule(module) for name, module in modules.items()}
    return {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear | Conv1D)}


@torch.no_grad()
def sample_inputs(
    opened: OpenedModel, modules: Mapping[str, str], documents: Sequence[str], seed: int
) -> dict[str, Tensor]:
    """Return module inputs (tokens, n) at tokens drawn by seed, on the CPU, by the names of their matrices.

    ``modules`` are those that compute ``W h`` for a matrix W (m, n) and its inputs h. The first few documents are used.
    Modules that are not reached, or whose inputs are not rows of n numbers, are skipped.
    """
    sampled: dict[str, list[Tensor]] = {name: [] for name in modules}
    chosen: list[int] = []

    def taken(name: str, module: Any, given: tuple[Any, ...]) -> None:
        if given and isinstance(given[0], Tensor) and given[0].is_floating_point():
            rows = given[0].reshape(-1, given[0].shape[-1])
            sampled[name].append(rows[[row for row in chosen if row < len(rows)]].float().cpu())

    with ExitStack() as hooks, evaluating(opened.model):
        for name, module in modules.items():
            layer = opened.model.get_submodule(module)
            hooks.callback(layer.register_forward_pre_hook(partial(taken, name)).remove)
        for number, text in enumerate(documents[:_DOCUMENTS]):
            if ids := ids_at_start(opened.tokenizer, text, min(_WINDOW, opened.context)):
                draw = random.Random(f"inputs {seed} {number}")
                chosen[:] = sorted(draw.sample(range(len(ids)), min(_TOKENS, len(ids))))
                opened.model(input_ids=torch.tensor([ids], device=opened.device))
    return {name: torch.cat(parts) for name, parts in sampled.items() if parts}


@dataclass(frozen=True)
class OutputEnergy:
    """The means over tokens of ||D h||^2 and of ||W0 h||^2 by matrix, with h the input of the base's layer."""

    of_update: dict[str, float]
    of_base: dict[str, float]
    tokens: int

    @property
    def mean_relative(self) -> float:
        """Mean over matrices of the update's output energy divided by the base's: no layer outweighs the others."""
        return fmean(
            self.of_update[name] / self.of_base[name] for name in self.of_update if self.of_base[name] > 0
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "mean_relative_energy": self.mean_relative,
            "tokens": self.tokens,
            "matrices": [
                {"name": name, "energy": energy, "base_energy": self.of_base[name]}
                for name, energy in self.of_update.items()
            ],
        }


def output_energy(
    base: str,
    tuned: Source,
    documents: Sequence[str],
    *,
    window: int | None = None,
    audit: AuditSettings = AS_USUAL,
    loading: Loading = AS_STORED,
) -> OutputEnergy:
    """Measure the output energy of every update D = W - W0 on the beginnings of ``documents``, read by the base.

    Of each document the first ``window`` tokens are read, by default 1024 or the model's context; ``max_tokens`` of a
    loss does not shorten them. Raises CheckpointError when no changed matrix is a linear layer's weight.
    """
    before, after = open_sides(base_model_location(base), tuned)
    loaded = {matrix.name: matrix.load() for matrix in pair_sides(before, after, audit).pairs}
    opened = open_language_model(base, loading=loading)
    updates = {name: pair.widened(opened.device).update for name, pair in loaded.items() if pair is not None}
    layers = linear_layers(before, opened.model, updates)
    if not layers:
        raise CheckpointError(
            f"none of the {len(updates)} changed matrices is the weight of a linear layer of {base!r}; "
            "the output energy needs one"
        )
    of_update, of_base = dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 0.0)

    def counted(name: str, module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        added = updates[name].apply(inputs[0].flatten(0, -2).to(updates[name].dtype))
        own = output if module.bias is None else output - module.bias
        of_update[name] += float(added.double().square().sum())
        of_base[name] += float(own.double().square().sum())

    model: Any = opened.model
    # The head computes logits that nobody asks for, unless it is itself among the layers.
    reader = model.base_model if set(layers.values()) <= set(model.base_model.modules()) else model
    tokens = 0
    with ExitStack() as hooks, evaluating(model), torch.inference_mode():
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(partial(counted, name)).remove)
        for text in documents:
            if ids := ids_at_start(opened.tokenizer, text, min(window or WINDOW, opened.context)):
                reader(input_ids=torch.tensor([ids], device=opened.device))
                tokens += len(ids)
    return OutputEnergy(
        {name: energy / tokens for name, energy in of_update.items()},
        {name: energy / tokens for name, energy in of_base.items()},
        tokens,
    )
