"""PyTorch's own files (``pytorch_model.bin``, ``.pt``), through ``torch.load(weights_only=True)`` alone.

Its unpickler runs nothing of a pickle but the rebuilding of tensors. Files are mapped, and opened again for every
tensor. Those from before PyTorch 1.6 cannot be mapped: their tensors are loaded once and kept.
"""

import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, first_line, os_reason, some_of
from ..stored.checkpoint import StoredTensor, tensor_in_memory
from .memory import is_state_dict
from .safetensors import require_unchanged

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
PICKLE_INDEX_SUFFIX = ".bin.index.json"

# What a file begins with: a zip, or the pickled number that torch.save wrote first before PyTorch 1.6.
_ZIP = b"PK\x03\x04"
_OLD = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)

# Under these keys the usual training loops put the weights beside their optimizer's state.
_WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "module")


def pickle_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file of ``torch.save``; CheckpointError for one that needs code or claims too much."""
    try:
        is_old = _is_old(path)
        stamp = path.stat()
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {os_reason(error)}") from None
    result: dict[str, StoredTensor] = {}
    for name, tensor in _load(path, mapped=not is_old).items():
        if not name.isprintable():
            raise CheckpointError(f"'{path}' has a tensor of the name {name[:80]!r}, which no library writes")
        if tensor.is_sparse or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"'{name}' in '{path}' is not a plain tensor of numbers ({tensor.layout})")
        if tensor.numel() * tensor.element_size() > stamp.st_size:
            raise CheckpointError(
                f"'{name}' in '{path}' claims the shape {tuple(tensor.shape)}, more than a file of {stamp.st_size:,} "
                "bytes can contain"
            )
        stored = tensor_in_memory(tensor)
        result[name] = stored if is_old else replace(stored, read=partial(_read_again, path, name, stamp))
    return result


def _read_again(path: Path, name: str, stamp: os.stat_result) -> Tensor:
    tensors = _load(path)
    require_unchanged(path, stamp)
    return tensors[name].detach()


def _is_old(path: Path) -> bool:
    """Return whether the file is of torch.save before PyTorch 1.6; refuse other ones, and compressed records."""
    with path.open("rb") as file:
        start = file.read(len(_OLD))
    if start == _OLD:
        return True
    if not start.startswith(_ZIP):
        raise CheckpointError(
            f"'{path}' is not a file of torch.save: it begins with {start[:4]!r}; "
            "load it where you trust it, and save it as safetensors"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise CheckpointError(
            f"'{path}' is not a complete file of torch.save ({first_line(error)}); download it again"
        ) from None
    packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise CheckpointError(
            f"'{path}' has compressed records, which torch.save never writes: {some_of(packed)}"
        )
    return False


def _load(path: Path, *, mapped: bool = True) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        # The name of the global from torch's text of many lines, or a general word for it.
        wanted = next((line.strip()[:120] for line in str(error).splitlines() if "GLOBAL" in line), None)
        reason = "is damaged or wants code that is not run here"
        if wanted is not None:
            reason = f"wants code that is not run here ({first_line(ValueError(wanted))})"
        raise CheckpointError(
            f"'{path}' was not loaded, because its pickle {reason}; "
            "load it where you trust it, and save it as safetensors"
        ) from None
    except Exception as error:  # torch.load raises nearly anything for a damaged file
        raise CheckpointError(f"'{path}' cannot be read by torch.load: {first_line(error)}") from None
    for key in _WEIGHT_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if isinstance(content, Mapping):
        content = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    if not is_state_dict(content):
        raise CheckpointError(
            f"'{path}' contains a {type(content).__name__}; expected names mapped to tensors"
        )
    return dict(content)
