"""What follows from the accuracies of a sequence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from intruders.reports.sequence import sequence_lines
from intruders.training.sequence_result import SequenceResult


def test_measures_follow_their_formulas() -> None:
    found = SequenceResult(["a", "b", "c"], [[0.9], [0.95, 0.8], [0.5, 0.7, 0.6]], [0, 3, 5], [9, 9, 9])
    assert found.average_accuracy == pytest.approx(0.6)
    assert found.backward_transfer == pytest.approx(((0.5 - 0.9) + (0.7 - 0.8)) / 2)
    assert found.forgetting == pytest.approx([0.45, 0.1])
    assert SequenceResult(["a"], [[0.9]], [0], [9]).backward_transfer is None
    lines = sequence_lines(found)
    assert "0.500    0.700    0.600   5 of 9" in lines[-2]
    assert lines[-1] == "average accuracy 0.600, backward transfer -0.250"
    missed = replace(found, steps=[20, 80, 40], reached=[True, False, True])
    ends = [line.endswith("did not reach the score in 80 steps") for line in sequence_lines(missed)[4:7]]
    assert ends == [False, True, False]
