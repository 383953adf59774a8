"""How many evaluations are done and expected, as progress."""

from __future__ import annotations

from ...system.progress import Progress


class Tally:
    """The number of evaluations that are done and expected; the latter falls as some turn out not to be needed."""

    def __init__(self, progress: Progress, planned: int) -> None:
        self._progress, self._done, self._planned = progress, 0, planned

    def step(self, what: str) -> None:
        """Report that an evaluation begins."""
        self._progress(what, self._done, self._planned)
        self._done += 1

    def skip(self, count: int) -> None:
        """Take evaluations that are not needed from the number expected."""
        self._planned -= count

    @property
    def done(self) -> int:
        return self._done
