"""MiLoRA: a LoRA that starts from the smallest singular triplets of the base's matrices."""

from typing import Any

import torch
from torch import nn

from intruders.linalg.svd import dense_svd
from intruders.training.finetune_config import FinetuneConfig

from .adapted_modules import adapted_modules


def callbacks(model: nn.Module, config: FinetuneConfig) -> list[Any]:
    """Return none: only the start differs from a LoRA's."""
    return []


@torch.no_grad()
def start(model: nn.Module, config: FinetuneConfig) -> None:
    """Set ``scaling B A`` to the r smallest singular triplets of W0, and take it off the frozen W0, in every module.

    The model's outputs do not change. This takes one full decomposition per matrix, like PiSSA's start.
    """
    for module in adapted_modules(model):
        svd = dense_svd(module.weight)
        rank = module.a.shape[0]
        roots = (svd.values[-rank:] / module.scaling).sqrt().unsqueeze(-1)
        module.a.copy_(roots * svd.right[-rank:])
        module.b.copy_((roots * svd.left[-rank:]).mT)
        # What is taken off is the product of the factors as they are stored.
        module.subtract_update()
