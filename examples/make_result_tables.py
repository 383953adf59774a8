"""The tables of result pages that are made from published data, and the sentences of the summary.

python examples/make_result_tables.py            # writes them into docs/results
python examples/make_result_tables.py --chart    # draws the gains of remedies into docs/figures
python examples/make_result_tables.py --check    # exit status 1, and the page, where one differs from the data

A table or list is found by how it begins, and what surrounds it stays. What each page has is in ``result_tables``. A
page where only rounding differs stays: the sums before it depend on the processor that adds.
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from intruders.charts.drawing import picture
from intruders.system.files import write_atomically
from intruders_research.effects.forest_plot import DARK, LIGHT
from intruders_research.effects.read_effects import read_effects
from intruders_research.effects.write_effects import conclusions
from result_tables.every_remedy import every_remedy, remedy_chart
from result_tables.predictors import correlations, runs_at_one_score
from result_tables.published_data import RESULTS
from result_tables.recipe import recipe_runs, recipe_verdicts
from result_tables.remedies import gains_at_allowances
from result_tables.sequences import sequence_verdicts
from result_tables.where_forgetting_sits import runs_with_places


@dataclass(frozen=True)
class ResultTable:
    """A table or list of a page: how it begins, and what makes it."""

    page: str
    begins: str
    made: Callable[[], list[str]]


def tables() -> list[ResultTable]:
    """Every table that is made here."""
    effects = read_effects(RESULTS / "data")
    return [
        ResultTable("summary.md", "- **LoRA leaves more intruders", lambda: conclusions(effects)),
        ResultTable("sequence.md", "| order, each method at its |", sequence_verdicts),
        ResultTable("what-predicts-forgetting.md", "| method, rank | rate |", runs_at_one_score),
        ResultTable("what-predicts-forgetting.md", "| number of a run |", correlations),
        ResultTable("the-usual-recipe.md", "| each method at its |", recipe_verdicts),
        ResultTable("the-usual-recipe.md", "| method, rank | rate |", recipe_runs),
        ResultTable("remedies.md", "| remedy | trained |", every_remedy),
        ResultTable(
            "remedies.md",
            "| trained | share at ",
            lambda: gains_at_allowances("which-remedy-again", "replay-or-heal"),
        ),
        ResultTable("where-forgetting-sits.md", "| method, rank | rate |", runs_with_places),
    ]


def replaced(page: str, table: ResultTable) -> str:
    """Put a table or list in the place of the one that begins so."""
    lines = page.splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith(table.begins)), None)
    if first is None:
        sys.exit(f"{table.page} has nothing that begins with {table.begins!r}")
    mark = table.begins[0]  # of every line of a table, or of a list
    last = next(number for number in range(first, len(lines)) if not lines[number].startswith(mark))
    return "\n".join([*lines[:first], *table.made(), *lines[last:]]) + "\n"


_DECIMAL = re.compile(r"[-+]?\d+\.\d+")


def is_same(page: str, made: str) -> bool:
    """Return whether words and whole numbers are the same, and decimals to one of the last digit."""
    if _DECIMAL.sub("", page) != _DECIMAL.sub("", made):
        return False
    pairs = zip(*(map(Decimal, _DECIMAL.findall(text)) for text in (page, made)), strict=True)
    return all(
        there.same_quantum(here) and abs(there - here) <= Decimal(1).scaleb(int(here.as_tuple().exponent))
        for there, here in pairs
    )


def differing() -> Iterator[tuple[Path, str]]:
    """Yield the pages that differ from their data, and what they should be."""
    made = tables()
    for name in dict.fromkeys(table.page for table in made):
        file = RESULTS / name
        text = before = file.read_text(encoding="utf-8")
        for table in made:
            if table.page == name:
                text = replaced(text, table)
        if not is_same(before, text):
            yield file, text


def main(arguments: Sequence[str]) -> None:
    if "--chart" in arguments:
        for theme in (LIGHT, DARK):
            file = RESULTS.parent / "figures" / f"remedies-{theme.name}.svg"
            write_atomically(file, picture(remedy_chart(theme), "svg", transparent=True))
            print(f"written: {file}")
        return
    pages = list(differing())
    if "--check" in arguments:
        for file, _ in pages:
            print(f"{file} differs from its data; run: python examples/make_result_tables.py")
        sys.exit(1 if pages else 0)
    for file, text in pages:
        file.write_text(text, encoding="utf-8")
        print(f"written: {file}")


if __name__ == "__main__":
    main(sys.argv[1:])
