"""What ``intruders prepare --loss-on`` keeps of a base for predictions of nats: rows of its layers, file by file.

One folder a base, ``nats/KEY`` in that of the base cache: a file of packed inputs and one of packed gradients for every
layer (layers that read the same inputs share a file), and ``intruders.json``, which names them with their digests. A
matrix finds its rows by its own content, and a base of which any tensor has another row in its middle has none: the
gradients of a matrix depend on all others.
"""

import json
import math
import os
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
import xxhash
from torch import Tensor

from ..checkpoints.adapters.adapter import Adapter
from ..checkpoints.opening.model_sum import parts_of
from ..checkpoints.pairing.pairing import Pairing
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.names import tensor_of
from ..engine.nats import KeptRows, packed, predict
from ..errors import CacheError, IntrudersError, os_reason
from ..system.digests import json_digest
from ..system.folders import atomic_folder
from ..system.plain_values import from_plain, plain
from .base_cache import NATS, BaseCache, BaseKeys, DiskCache, default_folder
from .batches import Batch, of_one_model, read_batches
from .result.forgetting import NOT_PREDICTED, Between, Forgetting, is_predictable

_VERSION = 4  # of the files
DOCUMENT = "intruders.json"


def content_of(base: Tensor) -> str:
    """Return a name for the numbers of a base matrix, as audits read it."""
    return BaseKeys.of(base.float(), 0).whole


def samples_of(base: Checkpoint, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the content of one row of each tensor, all of a vector: a training changes every row of a matrix."""
    for name in names:
        stored = base.tensors[name]
        if stored.dtype.is_floating_point and 0 not in stored.shape:
            is_vector = len(stored.shape) < 2
            yield name, content_of(stored.read() if is_vector else stored.read_slice(stored.shape[0] // 2))


def _is_of(base: Checkpoint, samples: Mapping[str, str]) -> bool:
    """Whether a base has the samples under all names that both have, of which there are some."""
    both = [name for name in samples if name in base.tensors]
    try:
        return bool(both) and all(content == samples[name] for name, content in samples_of(base, both))
    except IntrudersError:  # of what cannot be read nobody knows
        return False


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
    labels: int  # of each token, drawn from the base
    layers: list[KeptLayer]
    base: dict[str, str] = field(default_factory=dict)  # the content of one row of every tensor
    digests: dict[str, str] = field(default_factory=dict)  # of every file
    version: int = _VERSION


class Writer:
    """Files of packed rows that grow sequence by sequence."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[str, xxhash.xxh3_128] = {}

    def add(self, file: str, rows: Tensor, bits: int) -> None:
        content = packed(rows, bits).cpu().contiguous().numpy().tobytes()
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
    """The rows that a folder has for a base: those of the newest text that this base was prepared on. Or none."""

    def __init__(self, folder: Path | None = None, base: Checkpoint | None = None) -> None:
        self.text: KeptText | None = None  # None where nothing was kept of the base, or it is damaged
        self.key: str | None = None  # of what was kept, damaged or not
        self._folder, self._layers, self._told = Path(), dict[str, KeptLayer](), set[str]()
        documents: list[Path] = []
        if folder is not None:
            with suppress(OSError):  # a folder that this user may not look into has nothing
                documents = sorted(folder.glob(f"{NATS}/*/{DOCUMENT}"), key=os.path.getmtime)
        for file in reversed(documents):
            try:
                kept = from_plain(KeptText, json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, LookupError, TypeError) as error:
                self._refuse(file.parent, f"{DOCUMENT}: {error}")
                continue
            if kept.version == _VERSION and base is not None and _is_of(base, kept.base):
                self.text, self._folder = kept, file.parent
                self.key = json_digest([file.parent.name, file.stat().st_mtime_ns], 32)
                self._layers = {layer.content: layer for layer in kept.layers}
                self._layers |= {f"{layer.content} {layer.name}": layer for layer in kept.layers}
                return

    @classmethod
    def at(cls, store: BaseCache | None, base: Checkpoint) -> "KeptNats":
        return cls(store.folder if isinstance(store, DiskCache) else None, base)

    @classmethod
    def of_user(cls, base: Checkpoint) -> "KeptNats":
        """Return what the user's own cache folder has, which is not made where it is missing."""
        try:
            return cls(default_folder(), base)
        except CacheError:  # a user without a home
            return cls()

    def responses(self, batch: Batch, ranks: Sequence[float] | None = None) -> list[Tensor | None]:
        """Return the responses of a batch; None of a matrix without rows.

        Also None of one whose effective rank, among ``ranks``, is not predictable: it waits until the median of its
        model is known, for of most such models nothing is predicted. Where several models change one matrix, its rows
        are read and widened once.
        """
        shared, responses = batch.shared, list[Tensor | None]([None] * len(batch.matrices))
        if self.text is None:
            return responses
        chosen = [at for at in range(len(responses)) if ranks is None or is_predictable(ranks[at])]
        for group in [[at] for at in chosen] if shared is None else [chosen] if chosen else []:
            name, base = batch.matrices[group[0]].name, batch.pair.base[group[0]]
            rows = self.rows(name, base) if shared is None else shared.rows(self.rows)
            if rows is not None:
                updates = [batch.pair.select(at).update.scaled(batch.units[at]) for at in group]
                for at, own in zip(group, rows.responses(updates), strict=True):
                    responses[at] = own
        return responses

    def forgetting(
        self,
        pairing: Pairing,
        responses: Mapping[str, Tensor | None],
        ranks: Mapping[str, float],
        affected: Collection[str],
        device: torch.device,
    ) -> Forgetting | None:
        """Return the prediction for a model; None where there can be none.

        ``responses`` and effective ``ranks`` are those of its matrices by name, ``affected`` the matrices with
        intruders. Matrices whose responses wait are read again.
        """
        if self.text is None or not ranks:
            return None
        if not is_predictable(median(ranks.values())):
            self.tell(NOT_PREDICTED)
            return None
        waiting = [own for own in pairing.pairs if not is_predictable(ranks.get(own.name, math.nan))]
        late: dict[str, Tensor | None] = {}
        for batch in read_batches(of_one_model(waiting), device):
            late |= zip((matrix.name for matrix in batch.matrices), self.responses(batch), strict=True)
        of_rows = {name: own for name in ranks if (own := late.get(name, responses[name])) is not None}
        text = self.text
        if text is None or not of_rows:  # damage is found where rows are read
            return None
        kl, shares = predict(of_rows, text.scored, text.documents)
        return Forgetting(
            text=text.text,
            tokens=text.scored * len(text.documents),
            kl=Between(*kl),
            by_matrix=shares,
            affected=[name for name in of_rows if name in affected],
            left_out=[name for name in ranks if name not in of_rows] + changed_beside(pairing),
        )

    def rows(self, name: str, base: Tensor) -> KeptRows | None:
        """Return the rows of a base matrix (m, n); None where there are none, with a warning where they are damaged."""
        content, kept = content_of(base), self.text
        layer = self._layers.get(f"{content} {name}") or self._layers.get(content)
        if kept is None or layer is None:
            return None
        sequences = len(kept.documents)
        try:
            inputs, gradients = (
                _read(self._folder / file, kept.digests[file]) for file in (layer.inputs, layer.gradients)
            )
            of_gradients = gradients.view(sequences, kept.labels, kept.tokens, -1)
            return KeptRows(inputs.view(sequences, kept.tokens, -1), of_gradients)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            self.text = None
            self._refuse(self._folder, os_reason(error) if isinstance(error, OSError) else str(error))
            return None

    def _refuse(self, folder: Path, why: str) -> None:
        self.tell(
            f"what was kept for predictions in '{folder}' is damaged ({why}), so no nats are predicted; "
            "run intruders prepare BASE --loss-on TEXT again"
        )

    def tell(self, what: str) -> None:
        """Warn of it, once in all audits."""
        if what not in self._told:
            self._told.add(what)
            warnings.warn(what, stacklevel=2)


def _read(file: Path, digest: str) -> Tensor:
    content = bytearray(file.read_bytes())
    if xxhash.xxh3_128_hexdigest(content) != digest:
        raise ValueError(f"{file.name} does not have the numbers that were written")
    return torch.frombuffer(content, dtype=torch.int8)


def to_bytes(responses: Tensor) -> bytes:
    """Return responses in single precision, as a fleet keeps them."""
    return responses.numpy().astype("<f4").tobytes()


def of_bytes(content: bytes | None, labels: int) -> Tensor | None:
    """Return responses (sequences, labels) of :func:`to_bytes`, in double precision; None of None."""
    if content is None:
        return None
    return torch.from_numpy(np.frombuffer(content, "<f4").astype(float)).view(-1, labels)


def changed_beside(pairing: Pairing) -> list[str]:
    """Return what the tuned side changes beside the paired matrices, by equal names: embeddings, norms, biases."""
    paired = {tensor_of(pair.name) for pair in pairing.pairs}
    changed = dict.fromkeys(pairing.biases)
    for part, _ in parts_of(pairing.tuned):
        held = part.replaced if isinstance(part, Adapter) else part
        for name in pairing.base.names():
            if name in paired or name not in held.tensors:
                continue
            ours, theirs = pairing.base.tensors[name], held.tensors[name]
            if ours.shape != theirs.shape or not torch.equal(ours.read().float(), theirs.read().float()):
                changed[name] = None
    return list(changed)
