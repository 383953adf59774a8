"""The sentences below an attribution, on a result that is made up."""

from __future__ import annotations

import pytest

from intruders.experiments.attribution.attribution import Attribution, MeasuredRise
from intruders.measures.intervals import Interval
from intruders.reports.attribution.attribution_text import remarks


@pytest.mark.parametrize(("total", "is_told"), [(2.0, False), (2.039, False), (2.041, True), (1.959, True)])
def test_parts_that_miss_the_measured_change_are_told_with_what_to_do(total: float, is_told: bool) -> None:
    measured = Interval(2.0, 1.9, 2.1, 4)
    rise = MeasuredRise("text", "text", "cross-entropy", 4, 100, 3.0, 5.0, measured, total, 20)
    made = Attribution("base", "tuned", [rise], [], [], [], None, [], {}, {})
    notes = [line for line in remarks(made) if line.startswith("note: ")]
    expected = (
        f"note: the parts miss the change on text by {abs(total - 2):.4f} nats per token with 20 nodes; "
        "pass --dtype float32 if the models are in 16 bits, or a larger --nodes"
    )
    assert notes == [expected] * is_told
