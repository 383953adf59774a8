"""The type of a checkpoint's weights, without loading them, and the type that they are loaded in."""

from collections.abc import Iterable
from pathlib import Path

import torch

from ..checkpoints.formats.safetensors import read_header
from ..checkpoints.stored.locate import locate
from .base_model import base_model_location
from .loading_settings import Loading
from .quiet import quiet_transformers
from .task_fit import model_config

_NAMES = {"BF16": torch.bfloat16, "F16": torch.float16}


def dtype_to_load(location: str, loading: Loading) -> torch.dtype:
    """Return the type that the weights at ``location`` are loaded in.

    ``auto`` is the type that the checkpoint's configuration names, as transformers has it; if it names none, bfloat16
    or float16 where all matrices are stored so, and float32 for every other checkpoint.
    """
    if loading.dtype != "auto":
        return getattr(torch, loading.dtype)  # type: ignore[no-any-return]
    with quiet_transformers():
        config = model_config(location)
    for part in (config, config.get_text_config()):
        named = getattr(part, "dtype", None) or getattr(part, "torch_dtype", None)
        if isinstance(named, str):
            named = getattr(torch, named.removeprefix("torch."), None)
        if isinstance(named, torch.dtype):
            return named if named in _NAMES.values() else torch.float32
    folder = Path(location)
    files = (folder if folder.is_dir() else Path(locate(location))).glob("*.safetensors")
    entries = [entry for file in files for entry in read_header(file, mapped=False).values()]
    stored = {entry.dtype for entry in entries if len(entry.shape) > 1}
    return _NAMES.get(stored.pop(), torch.float32) if len(stored) == 1 else torch.float32


def recorded_dtypes(loading: Loading, sources: Iterable[str]) -> dict[str, list[str]]:
    """Return the types that the models are loaded in, for what a kept measurement depends on.

    Nothing is returned where every model is in single precision: what earlier versions kept is still found.
    """
    dtypes = [dtype_name(dtype_to_load(base_model_location(source), loading)) for source in sources]
    if loading.load_in is not None:
        return {"dtype": dtypes, "load_in": [loading.load_in]}
    return {} if set(dtypes) <= {"float32"} else {"dtype": dtypes}


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a type as ``--dtype`` takes it."""
    return str(dtype).removeprefix("torch.")
