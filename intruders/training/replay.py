"""Replay: a share of every batch is text, of which every token is learned, in one loss with the task's."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Sampler

from ..data.corpora import SELF, Corpus, load_corpora
from ..errors import SettingError
from ..models.answers import own_text
from ..models.encoding import IGNORED
from ..models.tuned_model import OpenedModel
from ..system.progress import Progress, silent
from ..system.store import Kept
from .finetune_config import FinetuneConfig, rows_of_text

# Samples of the base and their tokens: of an eighth of them, repeated, a model learned the samples themselves.
_SAMPLES, _TOKENS = 256, 96


@dataclass(frozen=True)
class Replay:
    """The text of a corpus as rows, and how many of them every batch has."""

    corpus: Corpus
    rows: list[dict[str, list[int]]]
    per_batch: int

    def recorded(self) -> dict[str, Any]:
        return self.corpus.recorded() | {"rows": len(self.rows), "rows_per_batch": self.per_batch}


def read_replay(
    config: FinetuneConfig,
    opened: OpenedModel,
    width: int,
    batch_size: int,
    kept: Kept,
    measured: Corpus | None = None,
    progress: Progress = silent,
) -> Replay | None:
    """Read and cut the text of a run that replays some into rows of ``width`` tokens, without what is measured.

    The base, ``opened`` before it is trained, writes it where ``config`` asks for "self"; what it wrote is ``kept``.
    """
    if config.replay is None:
        return None
    name, share = config.replayed
    if name == SELF:
        corpus = own_text(opened, SELF, _SAMPLES, _TOKENS, config.seed, kept, progress)
    else:
        corpus = replayed_text(config, measured)
    rows = []
    for text in corpus.documents:
        ids: list[int] = opened.tokenizer(text, verbose=False)["input_ids"]
        for row in (ids[start : start + width] for start in range(0, len(ids), width)):
            if len(row) >= 2:  # one token alone predicts nothing
                # Nothing predicts a row's first token, and a target is counted by its label.
                rows.append({"input_ids": row, "labels": [IGNORED, *row[1:]]})
    if not rows:
        raise SettingError(
            f"replay is {config.replay!r}, and {name!r} has no text of two tokens beside the documents that are "
            "measured; pass a larger corpus"
        )
    return Replay(corpus, rows, rows_of_text(share, batch_size))


def replayed_text(config: FinetuneConfig, measured: Corpus | None) -> Corpus:
    """Return the corpus of a run that replays one, without the documents that the loss is measured on."""
    held_out = frozenset(() if measured is None else measured.documents)
    name, _ = config.replayed
    corpora = load_corpora(name)
    if len(corpora) > 1:
        raise SettingError(
            f"replay is {config.replay!r}, and {name!r} is a mixture of {len(corpora)} corpora; expected one; pass one "
            "corpus, or a folder with the text of all"
        )
    return Corpus(corpora[0].name, [text for text in corpora[0].documents if text not in held_out])


class ReplaySampler(Sampler[int]):
    """The order of rows in which consecutive ``batch_size`` of them are a batch with its share of text.

    The task's rows, which come first in the data set, have a new random order in every epoch. Texts go on where the
    epoch before ended, in a new random order whenever all were seen. Both orders depend on seed and epoch alone.
    """

    def __init__(self, of_task: int, texts: int, batch_size: int, per_batch: int, seed: int) -> None:
        self._of_task, self._texts = of_task, texts
        self._of_task_in_batch, self._texts_in_batch = batch_size - per_batch, per_batch
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return self._of_task + sum(self._texts_beside(size) for size in self._sizes())

    def __iter__(self) -> Iterator[int]:
        order = list(range(self._of_task))
        random.Random(f"rows {self._seed} {self._epoch}").shuffle(order)
        texts = self._texts_from(self._epoch * (len(self) - self._of_task))
        for size in self._sizes():
            yield from (order.pop() for _ in range(size))
            yield from (next(texts) for _ in range(self._texts_beside(size)))

    def _sizes(self) -> list[int]:
        # Of the task's rows in each batch of an epoch.
        full, rest = divmod(self._of_task, self._of_task_in_batch)
        return [self._of_task_in_batch] * full + ([rest] if rest else [])

    def _texts_beside(self, size: int) -> int:
        # The last batch may be smaller.
        return max(1, round(self._texts_in_batch * size / self._of_task_in_batch))

    def _texts_from(self, position: int) -> Iterator[int]:
        passes, start = divmod(position, self._texts)
        while True:
            order = list(range(self._of_task, self._of_task + self._texts))
            random.Random(f"texts {self._seed} {passes}").shuffle(order)
            yield from order[start:]
            passes, start = passes + 1, 0
