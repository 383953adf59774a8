"""Shows how cost grows with the size of a square matrix: n from 256 to 8192, an update that brings intruders.

The reference grows as n^3 and is left out where it would take minutes. The engine grows as n^2 where a matrix no longer
fits the processor's cache, since it is passes over the matrix that it takes.
"""

from collections.abc import Iterator

from .inputs import HOT, lora
from .measure import REPEATS, Row, row_of

# The sizes, and the largest at which the reference is run.
FULL = ((256, 512, 1024, 2048, 4096, 8192), 4096)
QUICK = ((256, 512, 1024, 2048), 2048)


def sweep_rows(sizes: tuple[int, ...], largest_reference: int) -> Iterator[Row]:
    for n in sizes:
        yield row_of(
            "square",
            lora(n, n, HOT),
            with_reference=n <= largest_reference,
            with_peft=False,
            repeats=REPEATS,
        )
