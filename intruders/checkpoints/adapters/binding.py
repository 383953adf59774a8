"""Adapters whose modules share tensors: their updates, which are known once the base's modules and their order are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import PairingError, first_line, missing_extra, some_of
from ..stored.checkpoint import Checkpoint
from ..stored.names import looks_up_tokens, match_names
from .adapter import AdaptedWeight, Adapter, BaseWeight, Shape


def names_in_model_order(base: Checkpoint, adapter: str) -> list[str]:
    """The base's names in the order of the model: its own, or that of transformers' class for its config.

    Raises:
      PairingError: neither is known. MissingDependencyError: transformers is not installed.
    """
    if base.kind == "module":
        return base.names()
    try:
        shapes = shapes_of_class(base.config)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "transformers":
            raise missing_extra(f"reading '{adapter}'", "transformers", "train") from None
        raise PairingError(
            f"the adapter '{adapter}' draws its numbers in the order of the model's modules, and '{base.source}' has "
            f"no config that transformers makes a model of ({first_line(error)}); pass the model itself, from Python, "
            "or the model after PEFT's merge_and_unload"
        ) from None
    base_of = match_names(base.shapes(), shapes).base_of
    return [base_of[name] for name in shapes if name in base_of]


def shapes_of_class(config: Mapping[str, Any] | None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model that transformers makes for the config; no weight is allocated.

    Raises:
      ModuleNotFoundError: transformers is not installed. Any other error: it has no such class, or the class fails.
    """
    import torch
    import transformers

    values = dict(config or {})
    kind: Any = getattr(transformers, values["architectures"][0])
    made = transformers.AutoConfig.for_model(**values)
    with torch.device("meta"):
        model = kind(made)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def bound_updates(
    adapter: Adapter,
    base: Checkpoint,
    shapes: Mapping[str, Shape],
    made_for: Callable[[Mapping[str, BaseWeight]], list[AdaptedWeight]],
    needs_order: bool,
) -> list[AdaptedWeight]:
    """The adapter's updates for the modules of this base; its names alone where the base lacks one of them.

    Args:
      adapter: its updates are names, without weights.
      base: what it acts on.
      shapes: of the base's tensors, as an adapter sees them.
      made_for: gives the updates for the base's linear modules. These come under the adapter's names for them and,
        where it has none, under the base's.
      needs_order: whether ``made_for`` wants the modules in the order of the model.

    Raises:
      PairingError: the adapter changes a convolution or an embedding, or the order of the model is not known.
    """
    matching = match_names(shapes, {update.name: update.full_shape for update in adapter.updates})
    tuned_of, base_of = matching.tuned_of, matching.base_of
    if any(update.name not in base_of for update in adapter.updates):
        return adapter.updates
    require_linear(base, adapter, [base_of[update.name] for update in adapter.updates])
    order = names_in_model_order(base, adapter.source) if needs_order else [*base.names(), *base.tied]
    modules = {
        tuned_of.get(name, name).removesuffix(".weight"): BaseWeight((shape[0], shape[1]), base.dtype(name))
        for name in order
        if name.endswith(".weight") and len(shape := shapes[name]) == 2 and len(base.shape(name)) == 2
    }
    return made_for(modules)


def require_linear(base: Checkpoint, adapter: Adapter, names: list[str]) -> None:
    """Raise for a convolution or embedding, whose weight PEFT's code would make otherwise than a linear layer's."""
    others = [name for name in names if len(base.shape(name)) != 2 or looks_up_tokens(name)]
    if others:
        raise PairingError(
            f"the adapter '{adapter.source}' of type {adapter.peft_type} changes {some_of(others)}, no linear layer, "
            "which is not read for this type; merge it with PEFT, and pass the merged model"
        )
