"""Which weights of its base an adapter was trained on, where the base was quantized: what is known, as a note."""

from __future__ import annotations

import re

from ...errors import CheckpointError
from ...system.files import user_path
from ..adapters.adapter import Adapter
from ..quantized.settings import quantization_of
from ..stored.checkpoint import Checkpoint
from ..stored.json_file import read_json_object

# How names on the hub say it: unsloth/Llama-3.2-1B-bnb-4bit, org/model-GPTQ, org/model-AWQ.
_NAMED_QUANTIZED = re.compile(
    r"(?:^|[-_.])(?:bnb|[48]-?bit|int[48]|nf4|fp4|gptq|awq)(?:$|[-_.])", re.IGNORECASE
)


def notes_on_trained_base(base: Checkpoint, part: object) -> list[str]:
    """Return a note if an adapter or its base is quantized (QLoRA): the update is of one of two sets of weights.

    PEFT writes only the name of the base into an adapter. A quantized base can be known by its configuration or, where
    it is not on this machine, by its name; a base that was quantized while loading leaves no trace.
    """
    if not isinstance(part, Adapter) or part.base_source is None:
        return []
    named_quantized, is_quantized = _is_quantized(part.base_source), bool(quantization_of(base.config))
    if named_quantized and not is_quantized:
        note = (
            f"adapter '{part.source}' names '{part.base_source}', a quantized base: it was trained on those weights, "
            f"de-quantized, and is measured on the original ones of '{base.source}'"
        )
        return [note]
    if is_quantized:
        known = (
            "as the adapter was trained"
            if named_quantized
            else "and the adapter does not record whether it was trained on these or on the original ones"
        )
        return [f"the weights of '{base.source}' are quantized and de-quantized on read, {known}"]
    return []


def _is_quantized(source: str) -> bool:
    file = user_path(source) / "config.json"
    try:
        if file.is_file():
            return bool(quantization_of(read_json_object(file)))
    except (OSError, ValueError, CheckpointError):
        return False
    return _NAMED_QUANTIZED.search(source.rpartition("/")[2]) is not None
