"""A PEFT adapter put on its base, signs that it was trained on another base, and the model without it for a while."""

import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from ..checkpoints.adapters.other_programs import FULL
from ..checkpoints.adapters.peft_adapter import stored_adapter
from ..checkpoints.opening.named_base import other_base_note
from ..checkpoints.stored.locate import folder_of
from ..errors import CheckpointError, PairingError, first_line, some_of
from ..mitigation.targets.target import write_adapter
from .given_model import GivenModel

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")
_LAYER = re.compile(r"^base_model\.model\.(.+?\.\d+)\.")


def adapted(model: nn.Module, given: GivenModel, *, merged: bool) -> tuple[nn.Module, list[str]]:
    """Return ``model``, the base of a given adapter, with the adapter, and notes for people.

    Unless ``merged``, the adapter computes beside the base's layers, whose weights stay as they are: in a base of 16
    bits, merging would round the update away where it is small beside the weight. A model that is no adapter changes
    nothing. PairingError if the adapter changes weights that this base does not have, CheckpointError if PEFT cannot
    load it.
    """
    from peft import PeftModel, load_peft_weights

    if given.adapter is None:
        return model, []
    source, location, notes = given.source, given.location, named_base_note(given)
    try:
        with _files_of_peft(given, model.config) as folder:
            stored = load_peft_weights(folder, device="cpu")
            _require_both_factors(source, stored)
            part = _part_of(model, source, location, stored)
            notes += resize_as_stored(model, source, location, stored)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                wrapped: Any = PeftModel.from_pretrained(part, folder)
                if wrapped.active_peft_config.is_prompt_learning:
                    raise CheckpointError(
                        f"adapter {source!r} learned a prompt and changes no weights, so it cannot be measured here; "
                        "pass an adapter of weights, such as LoRA"
                    )
                # Of modules that its file has no weights for, PEFT tells in a warning alone.
                texts = [
                    str(warning.message) for warning in said if "missing adapter keys" in str(warning.message)
                ]
                missing = {key for text in texts for key in re.findall(r"'([^']+)'", text)}
                if missing:
                    _require_loaded(source, location, wrapped, missing, stored)
                if merged:
                    _refuse_shared(source, model)
                with_adapter: nn.Module = wrapped.merge_and_unload() if merged else wrapped.get_base_model()
                if part is not model:  # PEFT puts its layers into the part, in its place
                    with_adapter = model
    except (ValueError, RuntimeError, OSError, LookupError) as error:
        raise _unfit(given, error) from error
    if missing:
        notes.append(
            f"base {location!r} has modules that adapter {source!r} asks for and has no weights of; they stay as "
            "they are in the base, so check that it was trained on this one"
        )
    return with_adapter, notes


@contextmanager
def _files_of_peft(given: GivenModel, base: Any) -> Iterator[str]:
    # Of an adapter in another program's files, PEFT loads a copy, which lasts while the block runs.
    stored = stored_adapter(given.path, given.source, base.to_dict())
    if stored is None or stored.family == "PEFT":
        yield str(folder_of(given.path))
        return
    if stored.config["peft_type"] == FULL:
        raise CheckpointError(
            f"adapter {given.source!r} has weights stored in full (fine_tune_type full of MLX), which PEFT does not "
            "load; write the model (intruders scale BASE ADAPTER --at 1 --as checkpoint --out FOLDER), and pass that"
        )
    with TemporaryDirectory(prefix="intruders-", ignore_cleanup_errors=True) as folder:
        tensors = {name: tensor.read() for name, tensor in stored.open().items()}
        write_adapter(Path(folder), tensors, stored.config)
        yield folder


def _part_of(model: nn.Module, source: str, location: str, stored: Iterable[str]) -> nn.Module:
    """Return the module that an adapter was trained around: the model, or the one part that has all of its layers.

    An adapter of ``get_peft_model(model.model, ...)`` has the names of the part.
    """
    layers = {name[1] for key in stored if (name := _LAYER.match(key))}
    modules: dict[str, nn.Module] = dict(model.named_modules())
    absent = sorted(layers - modules.keys())
    if not absent:
        return model
    ending = f".{absent[0]}"
    around = [name.removesuffix(ending) for name in modules if name.endswith(ending)]
    parts = [name for name in around if all(f"{name}.{layer}" in modules for layer in layers)]
    if len(parts) != 1:
        raise PairingError(
            f"adapter {source!r} changes '{absent[0]}', which base {location!r} "
            f"{f'has in {some_of(parts)}' if parts else 'does not have'}; pass the base that it was trained on with "
            "--base"
        )
    return modules[parts[0]]


def _require_loaded(
    source: str, location: str, wrapped: Any, missing: Collection[str], stored: Iterable[str]
) -> None:
    # Of an adapter of which PEFT found no weight, the base would be measured.
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
    # Of half of a pair, PEFT would draw the other half at random.
    pairs = {(name["module"], name["factor"]) for key in stored if (name := _FACTOR.fullmatch(key))}
    for module, factor in sorted(pairs):
        if (module, "B" if factor == "A" else "A") not in pairs:
            raise CheckpointError(
                f"{source!r} has only lora_{factor} for '{module}'; expected lora_A and lora_B; save the adapter again"
            )


def _refuse_shared(source: str, model: nn.Module) -> None:
    """Refuse to merge into a weight that another module uses too, such as an embedding that is the output head."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    uses: dict[int, list[str]] = {}
    adapted_to: dict[int, str] = {}
    tied: list[str] = []  # retrained tokens of a head that is the embedding, which PEFT changes in both
    for name, module in model.named_modules():
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
                f"adapter {source!r} changes '{name}', whose weight is that of '{others[0]}' too; the adapter and its "
                "merge are two models; save the base with a head of its own (tie_word_embeddings false), and pass that"
            )


def named_base_note(given: GivenModel) -> list[str]:
    """Return a note if an adapter's base is another model than the one that the adapter names."""
    if given.adapter is None or given.base is None:
        return []
    return other_base_note(given.source, given.adapter.base_source, given.base)


def _unfit(given: GivenModel, error: Exception) -> Exception:
    source, location, said = given.source, given.location, str(error)
    if "target modules" in said.lower():
        names = [] if given.adapter is None else given.adapter.names("target_modules")
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


def resize_as_stored(model: Any, source: str, location: str, stored: Mapping[str, Tensor]) -> list[str]:
    """Give the base the embeddings' rows that an adapter stores, and return a note if their number differed.

    PEFT saves embeddings and output head with an adapter if the number of tokens was changed before the training
    (``resize_token_embeddings``), and loads them only into as many rows. ``stored`` are the adapter's tensors.
    """
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    rows = _stored_rows(model, embedding, stored)
    before = len(embedding.weight)
    if rows is None or rows == before:
        return []
    is_apart = head is not None and head.weight is not embedding.weight
    if is_apart and rows > before and _stored_rows(model, head, stored) != rows:
        raise CheckpointError(
            f"adapter {source!r} has embeddings of {rows:,} tokens, and base {location!r} of {before:,}, but it has no "
            "weights of the output head for the others, which would be random; save it again with "
            "save_embedding_layers=True"
        )
    model.resize_token_embeddings(rows, mean_resizing=False)
    trained = f"adapter {source!r} was trained with {rows:,} tokens and base {location!r} has {before:,}"
    return [f"{trained}, so the embeddings are resized as they were for the training"]


def _stored_rows(model: nn.Module, module: Any, stored: Mapping[str, Tensor]) -> int | None:
    # An adapter wraps the module under several names. A factor of a LoRA on the head, (r, n), is no weight of it.
    name = next(name for name, other in model.named_modules() if other is module)
    for key, tensor in stored.items():
        is_own = key.startswith(f"base_model.model.{name}.") and key.endswith(".weight")
        if is_own and ".lora_" not in key and tensor.shape[1:] == module.weight.shape[1:]:
            return len(tensor)
    return None


@contextmanager
def without_adapters(model: Any) -> Iterator[None]:
    """Turn the adapters off within the block.

    PEFT's own switch makes frozen parameters of theirs trainable when it turns them on; the layers' flags do not.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    layers: list[Any] = [
        m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    if not any(isinstance(layer, BaseTunerLayer) for layer in layers):  # prompts
        with model.disable_adapter():
            yield
        return
    flags = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield
    finally:
        for layer, flag in zip(layers, flags, strict=True):
            layer._disable_adapters = flag
