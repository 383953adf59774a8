"""How much an update adds to what the base's own layers put out: the mean of ||D h||^2 over the base's inputs h.

The update's norm says how large D is in all directions. A layer sees few of them: two updates of one norm can change
the base's outputs by very different amounts. No model is trained or changed here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from ..data.corpora import Corpora
from ..errors import CheckpointError
from ..linalg.operators import Update
from ..models.answers import evaluating
from ..models.base_model import base_model_location
from ..models.encoding import ids_at_start
from ..models.loading_settings import AS_STORED, Loading
from ..models.tuned_model import OpenedModel, open_language_model
from .corpus_loss import WINDOW

_DOCUMENTS, _TOKENS, _WINDOW = 8, 32, 256  # how many documents, tokens of each, and of how many at its start


def documents_of(corpora: Corpora) -> list[str]:
    """Return the texts of all corpora in turn, so that the first few come from each of them."""
    parts = [part.documents for several in corpora.values() for part in several]
    return [text for turn in zip_longest(*parts) for text in turn if text is not None]


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

    def taken(name: str) -> Any:
        def hook(module: Any, given: tuple[Any, ...]) -> None:
            if given and isinstance(given[0], Tensor) and given[0].is_floating_point():
                rows = given[0].reshape(-1, given[0].shape[-1])
                sampled[name].append(rows[[row for row in chosen if row < len(rows)]].float().cpu())

        return hook

    handles = [
        opened.model.get_submodule(module).register_forward_pre_hook(taken(name))
        for name, module in modules.items()
    ]
    width = min(_WINDOW, opened.context)
    device = next(opened.model.parameters()).device
    try:
        with evaluating(opened.model):
            for number, text in enumerate(documents[:_DOCUMENTS]):
                ids = ids_at_start(opened.tokenizer, text, width)
                if not ids:
                    continue
                chosen[:] = sorted(
                    random.Random(f"inputs {seed} {number}").sample(range(len(ids)), min(_TOKENS, len(ids)))
                )
                opened.model(input_ids=torch.tensor([ids], device=device))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in sampled.items() if parts}


SCHEMA = 1


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
            "schema": SCHEMA,
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

    Args:
      base: the model before fine-tuning, with a language-model head.
      tuned: the model after it, or an adapter.
      documents: texts; of each the first ``window`` tokens are read. ``max_tokens`` of a loss does not shorten them.
      window: number of tokens; by default 1024 or the model's context.
      audit: the settings that select the matrices.
      loading: how the base is loaded.

    Raises CheckpointError when a model cannot be opened, or when no changed matrix is a linear layer's weight.
    """
    from transformers.pytorch_utils import Conv1D

    before, after = open_sides(base_model_location(base), tuned)
    loaded = {matrix.name: matrix.load() for matrix in pair_sides(before, after, audit).pairs}
    opened = open_language_model(base, loading=loading)
    device = next(opened.model.parameters()).device
    updates = {name: pair.widened(device).update for name, pair in loaded.items() if pair is not None}
    modules = in_memory(before, opened.model).modules_of(updates)
    named = {name: opened.model.get_submodule(module) for name, module in modules.items()}
    layers = {name: layer for name, layer in named.items() if isinstance(layer, nn.Linear | Conv1D)}
    if not layers:
        raise CheckpointError(
            f"none of the {len(updates)} changed matrices is the weight of a linear layer of {base!r}; "
            "the output energy needs one"
        )
    sums = {name: torch.zeros(2, dtype=torch.float64) for name in layers}
    hooks = [
        layer.register_forward_hook(_counter(layer, updates[name], sums[name]))
        for name, layer in layers.items()
    ]
    try:
        tokens = _read(opened, documents, min(window or WINDOW, opened.context), layers.values())
    finally:
        for hook in hooks:
            hook.remove()
    energies = {name: (pair / tokens).tolist() for name, pair in sums.items()}
    return OutputEnergy(
        {name: of_update for name, (of_update, _) in energies.items()},
        {name: of_base for name, (_, of_base) in energies.items()},
        tokens,
    )


def _counter(layer: nn.Module, update: Update, sums: Tensor) -> Any:
    """Return a hook that adds ||D h||^2 and ||W0 h||^2 of every token to ``sums``."""

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        added = update.apply(inputs[0].flatten(0, -2).to(update.dtype))
        bias: Any = layer.bias
        own = output if bias is None else output - bias
        sums[0] += float(added.double().square().sum())
        sums[1] += float(own.double().square().sum())

    return count


def _read(opened: OpenedModel, documents: Sequence[str], width: int, layers: Iterable[nn.Module]) -> int:
    """Let the base read the documents one by one, without padding, and return the number of tokens.

    Its head computes logits that nobody asks for, unless the head itself is among the layers.
    """
    own: Any = opened.model
    backbone = own.base_model
    inside = set(backbone.modules())
    reader = backbone if all(layer in inside for layer in layers) else own
    device = next(own.parameters()).device
    tokens = 0
    with evaluating(opened.model), torch.inference_mode():
        for text in documents:
            ids = ids_at_start(opened.tokenizer, text, width)
            if ids:
                reader(input_ids=torch.tensor([ids], device=device))
                tokens += len(ids)
    return tokens
