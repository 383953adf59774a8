"""How far a model's predictions have moved from the base's, as a term of the training loss."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..models.answers import evaluating
from ..models.put_on_base import without_adapters
from ..models.token_losses import in_single
from .finetune_config import FinetuneConfig


class KLToBase:
    """``beta KL(base || tuned)``, the mean over the tokens of a batch's prompts and answers.

    This direction is the one that "RL's Razor" (arXiv 2509.04259) measures on the new task and finds to predict
    forgetting. An adapter that acts on the base as it is gives the base's logits when it is turned off; of every other
    model ``frozen`` is a copy of the base.
    """

    def __init__(self, beta: float, frozen: nn.Module | None) -> None:
        self.beta = beta
        self._frozen = None if frozen is None else frozen.requires_grad_(False).eval()
        self._sum, self._count = 0.0, 0

    @classmethod
    def of(cls, config: FinetuneConfig, base: nn.Module) -> "KLToBase | None":
        """Return the term that a run asks for, or None. ``base`` is the model before preparation for training."""
        if config.kl_to_base == 0:
            return None
        return cls(config.kl_to_base, copy.deepcopy(base) if config.changes_base_weights else None)

    def __call__(self, model: Any, inputs: dict[str, Any], logits: Tensor) -> Tensor:
        seen = {name: value for name, value in inputs.items() if name != "labels"}
        kl = kl_of_tokens(self.base_logits(model, seen), logits, inputs["attention_mask"])
        self._sum, self._count = self._sum + float(kl.detach()), self._count + 1
        return self.beta * kl

    def logged(self) -> dict[str, float]:
        """Return the mean KL in nats per token since the last call, for the log."""
        if self._count == 0:
            return {}
        mean = self._sum / self._count
        self._sum, self._count = 0.0, 0
        return {"kl_to_base": mean}

    @torch.no_grad()
    def base_logits(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self._frozen is not None:
            frozen: Tensor = self._frozen(**inputs).logits
            return frozen
        with evaluating(model), without_adapters(model):
            logits: Tensor = model(**inputs).logits
        return logits


def kl_of_tokens(base: Tensor, tuned: Tensor, attended: Tensor) -> Tensor:
    """Return the mean of ``sum_v p(v) (log p(v) - log q(v))`` over the tokens that predict an attended one.

    p is of ``base``, q of ``tuned``, both logits ``(batch, tokens, vocabulary)``; ``attended`` is ``(batch, tokens)``.
    """
    counts = (attended[:, 1:] * attended[:, :-1]).bool()
    before, after = (in_single(logits[:, :-1][counts]).log_softmax(-1) for logits in (base, tuned))
    return (before.exp() * (before - after)).sum(-1).mean()
