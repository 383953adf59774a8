"""Names under which PEFT finds the modules of a model: those of its class, which its file may have otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...checkpoints.adapters.adapter import Adapter
from ...checkpoints.adapters.binding import shapes_of_class
from ...checkpoints.opening.model_sum import parts_of
from ...checkpoints.opening.open import Opened
from ...checkpoints.pairing.names_of_base import under_common_names
from ...checkpoints.pairing.side import Side, sides_of
from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.stored.names import match_names


def names_for_peft(base: Checkpoint, tuned: Opened, weights: Iterable[str]) -> dict[str, str]:
    """The base's name of each weight -> its name in the model that PEFT puts an adapter on.

    An adapter of PEFT has these names itself. Files of whole models often lack what a class puts before them (hub
    ``gpt2`` has ``h.0.attn``, its class ``transformer.h.0.attn``), or have those of an earlier class. So the names are
    those of the class that the tuned model's config names, or the base's. Without such a class they stay as the tuned
    model has them. A weight is left out that is not known to be one of the class.
    """
    before, parts, _ = under_common_names(base, [part for part, _ in parts_of(tuned)])
    names: dict[str, str] = {}
    models: list[tuple[Checkpoint, Mapping[str, str]]] = []
    for side in sides_of(before, parts):
        part = side.acting.part
        if isinstance(part, Checkpoint):
            models.append((part, side.own_names))
        else:
            names = _of_peft(part, side) | names
    models.append((before, {name: name for name in before.tensors}))
    rest = [name for name in weights if name not in names]
    return names | _of_models(rest, models) if rest else names


def _of_peft(adapter: Adapter, side: Side) -> dict[str, str]:
    """Of files of other families, and of parts of a pipeline, the names are no modules of a model."""
    return {
        name: own
        for name, own in side.own_names.items()
        if adapter.family == "PEFT" and not (name in side.updates and side.updates[name].component)
    }


def _of_models(weights: list[str], models: list[tuple[Checkpoint, Mapping[str, str]]]) -> dict[str, str]:
    """Each weight's name in the first of the models that is in memory, or whose class is known."""
    for model, own_names in models:
        in_class = _names_in_class(model)
        if in_class is not None:
            return {name: in_class[own_names[name]] for name in weights if own_names.get(name) in in_class}
    own_names = models[0][1]
    return {name: own_names.get(name, name) for name in weights}


def _names_in_class(model: Checkpoint) -> Mapping[str, str] | None:
    """The model's name of each tensor -> its class's; None where transformers has no class for its config."""
    if model.kind != "checkpoint":
        return {name: name for name in model.tensors}
    try:
        shapes = shapes_of_class(model.config)
    except Exception:  # no transformers, no such class, or a config that its class does not take
        return None
    return match_names(model.shapes(), shapes).tuned_of
