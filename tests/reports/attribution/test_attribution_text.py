"""The sentences below an attribution, on a result that is made up."""

from __future__ import annotations

import pytest
from rich.console import Console

from intruders.experiments.attribution import Attribution, MeasuredRise
from intruders.measures.intervals import Interval
from intruders.reports.attribution.attribution_text import print_attribution, remarks, rise_line
from tests.reports.made_up_attribution import OF_NORMS, PARTS, made_up_attribution


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


def printed(attribution: Attribution) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        print_attribution(attribution, console)
    return captured.get()


@pytest.mark.parametrize("of_norms", [OF_NORMS, 0.0, None])
def test_the_printed_kinds_sum_to_the_rise(of_norms: float | None) -> None:
    """With what norms and biases have of it, where these were tuned and changed the loss."""
    attribution = made_up_attribution(of_norms)
    table = printed(attribution).split("kind of module")[1].split("\n\n")[0].splitlines()[1:]
    parts = [float(line.split()[-1]) for line in table]
    assert parts == [sum(PARTS), *([of_norms] if of_norms else [])]
    assert f"the parts sum to {sum(parts):+.4f} " in rise_line(attribution.rises[0])


def test_a_matrix_whose_name_steers_a_terminal_does_not() -> None:
    text = printed(made_up_attribution(name="model.{}.\x1b[31mred\u202e.weight"))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "model.1.\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}.weight " in text
