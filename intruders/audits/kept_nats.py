"""What ``intruders prepare --loss-on`` keeps of a base for predictions of nats: rows of its layers, file by file.

One folder a base, ``nats/KEY`` in that of the base cache: a file of packed inputs and one of packed gradients for every
layer (layers that read the same inputs share a file), and ``intruders.json``, which names them with their digests. A
matrix finds its rows by its own content, so that they are never those of another base.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import fsum
from pathlib import Path

import torch
import xxhash
from torch import Tensor

from ..checkpoints.adapters.adapter import Adapter
from ..checkpoints.opening.model_sum import parts_of
from ..checkpoints.opening.open import Opened
from ..checkpoints.pairing.pairing import Pairing
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.names import tensor_of
from ..engine.nats import KeptRows, Responses, leading_left, packed, packed_width, predict
from ..errors import os_reason
from ..system.digests import json_digest
from ..system.folders import atomic_folder
from ..system.plain_values import from_plain, plain
from .base_cache import NATS, BaseCache, BaseKeys, DiskCache
from .batches import Batch
from .result.forgetting import NOT_OF_RANK_1, OF_RANK_1, Forgetting, median_rank
from .result.records import AuditedMatrix

_VERSION = 2  # of the files
DOCUMENT = "intruders.json"


def content_of(base: Tensor) -> str:
    """Return a name for the numbers of a base matrix, as audits read it."""
    return BaseKeys.of(base.float(), 0).whole


@dataclass(frozen=True)
class KeptLayer:
    """One matrix: the name and content of it, and the files of its inputs and gradients."""

    name: str
    content: str
    inputs: str
    gradients: str


@dataclass(frozen=True)
class KeptText:
    """What was kept of a base for one text."""

    text: str  # as it was named
    documents: list[int]  # of each sequence
    tokens: int  # of each sequence
    scored: int  # tokens of each sequence whose labels count
    labels: int  # of each token; the first is the text's own
    layers: list[KeptLayer]
    digests: dict[str, str] = field(default_factory=dict)  # of every file
    version: int = _VERSION


class Writer:
    """Files of packed rows that grow sequence by sequence."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[str, xxhash.xxh3_128] = {}

    def add(self, file: str, rows: Tensor) -> None:
        content = packed(rows).cpu().contiguous().numpy().tobytes()
        self._digests.setdefault(file, xxhash.xxh3_128()).update(content)
        with (self._folder / file).open("ab") as out:
            out.write(content)

    def finish(self, kept: KeptText) -> None:
        """Write the document, which says that all is there."""
        digests = {file: digest.hexdigest() for file, digest in self._digests.items()}
        (self._folder / DOCUMENT).write_text(
            json.dumps(plain(replace(kept, digests=digests))), encoding="utf-8"
        )


@contextmanager
def written(store: DiskCache, contents: Mapping[str, str]) -> Iterator[Writer]:
    """Yield what writes the rows of a base, of the contents of its matrices by name, in the place of earlier ones."""
    (store.folder / NATS).mkdir(exist_ok=True)
    with atomic_folder(
        store.folder / NATS / json_digest(sorted(contents.values()), 32), force=True
    ) as folder:
        yield Writer(folder)


class KeptNats:
    """The rows that a cache has for a base. The newest text that has one of its matrices is taken."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders, self._lock = folders, threading.Lock()
        self._chosen: tuple[Path, KeptText, dict[str, KeptLayer]] | None = None
        self._is_damaged = False

    @classmethod
    def at(cls, store: BaseCache | None) -> KeptNats | None:
        """Return what a cache has; None where nothing was prepared."""
        if not isinstance(store, DiskCache):
            return None
        documents = sorted(
            (file.stat().st_mtime, file.parent) for file in store.folder.glob(f"{NATS}/*/{DOCUMENT}")
        )
        return cls([folder for _, folder in reversed(documents)]) if documents else None

    @property
    def text(self) -> KeptText | None:
        """What was kept of the base; None where nothing was, or it is damaged."""
        return None if self._chosen is None or self._is_damaged else self._chosen[1]

    def rows(self, name: str, base: Tensor) -> KeptRows | None:
        """Return the rows of a base matrix (m, n); None where there are none, with a warning where they are damaged."""
        content = content_of(base)
        with self._lock:
            if self._chosen is None:
                self._choose(content)
        if self._chosen is None or self._is_damaged:
            return None
        folder, kept, layers = self._chosen
        layer = layers.get(f"{content} {name}") or layers.get(content)
        if layer is None:
            return None
        (m, n), shape = base.shape, (len(kept.documents), kept.tokens)
        try:
            inputs, gradients = (
                _read(folder / file, kept.digests[file]) for file in (layer.inputs, layer.gradients)
            )
            return KeptRows(
                inputs.view(*shape, packed_width(n)),
                gradients.view(shape[0], kept.labels, shape[1], packed_width(m)),
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            self._refuse(folder, os_reason(error) if isinstance(error, OSError) else str(error))
            return None

    def _choose(self, content: str) -> None:
        for folder in self._folders:
            try:
                document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
                kept = from_plain(KeptText, document)
            except (OSError, ValueError, LookupError, TypeError) as error:
                self._refuse(folder, f"{DOCUMENT}: {error}")
                continue
            layers = {layer.content: layer for layer in kept.layers}
            layers |= {f"{layer.content} {layer.name}": layer for layer in kept.layers}
            if content in layers and kept.version == _VERSION:
                self._chosen, self._is_damaged = (folder, kept, layers), False
                return

    def _refuse(self, folder: Path, why: str) -> None:
        self._is_damaged = True
        warnings.warn(
            f"what was kept for predictions in '{folder}' is damaged ({why}), so no nats are predicted; "
            "run intruders prepare BASE --loss-on TEXT again",
            stacklevel=2,
        )


def _read(file: Path, digest: str) -> Tensor:
    content = bytearray(file.read_bytes())
    if xxhash.xxh3_128_hexdigest(content) != digest:
        raise ValueError(f"{file.name} does not have the numbers that were written")
    return torch.frombuffer(content, dtype=torch.int8)


def responses_of(kept: KeptNats, batch: Batch, is_intruder: Tensor) -> list[Responses | None]:
    """Return the responses of a decided batch, whose parts are the directions of intruders, ``is_intruder`` (batch, k).

    None of a matrix without rows. Where several models change one matrix, its rows are read and widened once.
    """
    shared, count = batch.shared, range(len(batch.matrices))
    rows = [
        kept.rows(matrix.name, base) if shared is None else shared.rows(matrix.name, kept.rows)
        for matrix, base in zip(batch.matrices, batch.pair.base, strict=True)
    ]
    some = [at for at in count if rows[at] is not None and bool(is_intruder[at].any())]
    left = leading_left(batch.pair.select(torch.tensor(some)), is_intruder.shape[1]) if some else ()
    directions = {at: own[is_intruder[at]] for at, own in zip(some, left, strict=True)}
    none = torch.empty(0, batch.pair.base.shape[-2])
    found: list[Responses | None] = []
    for group in [[at] for at in count] if shared is None else [list(count)]:
        updates = [batch.pair.select(at).update.scaled(batch.units[at]) for at in group]
        own = rows[group[0]]
        found += (
            [None] * len(group)
            if own is None
            else own.responses(updates, [directions.get(at, none) for at in group])
        )
    return found


class Responding:
    """Collects the responses of the matrices of one model while they are audited, in any order and thread."""

    def __init__(self, kept: KeptNats) -> None:
        self._kept = kept
        self._of: dict[str, Responses | None] = {}  # None of a matrix without rows

    def add(self, batch: Batch, is_intruder: Tensor) -> None:
        """Take a decided batch; ``is_intruder`` is (batch, k)."""
        names = [matrix.name for matrix in batch.matrices]
        self._of |= dict(zip(names, responses_of(self._kept, batch, is_intruder), strict=True))

    def result(self, matrices: Sequence[AuditedMatrix]) -> Forgetting | None:
        """Return the prediction for a model of these matrices; None where there can be none."""
        names = [matrix.name for matrix in matrices]
        of_rows = {name: own for name in names if (own := self._of[name]) is not None}
        text = self._kept.text
        if text is None or not of_rows:
            return None
        if median_rank(matrices) < OF_RANK_1:
            warnings.warn(NOT_OF_RANK_1, stacklevel=2)
            return None
        prediction = predict(of_rows, text.scored, text.documents)
        return Forgetting(
            text=text.text,
            tokens=text.scored * len(text.documents),
            kl=prediction.kl,
            by_matrix=prediction.shares,
            in_intruders={name: fsum(parts) for name, parts in prediction.parts.items() if parts},
            left_out=[name for name in names if name not in of_rows],
        )


def changed_beside(base: Checkpoint, tuned: Opened, pairing: Pairing) -> list[str]:
    """Return what the tuned side changes beside the paired matrices, by equal names: embeddings, norms, biases."""
    paired = {tensor_of(pair.name) for pair in pairing.pairs}
    changed = dict.fromkeys(pairing.biases)
    for part, _ in parts_of(tuned):
        held = part.replaced if isinstance(part, Adapter) else part
        for name in base.names():
            if name in paired or name not in held.tensors:
                continue
            ours, theirs = base.tensors[name], held.tensors[name]
            if ours.shape != theirs.shape or not torch.equal(ours.read().float(), theirs.read().float()):
                changed[name] = None
    return list(changed)
