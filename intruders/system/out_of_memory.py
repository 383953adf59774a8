"""Memory that ran out, whatever raises it, as one line with what to pass."""

import gc
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..errors import all_lines

Item = TypeVar("Item")
Result = TypeVar("Result")

# What the allocators of torch say on a processor; on a card they have a class of their own. The
# system under all of them says "cannot allocate memory".
_SAID = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out: of Python, of torch on a processor or of a card."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _SAID)


def told_in_one_line(error: BaseException) -> str:
    """Return the line for people; finished parts are kept by whoever keeps them."""
    return (
        f"memory ran out ({all_lines(error)}); pass --dtype bfloat16 or, where the command has it, --load-in 4bit for "
        "smaller weights, and a smaller --batch-size, --window or --max-tokens for smaller batches; parts that were "
        "finished are kept where the command has --out or --keep"
    )


class Halving:
    """Measure batches, and with ``is_on`` halve those that do not fit in memory; the first halving is told."""

    def __init__(self, *, is_on: bool) -> None:
        self._is_on = is_on
        self._most: int | None = None

    def results(
        self, items: Sequence[Item], measure: Callable[[Sequence[Item]], Sequence[Result]]
    ) -> list[Result]:
        """Return what ``measure`` returns of all items, in order, from as many at once as fit; raise if none does."""
        most = len(items) if self._most is None else min(self._most, len(items))
        if most < len(items):
            return [
                result
                for start in range(0, len(items), most)
                for result in self.results(items[start : start + most], measure)
            ]
        try:
            return list(measure(items))
        except (MemoryError, RuntimeError) as error:
            if not self._is_on or most < 2 or not is_out_of_memory(error):
                raise
        # Behind the handler, so that the traceback no longer holds the tensors of the attempt.
        gc.collect()
        if self._most is None:
            warnings.warn(
                f"a batch of {most} did not fit in memory; batches are halved from here on", stacklevel=2
            )
        self._most = most // 2
        return self.results(items, measure)


AS_GIVEN = Halving(is_on=False)
