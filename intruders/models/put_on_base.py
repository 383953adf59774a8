"""A PEFT adapter put on its base, and signs that it was trained on another base."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from ..checkpoints.adapters.adapter_config import AdapterConfig
from ..checkpoints.opening.many_sources import digest_of
from ..checkpoints.stored.hub import split_revision
from ..checkpoints.stored.locate import locate
from ..errors import CheckpointError, PairingError, first_line, some_of
from ..system.files import user_path
from .base_model import base_model_location
from .resized_vocabulary import resize_as_stored
from .task_fit import adapter_config

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_LAYER = re.compile(r"^base_model\.model\.(.+?\.\d+)\.")


def adapted(model: nn.Module, source: str, location: str, *, merged: bool) -> tuple[nn.Module, list[str]]:
    """Return ``model``, the base at ``location``, with the adapter at ``source``, and notes for people.

    Unless ``merged``, the adapter computes beside the base's layers, whose weights stay as they are. PEFT keeps its
    factors in single precision and rounds only their sum with a layer's output to the type of the base. In a base of
    16 bits, merging would round the update away where it is small beside the weight.

    Raises:
      PairingError: the adapter changes weights that this base does not have.
      CheckpointError: PEFT cannot load it.
    """
    from peft import PeftModel, load_peft_weights

    folder = str(locate(source))
    notes: list[str] = []
    try:
        stored = load_peft_weights(folder, device="cpu")
        _require_both_factors(source, stored)
        layers = {name[1] for key in stored if (name := _LAYER.match(key))}
        has = {name for name, _ in model.named_modules()}
        if absent := sorted(layers - has):
            raise PairingError(
                f"adapter {source!r} changes '{absent[0]}', which base {location!r} does not have; pass the base that "
                "it was trained on with --base"
            )
        notes += resize_as_stored(model, source, location, stored)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            wrapped: Any = PeftModel.from_pretrained(model, folder)
            if wrapped.active_peft_config.is_prompt_learning:
                raise CheckpointError(
                    f"adapter {source!r} learned a prompt and changes no weights, so it cannot be measured here; pass "
                    "an adapter of weights, such as LoRA"
                )
            missing = _missing_keys(said)
            if missing:
                _require_loaded(source, location, wrapped, missing, stored)
            if merged:
                _refuse_shared(source, wrapped)
            with_adapter: nn.Module = wrapped.merge_and_unload() if merged else wrapped.get_base_model()
    except (ValueError, RuntimeError, OSError, LookupError) as error:
        raise _unfit(source, location, error) from error
    if missing:
        notes.append(
            f"base {location!r} has modules that adapter {source!r} asks for and has no weights of; they stay as "
            "they are in the base, so check that it was trained on this one"
        )
    return with_adapter, notes


def _missing_keys(said: Iterable[warnings.WarningMessage]) -> set[str]:
    """Return the weights of the adapter's modules that its file has none for, which PEFT tells in a warning alone."""
    texts = [str(warning.message) for warning in said]
    return {key for text in texts if "missing adapter keys" in text for key in re.findall(r"'([^']+)'", text)}


def _require_loaded(
    source: str, location: str, wrapped: Any, missing: Collection[str], stored: Iterable[str]
) -> None:
    """Refuse an adapter of which PEFT found no weight: what would be measured is the base."""
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    prefix = PEFT_TYPE_TO_PREFIX_MAPPING.get(wrapped.active_peft_config.peft_type, "")
    own = {key for key in wrapped.state_dict() if prefix in key and wrapped.active_adapter in key}
    if own <= set(missing):
        raise PairingError(
            f"adapter {source!r} has no weights of the modules that it changes in base {location!r}: it has "
            f"'{next(iter(stored))}', and '{min(missing)}' is expected; pass the base that it was trained on "
            "with --base"
        )


def _require_both_factors(source: str, stored: Iterable[str]) -> None:
    """Refuse an adapter with half of a pair: PEFT would draw the other half at random."""
    pairs: dict[str, set[str]] = {}
    for key in stored:
        if name := _FACTOR.fullmatch(key):
            pairs.setdefault(name["module"], set()).add(name["factor"])
    for module, factors in pairs.items():
        if len(factors) == 1:
            raise CheckpointError(
                f"{source!r} has only lora_{next(iter(factors))} for '{module}'; expected lora_A and lora_B; save the "
                "adapter again"
            )


def _refuse_shared(source: str, wrapped: nn.Module) -> None:
    """Refuse to merge into a weight that another module uses too, such as an embedding that is the output head."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    uses: dict[int, list[str]] = {}
    adapted_to: dict[int, str] = {}
    tied: list[str] = []  # retrained tokens of a head that is the embedding, which PEFT changes in both
    for name, module in wrapped.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.device.type != "meta":
            uses.setdefault(weight.data_ptr(), []).append(name)
        if getattr(module, "tied_adapter", None) is not None:
            tied.append(name)
        elif isinstance(module, BaseTunerLayer):
            own = getattr(module.get_base_layer(), "weight", None)
            if isinstance(own, nn.Parameter) and own.device.type != "meta":
                adapted_to[own.data_ptr()] = name
    for pointer, name in adapted_to.items():
        others = [other for other in uses.get(pointer, []) if not other.startswith((name, *tied))]
        if others:
            raise PairingError(
                f"adapter {source!r} changes '{_plain(name)}', whose weight is that of '{_plain(others[0])}' too; the "
                "adapter and its merge are two models; save the base with a head of its own (tie_word_embeddings "
                "false), and pass that"
            )


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.")


def named_base_note(source: str, base: str | None) -> list[str]:
    """Return a note if ``base`` is another model than the one that the adapter at ``source`` names."""
    adapter = adapter_config(source)
    named = None if adapter is None else AdapterConfig(adapter, source).base_source
    if base is None or named is None or named == base:
        return []
    try:
        ours, theirs = _known_here(base), _known_here(named)
    except CheckpointError:  # the named one is not on this machine
        ours = theirs = ""
    if ours and ours == theirs:
        return []
    if ours and _are_equal_folders(ours, theirs):
        return []
    note = (
        f"adapter {source!r} names {named!r} as its base and is measured on {base!r}; if these are other weights, "
        "so are the numbers"
    )
    return [note]


def _are_equal_folders(ours: str, theirs: str) -> bool:
    """Return whether two models are folders of the same content; False where one cannot be read."""
    try:
        return os.path.isdir(ours) and os.path.isdir(theirs) and digest_of(ours) == digest_of(theirs)
    except (CheckpointError, OSError):  # only a note depends on it
        return False


def _known_here(source: str) -> str:
    """Return the folder of a model, or its Hub id where the hub's cache lacks it: nothing is fetched to be compared."""
    from huggingface_hub import snapshot_download

    if os.path.isdir(user_path(source)) or "@" not in source:
        source = base_model_location(source)
    asked = split_revision(source)
    if os.path.isdir(source) or asked is None:
        return source
    repository, revision = asked
    try:
        return snapshot_download(repository, revision=revision, local_files_only=True)
    except Exception:  # the hub's client raises what it likes where the cache has no such commit
        return repository if revision in (None, "main") else source


def _unfit(source: str, location: str, error: Exception) -> Exception:
    said = str(error)
    if "target modules" in said.lower():
        targets = (adapter_config(source) or {}).get("target_modules") or []
        names = sorted(targets) if isinstance(targets, list) else [str(targets)]
        return PairingError(
            f"adapter {source!r} changes modules {some_of(names)}, and base {location!r} has none of these; pass the "
            "base that it was trained on with --base"
        )
    if "size mismatch" in said:
        return PairingError(
            f"adapter {source!r} was trained on matrices of other shapes than those of base {location!r}; pass the "
            "base that it was trained on with --base"
        )
    return CheckpointError(f"adapter {source!r} cannot be put on its base by PEFT: {first_line(error)}")


def untrained_names(source: str, missing: Any) -> list[str]:
    """Return the weights that a base lacks and the adapter does not bring either."""
    from peft import load_peft_weights

    brought = list(load_peft_weights(str(locate(source)), device="cpu"))
    return [name for name in missing if not any(key.endswith(f".{name}") for key in brought)]
