"""The documents and examples of a comparison, in shares: some to choose strengths by, the others to report on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..data.corpora import Corpora, documents_in
from ..data.halves import halves_of_corpus, halves_of_task
from ..data.task import Example, Task
from ..system.digests import json_digest

# The least number of documents per corpus, and of examples per task, in a first pass, with as many that follow it.
_LEAST_OF_A_PASS = 3


@dataclass(frozen=True)
class DataShare:
    """Some documents of every corpus (a mixture has several parts), and some examples of every task."""

    name: str
    corpora: Corpora
    examples: Mapping[str, list[Example]]

    @property
    def is_empty(self) -> bool:
        return not any(corpus.documents for parts in self.corpora.values() for corpus in parts)

    @property
    def weights(self) -> dict[str, list[float]]:
        """The weights of the parts of every corpus."""
        return {name: [part.weight for part in parts] for name, parts in self.corpora.items()}

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of documents and examples."""
        return {
            "documents": sum(documents_in(parts) for parts in self.corpora.values()),
            "examples": sum(len(rows) for rows in self.examples.values()),
        }

    def fingerprint(self) -> str:
        """Return a hash of everything in it."""
        content = {
            "corpora": {
                name: [[part.documents, part.weight] for part in parts]
                for name, parts in self.corpora.items()
            },
            "examples": {name: [asdict(example) for example in rows] for name, rows in self.examples.items()},
        }
        return json_digest(content)


@dataclass(frozen=True)
class DataShares:
    """First pass and rest make up the half that strengths are chosen by; ``first`` is empty where it is too small."""

    first: DataShare
    rest: DataShare
    report: DataShare

    @property
    def choice(self) -> tuple[DataShare, ...]:
        return (self.rest,) if self.first.is_empty else (self.first, self.rest)


def split_data(
    corpora: Corpora, tasks: Mapping[str, Task], max_examples: int | None, seed: int
) -> DataShares:
    """Split every corpus in two halves by seed, and every task into its validation split and its test split.

    A task without a test split is halved. At most ``max_examples`` are taken of either. The first quarter of the
    first half is the first pass, if it is large enough.

    Raises:
      SettingError: a corpus has fewer than two documents, or a task fewer than two examples.
    """
    halves = {name: [halves_of_corpus(part, seed) for part in parts] for name, parts in corpora.items()}
    rows = {name: halves_of_task(task, max_examples) for name, task in tasks.items()}
    chosen: list[Sequence[Any]] = [
        *(first.documents for parts in halves.values() for first, _ in parts),
        *(examples for examples, _ in rows.values()),
    ]
    passes = all(len(items) >= 2 * _LEAST_OF_A_PASS for items in chosen)

    def quarter(items: Sequence[Any]) -> int:
        return max(_LEAST_OF_A_PASS, len(items) // 4) if passes else 0

    def share(name: str, number: int) -> DataShare:
        def cut(items: list[Any]) -> list[Any]:
            return items[: quarter(items)] if number == 0 else items[quarter(items) :]

        return DataShare(
            name,
            {
                corpus: [replace(first, documents=cut(first.documents)) for first, _ in parts]
                for corpus, parts in halves.items()
            },
            {task: cut(first) for task, (first, _) in rows.items()},
        )

    report = DataShare(
        "report",
        {corpus: [second for _, second in parts] for corpus, parts in halves.items()},
        {task: second for task, (_, second) in rows.items()},
    )
    return DataShares(share("first", 0), share("rest", 1), report)
