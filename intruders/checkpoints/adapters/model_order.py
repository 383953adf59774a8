"""The order in which a model has its weights, which a file of tensors sorted by name does not keep."""

from __future__ import annotations

from typing import Any

from ...errors import PairingError, missing_extra, one_line
from ..stored.checkpoint import Checkpoint
from ..stored.matching import match_names


def names_in_model_order(base: Checkpoint, adapter: str) -> list[str]:
    """The base's names in the order of the model: its own, or that of transformers' class for its config.

    Raises:
      PairingError: neither is known. MissingDependencyError: transformers is not installed.
    """
    if base.kind == "module":
        return base.names()
    shapes = _shapes_of_class(base, adapter)
    matching = match_names(base.shapes(), shapes)
    base_of = {other: name for name, other in matching.tuned_of.items()}
    return [base_of[name] for name in shapes if name in base_of]


def _shapes_of_class(base: Checkpoint, adapter: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model that transformers makes for the config; no weight is allocated."""
    import torch

    config = dict(base.config or {})
    classes = config.get("architectures")
    try:
        import transformers
    except ImportError:
        raise missing_extra(f"reading '{adapter}'", "transformers", "train") from None
    try:
        kind: Any = getattr(transformers, classes[0])  # type: ignore[index]
        made = transformers.AutoConfig.for_model(**config)
        with torch.device("meta"):
            model = kind(made)
    except Exception as error:
        raise PairingError(
            f"the adapter '{adapter}' draws its numbers in the order of the model's modules, and '{base.source}' has "
            f"no config that transformers makes a model of ({one_line(error)}); pass the model itself, from Python, or "
            "the model after PEFT's merge_and_unload"
        ) from None
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
