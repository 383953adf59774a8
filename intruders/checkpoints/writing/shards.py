"""Checkpoints written as a stream: one tensor in memory at a time, in shards whose sizes are planned ahead.

The layout is that of transformers: ``model.safetensors``, or ``model-00001-of-00003.safetensors`` and so on
behind ``model.safetensors.index.json``. No number that is not one goes into a model that is written.
"""

import itertools
import json
from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, NonFiniteError, os_reason
from ..formats.safetensors import DTYPES, INDEX_SUFFIX
from ..stored.checkpoint import Tensors


def require_finite(tensor: Tensor, name: str) -> Tensor:
    """Return a changed tensor, in the type in which it is written; NonFiniteError if that cannot hold its numbers."""
    # PyTorch cannot ask every type of 8 bits.
    asked = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    if not bool(asked.isfinite().all()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise NonFiniteError(
            f"'{name}' contains NaN or infinity once it is changed and written in {dtype}, whose largest number is "
            f"{torch.finfo(tensor.dtype).max:.5g}; expected finite weights; fix the tuned model, or leave this tensor "
            f"as it is: --exclude '{name}'"
        )
    return tensor


SHARD_BYTES = 5 * 10**9  # transformers' own limit

_NAMES = {dtype: name for name, dtype in DTYPES.items() if dtype is not None}


def write_checkpoint(
    folder: Path,
    tensors: Tensors,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the tensors into ``folder``, in shards of at most ``shard_bytes`` (a larger tensor has its own).

    Each is read when it is written, and let go. ``progress`` is called with (tensors written, in all). CheckpointError
    for a tensor of another shape than was planned, and for files that cannot be written.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    split = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=attrgetter("nbytes"),
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    done = itertools.count(1)
    after_each = None if progress is None else lambda: progress(next(done), len(tensors))
    for file, names in split.filename_to_tensors.items():
        write_safetensors(folder / file, {name: tensors[name] for name in names}, after_each, metadata)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / f"model{INDEX_SUFFIX}").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def write_safetensors(
    path: Path,
    tensors: Tensors,
    after_each: Callable[[], None] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one file, whose header comes first; CheckpointError as :func:`write_checkpoint`."""
    try:
        with path.open("xb") as file:
            file.write(_header(tensors, metadata))
            for name, planned in tensors.items():
                tensor = planned.read()
                if tuple(tensor.shape) != planned.shape:
                    raise CheckpointError(
                        f"'{name}' came as {tuple(tensor.shape)} and was planned as {planned.shape}; "
                        "a file changed while it was being read"
                    )
                flat = tensor.detach().to("cpu", planned.dtype).contiguous().reshape(-1)
                file.write(flat.view(torch.uint8).numpy().data)
                if after_each is not None:
                    after_each()
    except OSError as error:
        raise CheckpointError(f"cannot write '{path}': {os_reason(error)}") from error


def _header(tensors: Tensors, metadata: Mapping[str, str] | None) -> bytes:
    """The length of the header in 8 bytes, little-endian, and the header, padded to a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    begin = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise CheckpointError(
                f"'{name}' has the dtype {tensor.dtype}, which is not written here; expected one of "
                f"{', '.join(_NAMES.values())}; convert the tensor"
            )
        end = begin + tensor.nbytes
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
