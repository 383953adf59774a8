"""A task and a corpus about small numbers."""

import random

from intruders.data.task import Example, Task


def parity(seed: int) -> Task:
    """Return the task to say whether a number is even or odd."""
    numbers = list(range(60))
    random.Random(seed).shuffle(numbers)
    examples = [Example(f"the number {number}", "odd" if number % 2 else "even") for number in numbers]
    return Task(
        "parity",
        "classification",
        "class",
        examples[:40],
        examples[40:50],
        examples[50:],
        labels=["even", "odd"],
    )


def counting() -> list[str]:
    """Return documents that count."""
    return [" ".join(str(number) for number in range(start, start + 50)) for start in range(20)]
