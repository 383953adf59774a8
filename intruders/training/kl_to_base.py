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
    forgetting. An adapter that acts on the base as it is gives the base's logits when it is turned off; for every other
    model a copy of the base is kept.
    """

    def __init__(self, config: FinetuneConfig, base: nn.Module) -> None:
        """Take the weight of the term, and ``base`` before it is prepared for training."""
        self.beta = config.kl_to_base
        self._frozen: nn.Module | None = None
        if config.changes_base_weights:
            self._frozen = copy.deepcopy(base).requires_grad_(False).eval()
        self._sum, self._count = 0.0, 0

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
