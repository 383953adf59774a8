"""The order in which a model has its weights, which a file of tensors sorted by name does not keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import PairingError, first_line, missing_extra
from ..stored.checkpoint import Checkpoint
from ..stored.matching import match_names


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
