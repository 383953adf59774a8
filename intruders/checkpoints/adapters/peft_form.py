"""An adapter's config and tensors in PEFT's form, whichever program wrote its files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...errors import CheckpointError
from ..stored.checkpoint import StoredTensor

# No type of PEFT's: nothing but tensors that were trained and stored in full.
FULL = "FULL"


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter at a path, of which no tensor is read yet."""

    config: dict[str, Any]  # as PEFT's adapter_config.json
    open: Callable[[], Mapping[str, StoredTensor]] = field(repr=False)  # its tensors, under PEFT's names
    family: str = "PEFT"  # whose files it comes in
    ignored: tuple[tuple[str, str], ...] = ()  # (tensor of its files, why it is none here)
    lacks_heads: bool = False  # the base's number of heads decides in which order rows of q and k are


def lora_in_peft_form(
    modules: Mapping[str, Mapping[str, StoredTensor]],
    alpha: Callable[[int], float],
    base: object,
    source: str,
    **settings: Any,
) -> StoredAdapter:
    """A LoRA adapter of another program: factors by PEFT's words (``lora_A``: (r, in), ``lora_B``: (out, r)) by module.

    ``alpha`` is that of a rank: PEFT multiplies B A by alpha / r. CheckpointError where a factor is missing.
    """
    ranks: dict[str, int] = {}
    for module, parts in modules.items():
        pair = [parts[part] for part in parts if not part.endswith("magnitude_vector")]
        if len(pair) != 2:
            raise CheckpointError(
                f"'{source}' has only {next(iter(parts))} for '{module}'; expected both factors of a LoRA; save the "
                "adapter again"
            )
        ranks[module] = next(parts[part].shape[0] for part in parts if part.endswith("_A"))
    usual = Counter(ranks.values()).most_common(1)[0][0] if ranks else 1
    others = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != usual}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "target_modules": sorted(modules),
        "r": usual,
        "lora_alpha": alpha(usual),
        "rank_pattern": others,
        "alpha_pattern": {key: alpha(rank) for key, rank in others.items()},
        "inference_mode": True,
        **settings,
    }
    tensors = {
        f"base_model.model.{module}.{part}{'' if 'embedding' in part else '.weight'}": stored
        for module, parts in modules.items()
        for part, stored in parts.items()
    }
    return StoredAdapter(config, lambda: tensors)


def transposed(stored: StoredTensor) -> StoredTensor:
    """A stored matrix the other way round."""

    def read() -> Tensor:
        return stored.read().mT.contiguous()

    return StoredTensor(stored.shape[::-1], stored.dtype, stored.stored_as, read)
