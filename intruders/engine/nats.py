"""How many nats an update will make its base forget, from the base's own gradients: no tuned model is run.

At the base the gradient of KL(base || base + D) is zero and its second derivative is the Fisher information, so

    KL(base || base + D)  =  1/2 E [ ( sum over matrices m  < d log p(y) / d W_m , D_m > )^2 ]  + higher terms

with labels y drawn from the base itself. With the inputs x and the gradients g at the outputs of every layer W_m, the
bracket of one sequence is ``z = sum over m and t of g_mt^T D_m x_mt``, its *response*. Labels of different positions
are drawn independently given the text, so ``E z^2`` is a sum over positions.

Kirkpatrick et al. 2017 (arXiv 1612.00796) use the diagonal of this curvature to train; here it is whole, along D.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.low_rank import LowRank
from ..linalg.operators import Update

# Numbers that share one scale. Some inputs have single entries a thousand times larger than all others.
_BLOCK = 64
_SCALE = 4  # bytes
# Sequences that are widened at once take this many numbers, which a processor's cache holds.
_AT_ONCE = 1 << 20


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
    return -(-n // _BLOCK) * (_BLOCK * bits // 8 + _SCALE)


@dataclass(frozen=True)
class KeptRows:
    """Inputs and gradients of one layer, packed."""

    inputs: Tensor  # (sequences, tokens, packed n)
    gradients: Tensor  # (sequences, labels, tokens, packed m)

    def responses(self, updates: Sequence[Update]) -> list[Tensor]:
        """Return the responses (sequences, labels) to each of some updates (m, n), in double precision.

        The rows are widened once, and multiplied by the factors of all updates together.
        """
        m, n = updates[0].shape[-2:]
        labels, tokens = self.gradients.shape[1:3]
        step = max(1, _AT_ONCE // (tokens * (n + labels * m)))
        lefts = [update.left if isinstance(update, LowRank) else None for update in updates]
        rights = [update.right if isinstance(update, LowRank) else update.dense() for update in updates]
        columns = [left.to(rights[0]) for left in lefts if left is not None]
        widths = [left.shape[-1] for left in columns]
        sums: list[list[Tensor]] = [[] for _ in updates]
        for some in zip(torch.split(self.inputs, step), torch.split(self.gradients, step), strict=True):
            inputs, gradients = (
                unpacked(rows, size).to(rights[0]) for rows, size in zip(some, (n, m), strict=True)
            )
            near = torch.split(inputs @ torch.cat(rights).mT, [len(right) for right in rights], -1)
            far = iter(torch.split(gradients @ torch.cat(columns, -1), widths, -1) if columns else ())
            for moved, left, own in zip(near, lefts, sums, strict=True):
                met = gradients if left is None else next(far)
                own.append((met * moved.unsqueeze(1)).sum((-2, -1), dtype=torch.float64))
        return [torch.cat(parts).cpu() for parts in sums]


def predict(
    responses: Mapping[str, Tensor], tokens: int, documents: Sequence[int]
) -> tuple[tuple[float, float, float], dict[str, float]]:
    """Return the mean KL(base || tuned) in nats per token, of the responses (sequences, labels) of all matrices.

    It comes with the ends of its 95 % interval, and with its share E[z_m z] / E[z^2] in every matrix: they sum to 1,
    and one that undoes others is negative. ``tokens`` are those of a sequence whose labels count, ``documents`` those
    that the sequences are from. Sequences of one document are not independent, so the intervals count documents.
    """
    total = torch.stack(list(responses.values())).sum(0)  # (sequences, labels)
    energy = total.square().sum()
    kl = total.square().mean(-1) / (2 * tokens)  # (sequences)
    mean = float(kl.mean())
    # Sequences of one document count together.
    of, number = torch.tensor(documents), len(set(documents))
    spread = math.inf
    if number > 1:
        sums = torch.zeros(int(of.max()) + 1, dtype=torch.float64).index_add(0, of, kl - mean)
        variance = float(sums.square().sum()) / len(kl) ** 2 * number / (number - 1)
        # Student's quantile by its expansion about the normal one (Cornish and Fisher), within 1 % from 6 documents on.
        freedom = number - 1
        spread = (1.960 + 2.372 / freedom + 2.823 / freedom**2) * math.sqrt(variance)
    # A mean of squares is skewed and positive: its logarithm is nearer to normal than it is.
    factor = math.exp(spread / mean) if mean > 0 else 1.0
    shares = {
        name: float((own * total).sum() / energy) if energy > 0 else 0.0 for name, own in responses.items()
    }
    return (mean, mean / factor, mean * factor), shares
