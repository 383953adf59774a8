"""A sample of the base model's inputs of its matrices on text, to weigh updates by their effect on outputs."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from ..data.corpora import Corpora
from ..models.answers import evaluating
from ..models.encoding import ids_at_start
from ..models.tuned_model import OpenedModel

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

    Args:
      opened: a language model.
      modules: by the name of a matrix W (m, n), the module that computes ``W h`` for its inputs h.
      documents: the texts; the first few are used.
      seed: seed of the drawn tokens.

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
