"""Names that say nothing are refused, room by room, and no two classes share a name."""

import ast
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.house.test_layers import FILES, PACKAGE, module_of, room_of

REFUSED = {"found", "one", "place", "stack"}
# Every folder of the package, so that a new one is clean from the start.
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and (path / "__init__.py").is_file())

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def is_public(function: Function, owners: list[ast.AST]) -> bool:
    """Return whether callers may name the parameters: no lambda, nothing private, nothing inside a function."""
    if isinstance(function, ast.Lambda) or any(isinstance(owner, Function) for owner in owners):
        return False
    names = [owner.name for owner in owners if isinstance(owner, ast.ClassDef)] + [function.name]
    return all(not name.startswith("_") or name.startswith("__") for name in names)


def bound_names(node: ast.AST, owners: list[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield line and name of every variable, loop and comprehension variable, and parameter of a private function."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        # What a class body binds is a field.
        if not (owners and isinstance(owners[-1], ast.ClassDef)):
            yield node.lineno, node.id
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name is not None:
        yield node.lineno, node.name
    elif isinstance(node, Function) and not is_public(node, owners):
        yield from ((argument.lineno, argument.arg) for argument in parameters(node))
    inside = [*owners, node] if isinstance(node, Function | ast.ClassDef) else owners
    for child in ast.iter_child_nodes(node):
        yield from bound_names(child, inside)


def parameters(function: Function) -> list[ast.arg]:
    given = function.args
    more = [argument for argument in (given.vararg, given.kwarg) if argument is not None]
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *more]


def refused_in(source: str) -> list[str]:
    names = bound_names(ast.parse(source), [])
    return [f"line {line}: {name}" for line, name in names if name in REFUSED]


@pytest.mark.parametrize("room", ROOMS)
def test_a_name_says_what_the_value_is(room: str) -> None:
    """``found``, ``one``, ``place`` and ``stack`` stand where the noun should.

    A result is named for what it is (`pairing`, `effects`, `rows`), a loop variable for the thing that it runs over,
    a place for what it is in (`position`, `folder`, `device`), and k vectors or matrices that are computed together
    are a `batch`: "stack" already means layers of an encoder, and experts stored in one tensor. Dataclass fields,
    keys, and parameters of public functions keep their names, since callers write them.
    """
    texts = {module_of(file): file.read_text(encoding="utf-8") for file in FILES if room_of(file) == room}
    assert {module: names for module, text in texts.items() if (names := refused_in(text))} == {}


@pytest.mark.parametrize(
    ("source", "refused"),
    [
        ("found = 1", ["line 1: found"]),
        ("(lambda stack: stack)", ["line 1: stack"]),
        ("def _f(*, one): pass", ["line 1: one"]),
        ("class _A:\n    def f(self, one): pass", ["line 2: one"]),
        ("class A:\n    def f(self, one): pass", []),
        ("class A:\n    def f(self):\n        def g(one): pass", ["line 3: one"]),
        ("def f(one): return one", []),
        ("class A:\n    stack: str", []),
        ("class A:\n    def __init__(self, one): self.place = f(stack=one)", []),
    ],
)
def test_a_refused_name_is_noticed(source: str, refused: list[str]) -> None:
    assert refused_in(source) == refused


def test_no_class_name_twice() -> None:
    """Two classes of one name cannot be told apart in a traceback, a search, or a signature."""
    names = Counter(
        node.name
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []
