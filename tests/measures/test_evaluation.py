"""Losses of documents as a table, and back."""

from __future__ import annotations

import numpy as np

from intruders.measures.evaluation import losses_in, table_of
from intruders.measures.losses import DocumentLosses


def test_a_table_gives_the_losses_of_every_part_back() -> None:
    parts = [
        DocumentLosses("cross-entropy", np.array([3.0, 4.5]), np.array([2, 3])),
        DocumentLosses("cross-entropy", np.array([1 / 3]), np.array([7])),
    ]
    other = DocumentLosses("pseudo-loss", np.array([9.0]), np.array([4]))
    table = table_of({"mixture": parts, "alone": [other]})
    assert table.values.tolist() == [
        ["mixture", 0, 0, "cross-entropy", 3.0, 2],
        ["mixture", 0, 1, "cross-entropy", 4.5, 3],
        ["mixture", 1, 0, "cross-entropy", 1 / 3, 7],
        ["alone", 0, 0, "pseudo-loss", 9.0, 4],
    ]
    read = losses_in(table.sample(frac=1.0, random_state=0), "mixture")  # rows in any order
    assert [part.sums.tolist() for part in read] == [[3.0, 4.5], [1 / 3]]
    assert [part.tokens.tolist() for part in read] == [[2, 3], [7]]
    assert [part.measure for part in losses_in(table, "alone")] == ["pseudo-loss"]
    assert losses_in(table, "absent") == []
