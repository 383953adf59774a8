"""The last number of an answer, by hand."""

import pytest

from intruders.data.task import final_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (" 3 + 4 = 7. The answer is 7.", 7),
        ("-2.5", -2.5),
        ("#### 18", 18),
        ("it is .5", 0.5),
        ("\u22125", -5),
        ("2e-5", 0.00002),
        ("1.5E3 m", 1500),
        ("3/4", 0.75),
        ("48/2 = 24", 24),
        (r"The answer is: \frac{3}{2}", 1.5),
        (r"-\dfrac{3}{-2}", 1.5),
        (r"\frac{x}{2}", 2),
        ("1/0", None),
        ("7 eggs", 7),
    ],
)
def test_the_last_number_is_the_answer(text: str, number: float | None) -> None:
    assert final_number(text) == number
