"""Inputs and gradients of a model's linear layers on sequences of text, for labels drawn from the model itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from ..models.answers import evaluating
from ..models.token_losses import in_single

# (name, inputs (batch, tokens, n), gradients (batch, labels, tokens, m)) of every layer.
LayerRows = Iterator[tuple[str, Tensor, Tensor]]


def layer_rows(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    ids: Tensor,
    draws: int,
    random: torch.Generator,
    first: int = 0,
) -> LayerRows:
    """Yield every layer's inputs x and gradients g of ``log p(labels)`` at its outputs, for a batch of sequences.

    The labels of a sequence are tokens drawn from the model at every position, ``draws`` times. They count from the
    position ``first`` on. A layer that does not read every token of ``ids`` (batch, tokens + 1) once, as an expert, is
    left out.
    """
    ids = ids.to(next(model.parameters()).device)
    reached: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def kept(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            reached[name].append((inputs[0].detach(), output))

        return hook

    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    with ExitStack() as handles:
        handles.enter_context(evaluating(model))
        for name, layer in layers.items():
            handles.callback(layer.register_forward_hook(kept(name)).remove)
        handles.callback(embedding.register_forward_hook(lambda *given: given[2].requires_grad_()).remove)
        handles.enter_context(torch.enable_grad())
        scores = log_softmax(in_single(model(input_ids=ids[:, :-1]).logits), -1)
        labels = drawn_labels(scores.detach(), draws, random)
        chosen = [scores.gather(-1, wanted.unsqueeze(-1))[:, first:].sum() for wanted in labels]
    (batch, tokens), gradients = labels[0].shape, []
    used = {
        name: passes[0]
        for name, passes in reached.items()
        if len(passes) == 1 and passes[0][0].numel() == batch * tokens * passes[0][0].shape[-1]
    }
    for number, of_labels in enumerate(chosen, 1):
        of_layers = torch.autograd.grad(
            of_labels,
            [output for _, output in used.values()],
            retain_graph=number < len(chosen),
            materialize_grads=True,
        )
        gradients.append([in_single(of_layer).reshape(batch, tokens, -1) for of_layer in of_layers])
    for at, (name, (inputs, _)) in enumerate(used.items()):
        of_layer = torch.stack([of_label[at] for of_label in gradients], 1)
        yield name, inputs.reshape(batch, tokens, -1), of_layer


def drawn_labels(scores: Tensor, draws: int, random: torch.Generator) -> list[Tensor]:
    """Return labels (batch, tokens), each drawn from the log-probabilities (batch, tokens, vocabulary)."""
    chances = scores.exp().flatten(0, 1).cpu()
    return [
        torch.multinomial(chances, 1, generator=random).reshape(scores.shape[:2]).to(scores.device)
        for _ in range(draws)
    ]
