"""A full checkpoint with some of its matrices changed, planned as a stream of tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.adapters.update import Adapter
from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.locate import locate
from ..checkpoints.matching import match_names
from ..checkpoints.matrices import Matrix, matrices_of, not_a_matrix
from ..checkpoints.open import Opened, Stack
from ..checkpoints.pairing import LoadedPair, pair
from ..checkpoints.write import PlannedTensor, copy_companions
from ..errors import CheckpointError, missing_extra
from .interventions import Change, Update


def planned_checkpoint(base: Checkpoint, tuned: Opened, changes: Mapping[str, Change]) -> list[PlannedTensor]:
    """Every tensor of the tuned model, with the changed matrices in their new form, in the base's dtypes.

    Of adapters it is the base with everything that they change merged in, embeddings and norms among it.

    Raises:
      CheckpointError: the tuned side changes something that cannot be merged tensor by tensor.
    """
    if isinstance(tuned, Checkpoint):
        return _changed_checkpoint(base, tuned, changes)
    return _merged_checkpoint(base, tuned, changes)


def _changed_checkpoint(
    base: Checkpoint, tuned: Checkpoint, changes: Mapping[str, Change]
) -> list[PlannedTensor]:
    matching = match_names(
        {name: base.shape(name) for name in base.tensors}, {name: tuned.shape(name) for name in tuned.tensors}
    )
    base_of = {other: name for name, other in matching.tuned_of.items()}

    def planned(name: str) -> PlannedTensor:
        stored, partner = tuned.tensors[name], base_of.get(name)
        dtype = stored.dtype if partner is None else base.dtype(partner)
        matrices = (
            [] if partner is None or not_a_matrix(base.tensors[partner]) else matrices_of(base, partner)
        )
        wanted = [(matrix, changes[matrix.name]) for matrix in matrices if matrix.name in changes]

        def read() -> Tensor:
            tensor = stored.read()
            if not wanted or partner is None:
                return tensor
            tensor = _wide_copy(tensor)
            for matrix, change in wanted:
                before, after = matrix.read(base.tensors[partner]), matrix.read(stored)
                update = Update(dense=after.double() - before.double())
                put_back(matrix, tensor, change.applied(after, update))
            return tensor

        return PlannedTensor(name, stored.shape, dtype, read)

    return [planned(name) for name in tuned.tensors]


def _merged_checkpoint(
    base: Checkpoint, tuned: Adapter | Stack, changes: Mapping[str, Change]
) -> list[PlannedTensor]:
    whole = _replaced_whole(base, tuned)
    pairs = {pair.name: pair for pair in pair(base, tuned, include_embeddings=True).pairs}

    def planned(name: str) -> PlannedTensor:
        stored = base.tensors[name]
        matrices = [] if not_a_matrix(stored) else matrices_of(base, name)
        changed = [(matrix, pairs[matrix.name]) for matrix in matrices if matrix.name in pairs]

        def read() -> Tensor:
            if name in whole:
                return whole[name]()
            loaded = [(matrix, pair, both) for matrix, pair in changed if (both := pair.load()) is not None]
            if not loaded:
                return stored.read()
            tensor = _wide_copy(stored.read())
            for matrix, _, both in loaded:
                put_back(matrix, tensor, _tuned(both, changes.get(matrix.name)))
            return tensor

        return PlannedTensor(name, stored.shape, stored.dtype, read)

    tied = [name for name in pairs if name in base.tied]
    if tied:
        raise CheckpointError(
            f"'{tuned.source}' changes '{tied[0]}', which the base ties to '{base.tied[tied[0]]}'; "
            "write an adapter (--as adapter), or untie them first"
        )
    return [planned(name) for name in base.tensors]


def _tuned(both: LoadedPair, change: Change | None) -> Tensor:
    """W', or W where nothing changes it, in double precision."""
    if both.tuned is not None:
        tuned = both.tuned.double()
        update = Update(dense=tuned - both.base.double())
    else:
        assert both.left is not None
        assert both.right is not None
        update = Update(both.left.double(), both.right.double())
        tuned = both.base.double() + update.matrix()
    return tuned if change is None else change.applied(tuned, update)


def _replaced_whole(base: Checkpoint, tuned: Adapter | Stack) -> dict[str, Callable[[], Tensor]]:
    """Tensors of one dimension that an adapter stores in full; those of two are matrices like any other."""
    adapters = [tuned] if isinstance(tuned, Adapter) else [part for part, _ in tuned.parts]
    found: dict[str, Callable[[], Tensor]] = {}
    for adapter in adapters:
        if isinstance(adapter, Checkpoint):
            raise CheckpointError(
                f"'{tuned.source}' is a sum with full checkpoints in it; merge it first, and give the merged model"
            )
        if adapter.ignored:
            raise CheckpointError(
                f"'{adapter.source}' trained {len(adapter.ignored)} tensors that cannot be merged here "
                f"('{adapter.ignored[0][0]}': {adapter.ignored[0][1]}); write an adapter (--as adapter)"
            )
        stored = adapter.replaced.tensors
        if not stored:
            continue
        matching = match_names(
            {name: base.shape(name) for name in base.tensors},
            {name: value.shape for name, value in stored.items()},
        )
        for name, other in matching.tuned_of.items():
            if stored[other].shape != base.shape(name):
                raise CheckpointError(
                    f"'{adapter.source}' holds '{name}' as {stored[other].shape} and the base has {base.shape(name)}; "
                    "write an adapter (--as adapter)"
                )
            if len(stored[other].shape) < 2:
                if len(adapters) > 1:
                    raise CheckpointError(
                        f"'{tuned.source}' is a sum of adapters that store '{name}' in full; merge it first"
                    )
                found[name] = stored[other].read
    return found


def _wide_copy(tensor: Tensor) -> Tensor:
    """A copy to write into; double, so that the final dtype is the only rounding."""
    return tensor.to(torch.float64, copy=True)


def put_back(matrix: Matrix, tensor: Tensor, values: Tensor) -> None:
    """Write a matrix (m, n) into the tensor that it was read from."""
    place = tensor if matrix.expert is None else tensor[matrix.expert]
    values = values.to(place.device)
    if matrix.rows is not None:
        place.view(place.shape[0], -1)[matrix.rows] = values
    else:
        place.copy_((values.mT if matrix.input_first else values).reshape(place.shape))


def companion_folder(base_side: Checkpoint, tuned_side: Opened, base: object, tuned: object) -> Path:
    """Where config and tokenizer are: beside a tuned checkpoint, or beside an adapter's base.

    Raises:
      CheckpointError: they are nowhere, as for a state dict in memory.
    """
    source = tuned if isinstance(tuned_side, Checkpoint) else base if base is not None else base_side.source
    if not isinstance(source, str | os.PathLike):
        raise CheckpointError(
            "a checkpoint is written with the config and tokenizer that lie beside its model, and this one is in "
            "memory; give paths"
        )
    return locate(os.fspath(source))


def write_companions(source: Path, folder: Path, dtype: torch.dtype, *, is_gguf: bool) -> None:
    """Config and tokenizer into ``folder``; of a GGUF file, those that transformers reads out of it.

    The config is made to say what is written: weights of ``dtype``, not quantized.

    Raises:
      CheckpointError: there is no config.
    """
    if is_gguf:
        _from_gguf(source, folder)
    else:
        beside = source if source.is_dir() else source.parent
        if "config.json" not in copy_companions(beside, folder):
            raise CheckpointError(
                f"'{beside}' has no config.json beside its weights; give a folder that has one"
            )
    _describe_weights(folder / "config.json", dtype)


def _describe_weights(config: Path, dtype: torch.dtype) -> None:
    values: dict[str, Any] = json.loads(config.read_text(encoding="utf-8"))
    values.pop("quantization_config", None)
    for key in ("dtype", "torch_dtype"):
        if key in values:
            values[key] = str(dtype).removeprefix("torch.")
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _from_gguf(source: Path, folder: Path) -> None:
    try:
        from transformers import AutoConfig, AutoTokenizer
    except ImportError as error:
        raise missing_extra("the config of a GGUF file", "transformers", "train") from error
    file = source if source.is_file() else next(iter(sorted(source.glob("*.gguf"))))
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    config.__dict__.pop("quantization_config", None)
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
