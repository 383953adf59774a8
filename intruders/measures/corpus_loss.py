"""Loss on text like that of pre-training, before and after fine-tuning."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..data.corpora import Corpora
from ..errors import SettingError
from ..models.tuned_model import OpenedModel
from ..system.out_of_memory import Halving
from .intervals import Interval, loss_interval, paired_difference
from .losses import DocumentLosses
from .measure_settings import LossSettings
from .text_loss import ids_of, text_losses

_MOST_NATS = 700.0  # more have no exponential in double precision


@dataclass(frozen=True)
class CorpusLoss:
    """One corpus, or a weighted mixture of several, under one model and perhaps its base."""

    name: str
    loss: Interval
    losses: list[DocumentLosses]  # one per part of a mixture
    weights: list[float]
    base_loss: Interval | None = None
    difference: Interval | None = None  # after - before, paired by document
    digests: tuple[str, ...] = ()  # of the documents of each part
    # after - the model before it in a series, paired too; None outside of a series and of its first
    own_part: Interval | None = field(default=None, metadata={"if_any": True})

    @property
    def perplexity_ratio(self) -> Interval | None:
        """exp of the change in nats per token, the factor on the perplexity; None without a base."""
        if self.difference is None:
            return None
        change = self.difference
        values = (change.estimate, change.low, change.high)
        estimate, low, high = (math.exp(value) if value < _MOST_NATS else math.inf for value in values)
        ratio = Interval(estimate, low, high)
        # exp(-inf) would be a 0 that nobody measured.
        return ratio if change.has_ends else ratio.opened()


def losses_by_corpus(
    opened: OpenedModel,
    corpora: Corpora,
    settings: LossSettings,
    seed: int = 0,
    advance: Callable[[int], None] = lambda tokens: None,
) -> dict[str, list[DocumentLosses]]:
    """Return the :func:`text_losses` of every part of each corpus, by name."""
    halving = Halving(is_on=settings.batch_size == "auto")
    return {
        name: [
            text_losses(opened, part.documents, settings, seed=seed, halving=halving, advance=advance)
            for part in parts
        ]
        for name, parts in corpora.items()
    }


def summarize_losses(
    corpora: Corpora,
    after: Mapping[str, list[DocumentLosses]],
    before: Mapping[str, list[DocumentLosses]] | None,
    *,
    seed: int,
) -> dict[str, CorpusLoss]:
    """Return by corpus the loss per token with its interval; with ``before`` also that model's, and the difference.

    A mixture's loss is sum_c w_c loss_c / sum_c w_c.
    """
    summaries: dict[str, CorpusLoss] = {}
    for name, parts in corpora.items():
        weights, digests = [part.weight for part in parts], tuple(part.digest for part in parts)
        loss = mixed([loss_interval(losses, seed=seed) for losses in after[name]], weights)
        summary = CorpusLoss(name, loss, after[name], weights, digests=digests)
        if before is not None:
            base_loss = mixed([loss_interval(losses, seed=seed) for losses in before[name]], weights)
            difference = mixed_difference(after[name], before[name], weights, seed=seed)
            summary = replace(summary, base_loss=base_loss, difference=difference)
        summaries[name] = summary
    return summaries


def mixed_difference(
    after: Sequence[DocumentLosses], before: Sequence[DocumentLosses], weights: Sequence[float], *, seed: int
) -> Interval:
    """Return the difference of the losses of a mixture's parts, paired by document."""
    return mixed([paired_difference(a, b, seed=seed) for a, b in zip(after, before, strict=True)], weights)


def mixed(parts: Sequence[Interval], weights: Sequence[float]) -> Interval:
    """Return the weighted mean of independent estimates; the half-widths of their intervals add in squares."""
    if len(parts) == 1:
        return parts[0]
    shares = [weight / sum(weights) for weight in weights]
    estimate = sum(share * part.estimate for share, part in zip(shares, parts, strict=True))
    below = sum((share * (part.estimate - part.low)) ** 2 for share, part in zip(shares, parts, strict=True))
    above = sum((share * (part.high - part.estimate)) ** 2 for share, part in zip(shares, parts, strict=True))
    return Interval(estimate, estimate - below**0.5, estimate + above**0.5)


def require_read_alike(
    tokenizer: Any, of_base: Any, corpora: Corpora, max_tokens: int | None, model: str, base: str
) -> None:
    """Raise SettingError if a document has a token, after its first, that the base's tokenizer does not have.

    Of each document ``max_tokens`` are read. ``model`` and ``base`` are what the error calls them.
    """
    known = of_base.get_vocab()
    if not tokenizer.get_vocab().keys() - known.keys():
        return
    for name, parts in corpora.items():
        for part in parts:
            for number, text in enumerate(part.documents, start=1):
                tokens = tokenizer.convert_ids_to_tokens(ids_of(tokenizer, text, max_tokens)[1:])
                if (other := next((token for token in tokens if token not in known), None)) is not None:
                    raise SettingError(
                        f"document {number} of corpus {name!r} has the token {other!r}, which the tokenizer of "
                        f"{model!r} has and that of {base!r} does not, so their losses cannot be paired; pass text "
                        "without such tokens, or measure the model alone, without --base"
                    )
