"""Every PEFT type: how its weights are made, what that needs of a base, or why it has none; and starts of LoRA."""

from collections.abc import Collection, Mapping
from typing import Any

from ...errors import CheckpointError, PairingError, first_line, missing_extra, some_of
from ..stored.checkpoint import Checkpoint
from ..stored.names import looks_up_tokens, match_names
from .adapter import Adapter, AdapterConfig

# Read by formulas of our own, which give low-rank factors or serve files without a config.
BY_FORMULA = frozenset({"LORA", "LOHA", "LOKR", "ADALORA"})

# Made by PEFT from one weight and its own tensors alone. Several of these decompose or copy the weight when their layer
# is made, so that they need the real one then.
ONE_BY_ONE = frozenset(
    {
        "ADAMSS", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LN_TUNING",
        "MISS", "OFT", "OSF", "PEANUT", "PSOFT", "ROAD", "SHIRA", "SUPERTUNING", "WAVEFT",
    }
)  # fmt: skip

# Made by PEFT from tensors that all weights share: with one weight alone they come out as other numbers, without an
# error. PEFT's own ``uses_shared_state`` does not name RandLoRA.
SHARED = frozenset({"FROD", "PVERA", "RANDLORA", "TINYLORA", "UNILORA", "VBLORA", "VERA"})

# Draw what they share in the order in which the model has its modules.
ORDERED = frozenset({"TINYLORA", "UNILORA"})


# The sum of several such adapters is the sum of their updates, because none looks at the weight.
ADDITIVE = BY_FORMULA | {"VERA"}

# Decompose every weight in full, as PEFT does each time it loads such an adapter.
DECOMPOSING = frozenset({"ADAMSS", "FROD", "OSF", "PSOFT", "TINYLORA"})

# All that a file of UniLoRA needs to hold: it names no module then.
SHARED_VECTOR = "base_model.unilora_theta_d"

# Change a layer's bias with its weight; IA3 where it scales outputs.
WITH_BIAS = frozenset({"ADAMSS", "GLORA", "IA3", "ROAD"})

# What a reader of the result should know of a type.
NOTES = {
    "PSOFT": "the adapter '{}' does not contain its frozen factors; they were computed again from the base, and "
    "another linear algebra library may turn their signs"
}

_ACTIVATIONS = "adds activations and changes no weight; there is nothing to audit"
NO_MATRIX = "trains biases, norms or single tokens, and no matrix; there is nothing to audit"
_PER_INPUT = (
    "decides for each input what it adds, so that no one weight stands for it, and PEFT cannot merge it either; "
    "audit an adapter of another type"
)
REFUSED = {
    **dict.fromkeys(
        (
            "PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE",
            "ADAPTION_PROMPT",
        ),
        _ACTIVATIONS,
    ),
    **dict.fromkeys(("BEFT", "TRAINABLE_TOKENS"), NO_MATRIX),
    **dict.fromkeys(("LILY", "SHADOW", "XLORA", "POLY"), _PER_INPUT),
}  # fmt: skip


def require_read(config: AdapterConfig) -> None:
    """Raise CheckpointError, with the reason, for an adapter of a type that is not read."""
    kind = config.peft_type
    known = BY_FORMULA | ONE_BY_ONE | SHARED
    if kind in REFUSED:
        raise CheckpointError(f"the adapter '{config.source}' is of type {kind}, which {REFUSED[kind]}")
    if kind not in known:
        made_with = str(config.values.get("peft_version") or "a version that it does not name")[:30]
        raise CheckpointError(
            f"the adapter '{config.source}' is of type {kind[:60]}, made with PEFT {made_with!r}, which is not read by "
            f"this version; expected one of {', '.join(sorted(known))}, or the model after PEFT's merge_and_unload"
        )


def require_settings(config: AdapterConfig, tensors: Collection[str]) -> None:
    """Raise CheckpointError for settings of a type under which its weights cannot be made from one folder."""
    if config.peft_type == "BOFT" and config.number("boft_n_butterfly_factor", 1) > 1:
        raise CheckpointError(
            f"the adapter '{config.source}' has boft_n_butterfly_factor = "
            f"{config.values['boft_n_butterfly_factor']}, which PEFT itself takes as 1 where its CUDA extension is "
            "missing; merge it with PEFT on the GPU that trained it, and pass the merged model"
        )
    if config.peft_type == "FROD" and not any(name.startswith("base_model.frod_V.") for name in tensors):
        raise CheckpointError(
            f"the adapter '{config.source}' of type FROD does not contain its projection, which is made of all weights "
            "of the base at once; save it with save_projection=True, or pass the model after PEFT's merge_and_unload"
        )


# PiSSA, OLoRA, CorDA and LoRA-GA leave W0 - s B A in the base, LoftQ a quantized W0. KaSA truncates W0; it is a setting
# of its own beside the start.
KASA = "kasa"
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")


def changes_the_base(start: object) -> bool:
    """Return whether ``init_lora_weights`` takes something out of the base, also as ``pissa_niter_16``."""
    return isinstance(start, str) and start.lower().startswith(_CHANGE_THE_BASE)


def names_in_model_order(base: Checkpoint, adapter: str) -> list[str]:
    """The base's names in the order of the model, or of transformers' class; PairingError if neither is known."""
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
    """Names and shapes of the model that transformers makes for the config; raises whatever transformers raises."""
    import torch
    import transformers

    values = dict(config or {})
    kind: Any = getattr(transformers, values["architectures"][0])
    made = transformers.AutoConfig.for_model(**values)
    with torch.device("meta"):
        model = kind(made)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def require_linear(base: Checkpoint, adapter: Adapter, names: list[str]) -> None:
    """Raise for a convolution or embedding, whose weight PEFT's code would make otherwise than a linear layer's."""
    others = [name for name in names if len(base.shape(name)) != 2 or looks_up_tokens(name)]
    if others:
        raise PairingError(
            f"the adapter '{adapter.source}' of type {adapter.peft_type} changes {some_of(others)}, no linear layer, "
            "which is not read for this type; merge it with PEFT, and pass the merged model"
        )
