"""The loss of a model in training on a few fixed documents, and its rise over the base."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from torch import nn

from ...checkpoints.adapters.peft_adapter import start_that_changed
from ...checkpoints.formats.memory import has_adapters
from ...checkpoints.opening.open import Source
from ...data.corpora import Corpus, load_corpora
from ...errors import CheckpointError, SettingError
from ...measures.corpus_loss import WINDOW
from ...measures.losses import DocumentLosses, mean_loss
from ...measures.text_loss import causal_losses, masked_estimate
from ...models.encoding import context_length
from ...models.loading import load_tokenizer
from ...models.loading_settings import AS_STORED, DTYPES, Loading
from ...models.put_on_base import without_adapters
from ...models.stored_dtype import dtype_name
from ...models.tuned_model import open_language_model
from ...system.callers_process import random_state_kept
from .sharding import decided_by_first


class TextLoss:
    """Loss on the first tokens of some documents of a corpus, the same ones at every look.

    Cross-entropy of a causal model in nats per token; of a masked one the estimate that masks 15 % of the tokens
    together, always the same ones. Weights are used in the precision that they have, without autocast: an early rise
    is smaller than what autocast rounds off.

    Args:
      corpus: name of the corpus, or of a mixture.
      documents: number of documents; more are sampled with a fixed seed.
      tokens: number of tokens of each that are read, from its start.
      tokenizer: the model's, if it is given.

    Raises:
      SettingError: the corpus is not known or empty.
    """

    def __init__(self, corpus: str, documents: int, tokens: int, tokenizer: Any = None) -> None:
        self.name = corpus
        self.label = Path(corpus).name or corpus  # a file's name alone, in keys of logs
        self._corpora: Sequence[Corpus] = load_corpora(corpus, max_documents=documents)
        self._tokens = tokens
        self._given_tokenizer = tokenizer
        self.forget()

    def forget(self) -> None:
        """Forget the model that was measured."""
        self.base: float | None = None  # nats per token
        self.last: float | None = None
        self.seconds = 0.0  # of all measures, the base's too
        self._tokenizer: Any = None
        self._began, self._seconds_before = time.perf_counter(), 0.0
        self._ended: float | None = None

    @property
    def rise(self) -> float | None:
        """The last loss less that of the base, in nats per token; None before both are known."""
        return None if self.base is None or self.last is None else self.last - self.base

    @property
    def share_of_time(self) -> float:
        """The share of the time that all measures took, of the training and of what was measured before it."""
        ended = time.perf_counter() if self._ended is None else self._ended
        passed = ended - self._began + self._seconds_before
        return min(1.0, self.seconds / passed) if passed > 0 else 0.0

    def training_begins(self) -> None:
        """Count the time of the training from now on."""
        self._began, self._seconds_before = time.perf_counter(), self.seconds
        self._ended = None

    def training_ends(self) -> None:
        """Count no more time."""
        self._ended = time.perf_counter()

    @property
    def documents(self) -> list[str]:
        """The documents that are read."""
        return [text for corpus in self._corpora for text in corpus.documents]

    def tokenizer_for(self, trainers: Any, model: nn.Module) -> Any:
        """Return the tokenizer of the model, found once; see :func:`tokenizer_of`."""
        if self._tokenizer is None:
            self._tokenizer = tokenizer_of(self._given_tokenizer, trainers, model)
        return self._tokenizer

    def measure(self, model: nn.Module, tokenizer: Any, *, is_sharded: bool = False) -> None:
        """Measure ``model`` as it is now. Every process has to call this for a sharded one."""
        self.last = self._of(model, tokenizer, is_sharded)

    def measure_base(
        self, model: nn.Module, tokenizer: Any, base: Source | None, *, is_sharded: bool = False
    ) -> None:
        """Measure what the training began from.

        That is ``base`` if it is given, else ``model`` without its adapters, or as it is now if it has none or if
        their start changed the weights beneath them.

        Raises:
          SettingError: ``base`` is of a kind whose loss cannot be measured.
        """
        if base is not None:
            began = time.perf_counter()
            if isinstance(base, nn.Module):
                self.base = self._of(base, tokenizer, False)
                return
            if not isinstance(base, str | PathLike):
                raise SettingError(
                    f"base is a {type(base).__name__}, whose loss on {self.name!r} cannot be measured; expected a "
                    "folder, a Hub id or a model in memory; pass one of them, or leave loss_on out"
                )
            # In the type of the trained model, or the rise would be that of another rounding.
            trained = dtype_name(inner_model(model).dtype)
            loading = Loading(dtype=trained) if trained in DTYPES else AS_STORED
            opened = open_language_model(fspath(base), loading=loading)
            self.seconds += time.perf_counter() - began
            self.base = self._of(opened.model, opened.tokenizer, False)
            return
        with ExitStack() as contexts:
            if has_adapters(model) and start_that_changed(model) is None:
                contexts.enter_context(without_adapters(model))
            self.base = self._of(model, tokenizer, is_sharded)

    def _of(self, model: nn.Module, tokenizer: Any, is_sharded: bool) -> float:
        began = time.perf_counter()
        inner = inner_model(model)
        # Parts of a model whose weights are split over processes cannot be called by themselves.
        measured = _Whole(model) if is_sharded else model
        width = min(WINDOW, context_length(inner.config, None))
        with ExitStack() as contexts:
            contexts.enter_context(_without_autocast(model))
            contexts.enter_context(random_state_kept(on_all_devices=False))
            if is_sharded:
                contexts.callback(_split_again, model)
            parts = [self._losses(inner, measured, tokenizer, corpus, width) for corpus in self._corpora]
        weights = [corpus.weight for corpus in self._corpora]
        loss = mean_loss(parts, weights)
        self.seconds += time.perf_counter() - began
        return loss

    def _losses(
        self, inner: Any, measured: nn.Module, tokenizer: Any, corpus: Corpus, width: int
    ) -> DocumentLosses:
        given: dict[str, Any] = {"window": width, "max_tokens": self._tokens}
        if _is_causal(inner):
            return causal_losses(measured, tokenizer, corpus.documents, **given)
        return masked_estimate(measured, tokenizer, corpus.documents, **given)


def measure_base_of_sharded(
    text: TextLoss, model: nn.Module, tokenizer: Any, base: Source | None, state: Any
) -> None:
    """Measure the base's loss of a model that is split over processes. Every process has to call this.

    Raises:
      SettingError: training has changed the base already, because it was resumed.
    """
    if base is not None:
        decided_by_first(partial(text.measure_base, model, tokenizer, base), state)
        return
    if state.global_step and not has_adapters(model):
        raise SettingError(
            f"loss_on is {text.name!r}, and the model before training is gone, because the training was resumed; "
            "pass base= with the model before fine-tuning"
        )
    text.measure_base(model, tokenizer, None, is_sharded=True)


def require_language_model(model: nn.Module, corpus: str) -> None:
    """Raise SettingError if ``model`` has no loss on text."""
    inner = inner_model(model)
    of_two = getattr(
        inner.config, "is_encoder_decoder", False
    )  # a BART is among the masked ones of transformers
    if of_two or not (_is_causal(inner) or _is_masked(inner)):
        raise SettingError(
            f"loss_on is {corpus!r}, but a {type(inner).__name__} is neither a causal nor a masked language model, so "
            "that its loss on text is not defined; leave loss_on out"
        )


def tokenizer_of(given: Any, trainers: Any, model: nn.Module) -> Any:
    """Return the tokenizer that was given, or the Trainer's, or that of the folder that the model came from.

    Raises:
      SettingError: none of the three exists.
    """
    for candidate in (given, getattr(trainers, "tokenizer", trainers)):
        if candidate is not None and callable(candidate):
            return candidate
    name = getattr(inner_model(model).config, "_name_or_path", None)
    try:
        if name:
            return load_tokenizer(str(name))
    except CheckpointError:
        pass
    raise SettingError(
        "loss_on needs the model's tokenizer, and the Trainer has none; pass tokenizer=, or pass processing_class= to "
        "the Trainer"
    )


def inner_model(model: Any) -> Any:
    """Return the transformers model within PEFT's and FSDP's wrappers."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    while True:
        if isinstance(model, FullyShardedDataParallel):
            model = model.module
        elif has_adapters(model) and hasattr(model, "get_base_model"):
            peft_model: Any = model
            model = peft_model.get_base_model()
        else:
            return model


class _Whole(nn.Module):
    """A model of which nothing but its complete forward pass is called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)


def _split_again(model: nn.Module) -> None:
    """Split what FSDP 2 leaves complete after a forward pass, since it expects a backward pass to follow."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def _without_autocast(model: Any) -> Iterator[None]:
    """Take accelerate's autocast, which it puts around a model's forward pass, off within the block."""
    wrapped, plain = model.__dict__.get("forward"), model.__dict__.get("_original_forward")
    if wrapped is None or plain is None:
        yield
        return
    model.forward = plain
    try:
        yield
    finally:
        model.forward = wrapped


def _is_causal(inner: Any) -> bool:
    is_able = getattr(inner, "can_generate", None)
    return callable(is_able) and bool(is_able())


def _is_masked(inner: Any) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return type(inner).__name__ in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()
