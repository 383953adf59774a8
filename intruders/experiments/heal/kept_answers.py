"""The predictions of a model that does not change, computed once and kept as the hidden states behind them.

A learning of doses compares with the base on text and with the tuned model on examples, and sees each text many
times. Kept logits would be texts x tokens x vocabulary; hidden states are smaller by vocabulary / width, and the head
makes the same logits of them at the cost of one product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...models.split_model import SplitModel

# Texts of a batch. Batches are fixed, so that a learning that resumes keeps the same states.
_AT_ONCE = 8

# Of some texts by number: the model's inputs (texts, width), and where its predictions count, bool (texts, width).
Encoded = Callable[[Sequence[int]], tuple[dict[str, Tensor], Tensor]]


class KeptAnswers:
    """What a model predicts at the positions that count of every text; it is asked for a text when it is first needed.

    The caller puts the model into the state that is to be kept around every call.
    """

    def __init__(self, split: SplitModel, encoded: Encoded, lengths: Sequence[int]) -> None:
        """Prepare to keep; :meth:`of` takes the model apart."""
        self._split, self._encoded = split, encoded
        order = sorted(range(len(lengths)), key=lambda number: lengths[number])
        batches = [order[begin : begin + _AT_ONCE] for begin in range(0, len(order), _AT_ONCE)]
        self._batch_of = {number: batch for batch in batches for number in batch}
        self._states: dict[int, Tensor] = {}  # (positions that count, hidden)

    @classmethod
    def of(cls, model: Any, encoded: Encoded, lengths: Sequence[int]) -> KeptAnswers | None:
        """Prepare to keep what a model answers; None if it cannot be taken apart.

        Args:
          model: a causal model.
          encoded: encodes texts by their numbers.
          lengths: tokens of every text; texts of similar length share a batch.
        """
        split = SplitModel.of(model)
        return None if split is None else cls(split, encoded, lengths)

    @torch.no_grad()
    def logits(self, numbers: Sequence[int]) -> Tensor | None:
        """Return the logits (positions, vocabulary) of texts in the order given, each in the order of reading.

        None if the model's body does not answer with hidden states.
        """
        for number in numbers:
            if number not in self._states and not self._keep(self._batch_of[number]):
                return None
        return self._split.logits(torch.cat([self._states[number] for number in numbers]))

    def _keep(self, batch: Sequence[int]) -> bool:
        inputs, counts = self._encoded(batch)
        states = self._split.states(inputs)
        if states is None:
            return False
        self._states |= {number: states[row][counts[row]] for row, number in enumerate(batch)}
        return True
