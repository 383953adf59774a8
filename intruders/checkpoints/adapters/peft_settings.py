"""A stranger's adapter config as PEFT's own, narrowed to the modules that are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ...errors import CheckpointError
from .adapter_config import AdapterConfig

# Choose modules, say how to train or where to run. The modules are given by name here.
_LEFT_OUT = {
    "alora_invocation_tokens", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "feedforward_modules", "inference_mode", "layer_replication", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_bias", "lora_ga_config", "megatron_config", "megatron_core",
    "modules_to_save", "monteclora_config", "peft_type", "peft_version", "progressbar", "revision", "runtime_config",
    "runtime_offload_base_weight", "target_modules", "target_parameters", "task_type", "trainable_token_indices",
    "velora_config",
}  # fmt: skip
_PATTERNS = ("rank_pattern", "alpha_pattern", "lambda_pattern", "block_size_pattern", "n_frequency_pattern")
# Whole numbers that count nothing that is made.
_NO_SIZES = ("seed", "_key", "alpha", "scaling", "warmup", "interval")
_LEAST_BOUND = 1024  # defaults that count nothing here are below it


def peft_settings(
    config: AdapterConfig, modules: Sequence[str], largest: int, feedforward: Sequence[str] = ()
) -> Any:
    """PEFT's config object for these modules alone.

    Args:
      config: as it stands in the file or the model.
      modules: full paths; no pattern of the file reaches PEFT.
      largest: no size in the config may be above it.
      feedforward: those of them that IA3 scales on the input side.

    Raises:
      CheckpointError: a size out of proportion, a pattern that could match for ever, a type or a setting that the
        installed PEFT does not know.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = {kind.value: made for kind, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if config.peft_type not in kinds:
        raise CheckpointError(
            f"the adapter '{config.source}' is of type {config.peft_type}, which the installed PEFT does not know; "
            "expected a PEFT as new as the one that made it; install a newer one"
        )
    kind = kinds[config.peft_type]
    known = {field.name for field in fields(kind)}
    values = {key: value for key, value in config.values.items() if key not in {*_LEFT_OUT, *_PATTERNS}}
    unknown = sorted(key for key, value in values.items() if key not in known and value)
    if unknown:
        raise CheckpointError(
            f"the adapter config of '{config.source}' has {unknown[0][:60]!r}, which the installed PEFT does not know, "
            "so that its weights could be other ones; install the version of PEFT that made it"
        )
    values = {key: value for key, value in values.items() if key in known}
    values |= {key: _matched(config, key, modules) for key in _PATTERNS if key in known}
    _require_proportion(values, config, largest)
    values |= {"target_modules": list(modules), "inference_mode": True}
    if "progressbar" in known:  # FROD's, on the terminal
        values["progressbar"] = False
    if "feedforward_modules" in known:
        values["feedforward_modules"] = list(feedforward)
    return kind(**values)


def _matched(config: AdapterConfig, key: str, modules: Sequence[str]) -> dict[str, int | float]:
    """The pattern's value for each module by its full path, matched by us, so that PEFT's ``re`` sees no pattern."""
    anywhere = config.peft_type == "OSF"
    values = {module: config.pattern_value(key, module, math.nan, anywhere=anywhere) for module in modules}
    return {module: value for module, value in values.items() if not math.isnan(value)}


def _require_proportion(values: Mapping[str, Any], config: AdapterConfig, largest: int) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _require_proportion(value, config, largest)
        elif key.endswith(_NO_SIZES) or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        elif not abs(value) <= max(largest, _LEAST_BOUND):
            raise CheckpointError(
                f"the adapter config of '{config.source}' has {key[:60]} = {str(value)[:40]!r}, out of proportion to "
                f"its tensors; expected {max(largest, _LEAST_BOUND):,} at most"
            )
