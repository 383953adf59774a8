"""What docstrings and comments refer to exists: functions, classes and modules by their roles, pages by their paths."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import intruders
from tests.house.test_layers import FILE_OF, FILES, PACKAGE, module_of

ROOT = PACKAGE.parent
ROLE = re.compile(r":(?:func|mod|class|meth|attr|data|exc):`~?([\w.]+)`")
PAGE = re.compile(r"(?<![\w/.])docs/[\w./-]+\.md\b")
READ_IN_BROWSERS = sorted(file for file in (PACKAGE / "reports" / "page").iterdir() if file.is_file())


def docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def names_in(tree: ast.Module) -> set[str]:
    """What the file defines or imports, and the members of its classes, alone and after the class's name."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@cache
def sources() -> dict[str, str]:
    """Every module's text, read when a test asks: every process collects this file."""
    return {module_of(file): file.read_text(encoding="utf-8") for file in FILES}


@cache
def tree_of(module: str) -> ast.Module:
    """A module's tree: to parse them all takes seconds, and most have no reference and are not referred to."""
    return ast.parse(sources()[module])


@cache
def names_of(module: str) -> set[str]:
    return names_in(tree_of(module)) if module in sources() else set()


@cache
def is_a_name_anywhere(name: str) -> bool:
    return any(name in source and name in names_of(module) for module, source in sources().items())


def exists(target: str, module: str, names: set[str]) -> bool:
    """Whether a reference in ``module``, which has ``names``, leads anywhere."""
    if target.startswith("."):
        depth = len(target) - len(target.lstrip("."))
        package = module if FILE_OF[module].stem == "__init__" else module.rpartition(".")[0]
        above = package.split(".")[: len(package.split(".")) - depth + 1]
        return exists(".".join([*above, target[depth:]]), module, names)
    if target.startswith("intruders."):
        owner, _, last = target.rpartition(".")
        is_public = owner == "intruders" and last in intruders.__all__
        return target in FILE_OF or is_public or last in names_of(owner)
    first, *rest = target.split(".")
    if first not in names and first not in intruders.__all__:
        return FILE_OF.get(f"{module.rpartition('.')[0]}.{target}") is not None
    return not rest or is_a_name_anywhere(rest[0])


def dead_references(tree: ast.Module, module: str) -> list[str]:
    targets = [target for text in docstrings(tree) for target in ROLE.findall(text)]
    names = names_in(tree) if targets else set()
    return [target for target in targets if not exists(target, module, names)]


def test_what_a_docstring_refers_to_exists() -> None:
    for module, source in sources().items():
        assert not ROLE.search(source) or dead_references(tree_of(module), module) == [], module
        assert [page for page in PAGE.findall(source) if not (ROOT / page).is_file()] == [], module


def test_public_docstrings_refer_to_public_names() -> None:
    """The site shows them without the file around."""
    for name in set(intruders.__all__) - {"__version__"}:
        for target in ROLE.findall(getattr(intruders, name).__doc__ or ""):
            first = target.removeprefix("intruders.").split(".")[0]
            assert target in FILE_OF or first in intruders.__all__, name


@pytest.mark.parametrize("file", READ_IN_BROWSERS, ids=lambda file: file.name)
def test_scripts_of_the_page_name_files_that_exist(file: Path) -> None:
    names = {python.name for python in FILES}
    named = re.findall(r"\b(\w+\.py)\b", file.read_text(encoding="utf-8"))
    assert [name for name in named if name not in names] == []


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("See :func:`gone`.", ["gone"]),
        ("See :func:`.config.read_study`.", [".config.read_study"]),
        ("See :mod:`.work`.", [".work"]),
        ("See :class:`intruders.Gone` and :class:`intruders.Audit`.", ["intruders.Gone"]),
        ("See :func:`here`, :meth:`Value.unit` and :class:`Value`.", []),
    ],
)
def test_a_dead_reference_is_found(text: str, dead: list[str]) -> None:
    source = f'"""{text}"""\ndef here(): ...\nclass Value:\n    def unit(self): ...\n'
    assert dead_references(ast.parse(source), "intruders.measures.evaluate") == dead
