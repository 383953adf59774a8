"""The recipe by which mergekit makes a written checkpoint again: task arithmetic with a weight for each matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml

from ...system.files import user_path
from ..adapters.adapter import Adapter
from ..opening.open import Opened
from ..stored.checkpoint import Checkpoint

RECIPE = "mergekit.yml"


def write_recipe(
    folder: Path, sides: tuple[Checkpoint, Opened], shares: Mapping[str, float], dtype: torch.dtype
) -> None:
    """Write the recipe where mergekit reads both models as they are here.

    ``shares`` are those of W0 + a (W - W0). mergekit rounds once to ``dtype``; a weight is for every tensor whose name
    contains its filter, so that longer names come first.
    """
    base, tuned = sides
    is_adapter = isinstance(tuned, Adapter) and tuned.family == "PEFT" and not tuned.replaced.tensors
    if not is_adapter and not (isinstance(tuned, Checkpoint) and tuned.shapes() == base.shapes()):
        return
    parts = [part for part in sides if isinstance(part, Checkpoint)]
    names = [
        str(path.resolve()) if (path := user_path(part.source)).exists() else part.source for part in sides
    ]
    if any((part.kind, part.format) != ("checkpoint", "safetensors") for part in parts):
        return
    usual = Counter(shares.values()).most_common(1)[0][0]
    weights = [
        {"filter": name, "value": share}
        for name, share in sorted(shares.items(), key=lambda own: -len(own[0]))
        if share != usual
    ]
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": names[0],
        "models": [
            {
                "model": "+".join(names) if is_adapter else names[1],
                "parameters": {"weight": [*weights, {"value": usual}]},
            }
        ],
        "dtype": "float32",
        "out_dtype": str(dtype).removeprefix("torch."),
    }
    text = yaml.safe_dump(recipe, sort_keys=False, default_flow_style=False, width=200)
    command = f"mergekit-yaml {RECIPE} OUT{' --lora-merge-cache CACHE' if is_adapter else ''}"
    (folder / RECIPE).write_text(f"# {command}\n{text}", encoding="utf-8")
