"""The reference tables of the documentation name what the code has, all of it and nothing else.

A table is read by the header of its first column. What it names are the words in backticks of one or all columns.
"""

import ast
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import takewhile

import pytest

from intruders.audits.fleet.fleet_table import COLUMNS as OF_FLEETS
from intruders.audits.result.records import SUBSPACE_COLUMNS
from intruders.audits.result.vector_table import VECTOR_SCHEMA
from intruders.cli.main import GROUPS
from intruders.data.hub_tasks import HUB_TASKS
from intruders.data.local_files import SUFFIXES
from intruders.experiments.experiment_settings import INTERPOLATE
from intruders.mitigation.remedies.every_remedy import PUBLISHED, published_remedy
from intruders.mitigation.remedies.remedy_table import CONTROLS, SHRINK_OUTPUT
from intruders.settings import settings_of
from intruders.studies.tables import COLUMNS
from intruders.system.this_process import ExitStatus
from intruders.training.finetune_config import FinetuneConfig
from intruders.training.run_settings import METHODS
from intruders_research.claim_names import CLAIMS
from tests.docs.pages import DOCS, ROOT
from tests.house.pinned_facts import STUDIES
from tests.made_up import BERT, made_up_audit

PACKAGE = ROOT / "intruders"
# Ray itself reads it, where a command has --ray without a value.
READ_BY_RAY = {"RAY_ADDRESS"}
# Extras for who develops this package; what they install changes often and concerns nobody else.
OF_DEVELOPERS = {"test", "docs"}


@dataclass(frozen=True)
class Table:
    """A table of a page: what it should name, and in which columns."""

    page: str  # under docs
    header: str  # of the first column, as written
    expected: Callable[[], set[str]]
    under: str = ""  # the heading above it, where a page has more tables with that header
    columns: tuple[int, ...] = (0,)
    pattern: str = r"`([^`]+)`"  # of what a cell names

    def __str__(self) -> str:
        return f"{self.page} {self.header}"

    def rows(self, text: str) -> list[str]:
        """The rows below the header. Fails if the page has no such table."""
        start = text.index(f"## {self.under}\n") if self.under else 0
        lines = text[start:].splitlines()
        first = next(number for number, line in enumerate(lines) if line.startswith(f"| {self.header} |"))
        return list(takewhile(lambda line: line.startswith("|"), lines[first + 2 :]))

    def named(self, text: str) -> set[str]:
        names: set[str] = set()
        for row in self.rows(text):
            cells = re.split(r"(?<!\\)\|", row)[1:-1]
            for column in self.columns:
                names.update(re.findall(self.pattern, cells[column]))
        return names


@cache
def environment_variables() -> set[str]:
    """Names that the package looks up in os.environ, as constants of the file or of its module."""
    names = set(READ_BY_RAY)
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            key = _key_of_environment(node)
            if isinstance(key, ast.Constant):
                names.add(str(key.value))
            elif isinstance(key, ast.Name):
                names.add(str(constants[key.id]))
    return names


def _key_of_environment(node: ast.AST) -> ast.expr | None:
    """What is looked up, in ``os.environ.get(KEY)``, ``os.environ[KEY]`` or ``os.getenv(KEY)``."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.environ.get", "os.getenv"):
        return node.args[0]
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        return node.slice if ast.unparse(node.value) == "os.environ" else None
    return None


AUDIT = made_up_audit(1, BERT, width=8).to_document()
MATRIX = AUDIT["matrices"][0]
# Those of the objects directly under an audit's keys, but not those of packages and of matrices; and of a matrix.
WITHIN_AUDIT = {key for name in ("base", "tuned", "totals") for key in AUDIT[name]}
WITHIN_MATRIX = {*MATRIX["update"], *MATRIX["vectors"][0], *MATRIX["similarity"]}
# Without the chance of another column, which has that column's name and ``_chance``.
OF_SUBSPACES = {
    name for name in SUBSPACE_COLUMNS if name.removesuffix("_chance") not in set(SUBSPACE_COLUMNS) - {name}
}
EVERY_CONTROL = {*CONTROLS, SHRINK_OUTPUT, INTERPOLATE}
STATUSES = {str(int(status)) for status in ExitStatus}
OF_A_GATE = STATUSES - {str(int(ExitStatus.NOT_TOLD))}  # which verify has alone
# Options of finetune that keep the last state below a limit.
LIMITS = {name.replace("_", "-") for name in settings_of(FinetuneConfig) if name.startswith("keep_")}


@cache
def optional_dependencies() -> dict[str, list[str]]:
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    given: dict[str, list[str]] = described["project"]["optional-dependencies"]
    return {extra: [re.split(r"[><=\[]", one)[0].lower() for one in needs] for extra, needs in given.items()}


TABLES = [
    Table("reference/finetune.md", "`--method`", lambda: set(METHODS)),
    Table("reference/finetune.md", "`--task`", lambda: {"word-problems", "pydoc-topics", *HUB_TASKS, *SUFFIXES}),
    Table("reference/study.md", "file", lambda: {str(file.relative_to(ROOT)) for file in STUDIES}, under="Examples"),
    Table("reference/environment.md", "variable", environment_variables, under="Environment variables of intruders"),
    Table("reference/environment.md", "status", lambda: STATUSES, pattern=r"^ (\d+) $"),
    Table("how-to/ci.md", "status", lambda: OF_A_GATE, pattern=r"^ (\d+) $"),
    Table("reference/files.md", "key", lambda: set(AUDIT), under="JSON of an audit, schema 1"),
    Table("reference/files.md", "key", lambda: set(MATRIX), under="Keys of a matrix"),
    Table("reference/files.md", "columns", lambda: set(VECTOR_SCHEMA.names), under="Parquet of an audit"),
    Table(
        "reference/files.md", "column", lambda: OF_SUBSPACES, under="Subspaces", columns=(0, 2),
        pattern=r"`(?!_)([a-z0-9_]+)`",
    ),
    Table("how-to/fleet.md", "column", lambda: {name for name, _ in OF_FLEETS}),
    Table("how-to/forget-less.md", "argument", lambda: LIMITS, columns=(1,), pattern=r"`--([a-z-]+)"),
    Table("concepts/statistics.md", "analysis", lambda: set(CLAIMS)),
    Table("reference/remedies.md", "`--control`", lambda: EVERY_CONTROL),
    Table("install.md", "extra", lambda: set(optional_dependencies())),
]  # fmt: skip


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_a_table_names_what_the_code_has(table: Table) -> None:
    assert table.named((DOCS / table.page).read_text(encoding="utf-8")) == table.expected()


def test_every_table_of_a_study_is_named() -> None:
    table = Table("reference/study.md", "file", set, under="The folder", pattern=r"`([a-z]+)\.parquet`")
    assert table.named((DOCS / table.page).read_text(encoding="utf-8")) == set(COLUMNS)


@pytest.mark.parametrize(
    ("under", "keys"), [("JSON of an audit, schema 1", WITHIN_AUDIT), ("Keys of a matrix", WITHIN_MATRIX)]
)
def test_inner_keys_are_named_with_their_owner(under: str, keys: set[str]) -> None:
    text = (DOCS / "reference" / "files.md").read_text(encoding="utf-8")
    table = Table("reference/files.md", "key", set, under=under, columns=(0, 1))
    assert keys - table.named(text) == set()


def test_what_an_extra_adds() -> None:
    table = Table("install.md", "extra", set)
    for row in table.rows((DOCS / "install.md").read_text(encoding="utf-8")):
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        for extra in set(re.findall(r"`([^`]+)`", cells[0])) - OF_DEVELOPERS:
            assert sorted(cells[1].split(", ")) == sorted(optional_dependencies()[extra]), extra


def test_lists_in_sentences() -> None:
    """The glossary's list of controls, and the number of them beside other tools."""
    glossary = (DOCS / "concepts" / "glossary.md").read_text(encoding="utf-8")
    (row,) = (line for line in glossary.splitlines() if line.startswith("| control |"))
    assert set(re.findall(r"`([^`]+)`", row)) == EVERY_CONTROL
    words = ["six", "seven", "eight", "nine", "ten", "eleven"]
    comparison = (DOCS / "results" / "comparison.md").read_text(encoding="utf-8")
    assert f"| controls | {words[len(EVERY_CONTROL) - 6]} |" in comparison


def test_pages_that_the_makefile_names_exist() -> None:
    named = re.findall(r"docs/[\w/-]+\.md", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert named
    assert [page for page in named if not (ROOT / page).is_file()] == []


def test_times_that_other_pages_copy_are_those_of_the_benchmark() -> None:
    table = Table("results/performance.md", "matrices", set)
    rows = [
        [cell.strip() for cell in row.split("|")[1:-1]]
        for row in table.rows((DOCS / table.page).read_text(encoding="utf-8"))
    ]
    two_svds, peft, ours = next(row[2:5] for row in rows if row[:2] == ["4096 x 4096", "0/10"])
    comparison = (DOCS / "results" / "comparison.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| 4096 × 4096 .*\| {ours} s \| {two_svds} s \| {peft} s \|", comparison, re.M)
    cost = (DOCS / "cost.md").read_text(encoding="utf-8")
    for shape in ("4096 x 4096", "4096 x 11008"):
        times = [round(float(row[2])) for row in rows if row[0] == shape]
        assert f"{min(times)} to {max(times)} s for {shape.replace('x', '×')}" in cost


def test_the_notebook_and_its_page_install_the_same() -> None:
    first = json.loads((ROOT / "examples" / "tour.ipynb").read_text(encoding="utf-8"))["cells"][0]
    page = (DOCS / "tutorials" / "audit.md").read_text(encoding="utf-8")
    installs = re.compile(r"^pip install .+$", re.MULTILINE)
    assert installs.findall("".join(first["source"])) == installs.findall(page)


def test_commands_that_run_models_are_listed_with_what_they_need() -> None:
    rows = Table("install.md", "extra", set).rows((DOCS / "install.md").read_text(encoding="utf-8"))
    (row,) = (row for row in rows if row.startswith("| `train`"))
    run_models = {member.__name__ for group in ("Measure", "Train and study") for member in GROUPS[group]}
    assert run_models | {"heal"} <= set(re.findall(r"`([^`]+)`", row))


def test_the_table_has_every_remedy_with_its_default_and_source() -> None:
    text = (DOCS / "reference" / "remedies.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        for line in text[text.index("| `--remedy` |") :].splitlines()
        if line.startswith("|")
    ]
    found = {row[0].strip("`"): row[1:] for row in rows[2:]}
    assert list(found) == list(PUBLISHED)
    for name, (formula, default, source, rank) in found.items():
        remedy = published_remedy(name)
        assert default == f"{remedy.strength} {getattr(remedy, remedy.strength)}"
        assert source == remedy.source
        assert (rank == "none: checkpoint only") is not remedy.fits_an_adapter
        assert formula.startswith("W")
