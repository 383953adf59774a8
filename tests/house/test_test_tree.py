"""The tree of the tests mirrors the package: the tests of a file are where one looks for them, under its name.

What mirroring means: a folder of tests bears the name of the folder of the package whose files it tests, at the same
path. A test file is named for a file or a folder that lies at the mirrored path, or for the mirrored folder itself;
what it tests of that may follow: ``test_audit.py`` and ``test_audit_real_models.py`` test ``audit.py``. Beside the
package, tests mirror the repository: ``action``, ``examples``, ``docs``, whose pages no file of tests has for itself;
``research`` is there for its package, too.
What no room owns alone is in the folder of this file. Modules that only help have other names, and no tests.
"""

import ast
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT
from tests.house.test_layers import PACKAGE

HERE = Path(__file__).parent
TESTS = HERE.parent
RESEARCH = ROOT / "research" / "intruders_research"
TEST_FILES = sorted(TESTS.rglob("test_*.py"))
# A file of tests is read from top to bottom; what is longer has more than one subject.
MOST_LINES = 520


def mirrored(folder: Path) -> list[Path]:
    """Return the folders, of the package and of the repository, that a folder of tests has the path of."""
    path = folder.relative_to(TESTS)
    places = [PACKAGE / path, ROOT / path]
    if path.parts[:1] == ("research",):
        places.append(RESEARCH / path.relative_to("research"))
    return [place for place in places if place.is_dir()]


def named_for(name: str, folder: Path) -> list[str]:
    """Return the names in ``folder``, and its own, that a test file's name is, or begins with."""
    subjects = {path.stem for path in folder.iterdir()} | {folder.name}
    return [subject for subject in subjects if f"{name}_".startswith(f"{subject}_")]


def test_a_folder_of_tests_has_the_path_of_what_it_tests() -> None:
    folders = {file.parent for file in TEST_FILES} - {HERE}
    assert [str(folder.relative_to(TESTS)) for folder in sorted(folders) if not mirrored(folder)] == []


def test_a_file_of_tests_is_named_for_what_it_tests() -> None:
    assert [
        str(file.relative_to(TESTS))
        for file in TEST_FILES
        if file.parent not in (HERE, TESTS / DOCS.name)
        and not any(named_for(file.stem.removeprefix("test_"), folder) for folder in mirrored(file.parent))
    ] == []


def test_a_module_that_helps_has_no_tests() -> None:
    """Pytest would not run them."""
    helpers = set(TESTS.rglob("*.py")) - set(TEST_FILES)
    assert [
        f"{file.relative_to(TESTS)}: {node.name}"
        for file in sorted(helpers)
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ] == []


def bare_imports(source: str) -> list[str]:
    """Return the modules of the tests that ``source`` imports without the ``tests.`` before them."""
    ours = {path.stem for path in TESTS.iterdir() if path.is_dir() or path.suffix == ".py"}
    imported: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            imported.append(node.module)
    return [module for module in imported if module.split(".")[0] in ours]


def test_a_helper_has_one_name() -> None:
    """A module that is imported under two names exists twice, and no class of one is a class of the other."""
    assert {
        str(file.relative_to(TESTS)): modules
        for file in sorted(TESTS.rglob("*.py"))
        if (modules := bare_imports(file.read_text(encoding="utf-8")))
    } == {}


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        ("from matrices import hot_update", ["matrices"]),
        ("def f():\n    import engine.wrong_decisions", ["engine.wrong_decisions"]),
        ("from tests.matrices import hot_update", []),
        ("import tests.engine.wrong_decisions", []),
        ("from intruders.engine import decide\nimport numpy", []),
    ],
)
def test_a_bare_import_is_noticed(source: str, bare: list[str]) -> None:
    assert bare_imports(source) == bare


def test_a_file_of_tests_has_one_subject() -> None:
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in TESTS.rglob("*.py")}
    assert {str(file.relative_to(TESTS)): n for file, n in lengths.items() if n > MOST_LINES} == {}
