"""The loss of a model in training on a few fixed documents, and its rise over the base."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
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
from ...measures.corpus_loss import losses_by_corpus
from ...measures.losses import mean_loss
from ...measures.measure_settings import LossSettings
from ...models.encoding import context_length
from ...models.loading import load_tokenizer
from ...models.loading_settings import AS_STORED, DTYPES, Loading
from ...models.put_on_base import without_adapters
from ...models.stored_dtype import dtype_name
from ...models.tuned_model import OpenedModel, open_language_model
from ...system.callers_process import random_state_kept
from .sharding import decided_by_first


class TextLoss:
    """Loss on the first tokens of some documents of a corpus, the same ones at every look.

    Cross-entropy of a causal model in nats per token; of a masked one the estimate that masks 15 % of the tokens
    together, always the same ones. Weights are used in the precision that they have, without autocast: an early rise
    is smaller than what autocast rounds off.

    ``corpus`` is its name, or that of a mixture; ``documents`` of it are sampled with a fixed seed, and ``tokens`` of
    each are read, from its start. SettingError if it is not known or empty.
    """

    def __init__(self, corpus: str, documents: int, tokens: int, tokenizer: Any = None) -> None:
        self.name = corpus
        self.label = Path(corpus).name or corpus  # a file's name alone, in keys of logs
        self._corpora: Sequence[Corpus] = load_corpora(corpus, max_documents=documents)
        self._tokens = tokens
        self._given_tokenizer = tokenizer
        self.forget()

    def forget(self) -> None:
        self.base: float | None = None  # nats per token
        self.last: float | None = None
        self.seconds = 0.0  # of all measures, the base's too
        self.share_of_time = 0.0  # that they took, of the time until the last of them
        self._tokenizer: Any = None
        self._began = time.perf_counter()

    @property
    def rise(self) -> float | None:
        """The last loss less that of the base, in nats per token; None before both are known."""
        return None if self.base is None or self.last is None else self.last - self.base

    def training_begins(self) -> None:
        self._began = time.perf_counter() - self.seconds

    def tokenizer_for(self, trainers: Any, model: nn.Module) -> Any:
        """Return the tokenizer that was given, or the Trainer's, or that of the model's folder, found once."""
        for candidate in (self._tokenizer, self._given_tokenizer, getattr(trainers, "tokenizer", trainers)):
            if callable(candidate):
                self._tokenizer = candidate
                return candidate
        if name := getattr(inner_model(model).config, "_name_or_path", None):
            with suppress(CheckpointError):
                self._tokenizer = load_tokenizer(str(name))
                return self._tokenizer
        raise SettingError(
            "loss_on needs the model's tokenizer, and the Trainer has none; pass tokenizer=, or pass processing_class= "
            "to the Trainer"
        )

    def measure(self, model: nn.Module, *, is_sharded: bool = False) -> None:
        """Measure ``model`` as it is now. Every process has to call this for a sharded one."""
        self.last = self._of(model, is_sharded)

    def measure_base(self, model: nn.Module, base: Source | None, *, is_sharded: bool = False) -> None:
        """Measure what the training began from.

        That is ``base`` if it is given, else ``model`` without its adapters, or as it is now if it has none or if
        their start changed the weights beneath them. SettingError for a ``base`` whose loss cannot be measured.
        """
        if base is None:
            acts_on_base = has_adapters(model) and start_that_changed(model) is None
            with without_adapters(model) if acts_on_base else nullcontext():
                self.base = self._of(model, is_sharded)
        elif isinstance(base, nn.Module):
            self.base = self._of(base)
        elif isinstance(base, str | PathLike):
            began = time.perf_counter()
            # In the type of the trained model, or the rise would be that of another rounding.
            trained = dtype_name(inner_model(model).dtype)
            loading = Loading(dtype=trained) if trained in DTYPES else AS_STORED
            opened = open_language_model(fspath(base), loading=loading)
            self.seconds += time.perf_counter() - began
            self.base = self._of(opened.model, tokenizer=opened.tokenizer)
        else:
            raise SettingError(
                f"base is a {type(base).__name__}, whose loss on {self.name!r} cannot be measured; expected a "
                "folder, a Hub id or a model in memory; pass one of them, or leave loss_on out"
            )

    def _of(self, model: nn.Module, is_sharded: bool = False, tokenizer: Any = None) -> float:
        began = time.perf_counter()
        tokenizer = self.tokenizer_for(None, model) if tokenizer is None else tokenizer
        inner = inner_model(model)
        # Parts of a model whose weights are split over processes cannot be called by themselves.
        measured = _Whole(model) if is_sharded else model
        context, is_masked = context_length(inner.config, None), not _is_causal(inner)
        opened = OpenedModel(measured, tokenizer, context, is_masked)
        settings = LossSettings(max_tokens=self._tokens, estimate=True)
        with ExitStack() as contexts:
            contexts.enter_context(_without_autocast(model))
            contexts.enter_context(random_state_kept(on_all_devices=False))
            if is_sharded:
                contexts.callback(_split_again, model)
            losses = losses_by_corpus(opened, {self.name: self._corpora}, settings)
        loss = mean_loss(losses[self.name], [corpus.weight for corpus in self._corpora])
        ended = time.perf_counter()
        self.seconds += ended - began
        self.share_of_time = min(1.0, self.seconds / max(ended - self._began, 1e-9))
        return loss


def measure_base_of_sharded(text: TextLoss, model: nn.Module, base: Source | None, state: Any) -> None:
    """Measure the base's loss of a model that is split over processes. Every process has to call this."""
    if base is not None:
        decided_by_first(partial(text.measure_base, model, base), state)
        return
    if state.global_step and not has_adapters(model):
        raise SettingError(
            f"loss_on is {text.name!r}, and the model before training is gone, because the training was resumed; "
            "pass base= with the model before fine-tuning"
        )
    text.measure_base(model, None, is_sharded=True)


def require_language_model(model: nn.Module, corpus: str) -> None:
    """Raise SettingError if ``model`` has no loss on text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    inner = inner_model(model)
    is_masked = type(inner).__name__ in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()
    # A BART is among the masked ones of transformers.
    of_two = getattr(inner.config, "is_encoder_decoder", False)
    if of_two or not (_is_causal(inner) or is_masked):
        raise SettingError(
            f"loss_on is {corpus!r}, but a {type(inner).__name__} is neither a causal nor a masked language model, so "
            "that its loss on text is not defined; leave loss_on out"
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
    # FSDP 2 leaves parameters complete after a forward pass, since it expects a backward pass to follow.
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
