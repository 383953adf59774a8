"""How many nats an update will make its base forget, from the base's own gradients: no tuned model is run.

At the base the gradient of KL(base || base + D) is zero and its second derivative is the Fisher information, so

    KL(base || base + D)  =  1/2 E [ ( sum over matrices m  < d log p(y) / d W_m , D_m > )^2 ]  + higher terms

with labels y drawn from the base itself. With the inputs x and the gradients g at the outputs of every layer W_m, the
bracket of one sequence is ``z = sum over m and t of g_mt^T D_m x_mt``, its *response*. Labels of different positions
are drawn independently given the text, so ``E z^2`` is a sum over positions. The loss on the text itself rises by the
same term and a linear one, minus the response of the text's own labels.

Kirkpatrick et al. 2017 (arXiv 1612.00796) use the diagonal of this curvature to train; here it is whole, along D.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..linalg.krylov import BLOCK, KrylovSpace, converge
from ..linalg.low_rank import LowRank
from ..linalg.operators import Update
from ..linalg.pair import Pair
from ..linalg.svd import gram_svd
from .between import Between

# Numbers that share one scale. Some inputs have single entries a thousand times larger than all others.
_BLOCK = 64
_SCALE = 4  # bytes
# Sequences that are widened at once take this many numbers, which a processor's cache holds.
_AT_ONCE = 1 << 20
# Leading vectors: dense below this smaller side; block steps before the first look, and rounds after it.
_DENSE_BELOW, _STEPS, _ROUNDS = 256, 6, 8


def packed(rows: Tensor, bits: int = 8) -> Tensor:
    """Return rows ``(*, n)`` in 8 bits or 4, with a scale in single precision behind every block of numbers.

    The rounding knows nothing of an update, so that it hardly moves a sum over thousands of entries.

    >>> unpacked(packed(torch.tensor([[1.0, -2.0, 0.5]])), 3)
    tensor([[ 1.0079, -2.0000,  0.5039]])
    """
    n, largest = rows.shape[-1], 2 ** (bits - 1) - 1
    blocks = torch.nn.functional.pad(rows.float(), (0, -n % _BLOCK)).reshape(*rows.shape[:-1], -1, _BLOCK)
    scales = blocks.abs().amax(-1, keepdim=True) / largest
    values = (blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)).round().to(torch.int8)
    if bits == 4:
        first, second = values.chunk(2, -1)
        values = first * 16 + (second & 15)
    return torch.cat([values, scales.view(torch.int8)], -1).flatten(-2)


def unpacked(rows: Tensor, n: int) -> Tensor:
    """Return :func:`packed` rows ``(*, packed_width(n, bits))`` in single precision."""
    blocks = rows.reshape(*rows.shape[:-1], -(-n // _BLOCK), -1)
    values, scales = blocks[..., :-_SCALE], blocks[..., -_SCALE:].contiguous().view(torch.float32)
    if values.shape[-1] < _BLOCK:
        values = torch.cat([values >> 4, (values << 4) >> 4], -1)
    wide: Tensor = values.float().mul_(scales)
    return wide.flatten(-2)[..., :n]


def packed_width(n: int, bits: int = 8) -> int:
    """Return the bytes that a packed row of n numbers takes."""
    return -(-n // _BLOCK) * (_BLOCK * bits // 8 + _SCALE)


@dataclass(frozen=True)
class Responses:
    """What one matrix adds to the responses of all sequences to an update; the sum over matrices is a model's.

    ``whole`` is (sequences, labels): the first label is the text itself, the others were drawn from the base.
    ``parts`` (sequences, labels, k) has what lies in each of k directions y_j: the response to ``y_j y_j^T D``.
    """

    whole: Tensor
    parts: Tensor

    def to_bytes(self) -> bytes:
        """Return them in single precision, with the sum of the parts where there are some."""
        parts = self.parts.sum(-1, keepdim=True)[..., : self.parts.shape[-1]]
        return torch.cat([self.whole.unsqueeze(-1), parts], -1).numpy().astype("<f4").tobytes()

    @classmethod
    def of_bytes(cls, content: bytes, sequences: int, labels: int) -> Responses:
        numbers = torch.from_numpy(np.frombuffer(content, "<f4").astype(float)).view(sequences, labels, -1)
        return cls(numbers[..., 0], numbers[..., 1:])


@dataclass(frozen=True)
class KeptRows:
    """Inputs and gradients of one layer, packed."""

    inputs: Tensor  # (sequences, tokens, packed n)
    gradients: Tensor  # (sequences, labels, tokens, packed m)

    def responses(self, updates: Sequence[Update], directions: Sequence[Tensor]) -> list[Responses]:
        """Return the responses to updates (m, n), and the parts of each in its directions, orthonormal rows (k, m).

        The rows are widened once, and multiplied by the factors of all updates together.
        """
        m, n = updates[0].shape[-2:]
        labels, tokens = self.gradients.shape[1:3]
        step = max(1, _AT_ONCE // (tokens * (n + labels * m)))
        lefts = [update.left if isinstance(update, LowRank) else None for update in updates]
        rights = [update.right if isinstance(update, LowRank) else update.dense() for update in updates]
        both = [own for left, ends in zip(lefts, directions, strict=True) for own in (left, ends.mT)]
        columns = [own.to(rights[0]) for own in both if own is not None]
        answers: list[list[tuple[Tensor, Tensor]]] = [[] for _ in updates]
        for some in zip(torch.split(self.inputs, step), torch.split(self.gradients, step), strict=True):
            inputs, gradients = (
                unpacked(rows, size).to(rights[0]) for rows, size in zip(some, (n, m), strict=True)
            )
            near = torch.split(inputs @ torch.cat(rights).mT, [len(right) for right in rights], -1)
            far = iter(
                torch.split(gradients @ torch.cat(columns, -1), [own.shape[-1] for own in columns], -1)
            )
            for moved, left, ends, own in zip(near, lefts, directions, answers, strict=True):
                met = gradients if left is None else next(far)
                whole = (met * moved.unsqueeze(1)).sum((-2, -1), dtype=torch.float64)
                along = ends.to(moved).mT
                onto = moved @ (along if left is None else left.mT @ along)  # y_j^T D x: (some, tokens, k)
                own.append((whole, (next(far) * onto.unsqueeze(1)).sum(-2, dtype=torch.float64)))
        return [Responses(*(torch.cat(parts).cpu() for parts in zip(*own, strict=True))) for own in answers]


def leading_left(batch: Pair, k: int) -> Tensor:
    """Return the k leading left singular vectors ``(batch, k, m)`` of tuned matrices, in whose directions to share."""
    if min(batch.base.shape[-2:]) < _DENSE_BELOW:
        return torch.stack([gram_svd(batch.select(at).dense()).left[:k] for at in range(len(batch.base))])
    space = KrylovSpace.from_random_block(batch.operator, BLOCK, max(_STEPS, k))
    return converge(space, k, 2 * k, 1e-3, _ROUNDS).left[:, :k]


@dataclass(frozen=True)
class Prediction:
    """Nats per token, and how they are shared out."""

    kl: Between  # mean KL(base || tuned), to second order
    loss: Between  # rise of the loss on the text
    shares: dict[str, float]  # E[z_m z] / E[z^2] by matrix, 1 in all; one that undoes others is negative
    parts: dict[str, list[float]]  # by matrix, the shares of its directions


def predict(responses: Mapping[str, Responses], tokens: int, documents: Sequence[int]) -> Prediction:
    """Return the nats per token that the sum of all matrices' responses stands for.

    ``tokens`` are those of a sequence whose labels count, ``documents`` those that the sequences are from. Sequences of
    one document are not independent, so the intervals count documents.
    """
    total = torch.stack([of_matrix.whole for of_matrix in responses.values()]).sum(0)  # (sequences, labels)
    drawn = total[:, 1:]
    energy = drawn.square().sum()
    kl = drawn.square().mean(-1) / (2 * tokens)  # (sequences)
    of = {
        name: [_ratio((part[:, 1:] * drawn).sum(), energy) for part in (each.whole, *each.parts.unbind(-1))]
        for name, each in responses.items()
    }
    mean = float(kl.mean())
    spread = _half_width(kl, documents)
    # A mean of squares is skewed and positive: its logarithm is nearer to normal than it is.
    factor = math.exp(spread / mean) if mean > 0 else 1.0
    loss = kl - total[:, 0] / tokens
    rise, around = float(loss.mean()), _half_width(loss, documents)
    return Prediction(
        Between(mean, mean / factor, mean * factor),
        Between(rise, rise - around, rise + around),
        {name: shares[0] for name, shares in of.items()},
        {name: shares[1:] for name, shares in of.items()},
    )


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if whole > 0 else 0.0


def _half_width(values: Tensor, documents: Sequence[int]) -> float:
    """Return the half width of the 95 % interval of a mean over sequences that come in documents."""
    of, number = torch.tensor(documents), len(set(documents))
    if number < 2:
        return math.inf
    sums = torch.zeros(int(of.max()) + 1, dtype=torch.float64).index_add(0, of, values - values.mean())
    variance = float(sums.square().sum()) / len(values) ** 2 * number / (number - 1)
    # Student's quantile by its expansion about the normal one (Cornish and Fisher), within 1 % from 6 documents on.
    freedom = number - 1
    quantile = 1.960 + 2.372 / freedom + 2.823 / freedom**2
    return quantile * math.sqrt(variance)
