"""The house: each room knows only the rooms above it, and looking in costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import intruders

PACKAGE = Path(intruders.__file__).parent
ROOMS = [
    "linalg",
    "checkpoints",
    "detection",
    "mitigation",
    "training",
    "evaluation",
    "studies",
    "reports",
    "cli",
]
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "datasets",
    "pandas",
    "pyarrow",
    "plotly",
    "gguf",
    "matplotlib",
    "numpy",
}


def room_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imported(file: Path, tree: ast.AST) -> Iterator[str]:
    """Dotted names of all modules that a file imports, anywhere in it; relative ones from the package's name on."""
    here = ["intruders", *file.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def passed_on(file: Path) -> set[str]:
    """Rooms below that a file may pass on to: a result's ``plot`` methods belong to ``reports``, called when called."""
    return {"reports"} if file == PACKAGE / "detection" / "table.py" else set()


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(PACKAGE)) for file in FILES])
def test_a_room_knows_only_the_rooms_above_it(file: Path) -> None:
    room = room_of(file)
    if room == "":
        return
    below = set(ROOMS[ROOMS.index(room) + 1 :]) - passed_on(file)
    seen = {
        name.split(".")[1]
        for name in imported(file, ast.parse(file.read_text()))
        if name.startswith("intruders.")
    }
    assert not seen & below


def test_every_folder_is_a_room() -> None:
    assert {room_of(file) for file in FILES} <= {"", *ROOMS}


def names_used(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} | {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name)
    }


@pytest.mark.parametrize("room", ["linalg"])
def test_numbers_know_no_model_no_file_and_no_console(room: str) -> None:
    for file in (PACKAGE / room).glob("*.py"):
        names = set(imported(file, ast.parse(file.read_text())))
        own = {name for name in names if name.startswith("intruders")}
        assert all(name.startswith(("intruders.system", "intruders.errors")) for name in own), file
        assert not {name.split(".")[0] for name in names} & {
            "pathlib",
            "os",
            "rich",
            "typer",
            "transformers",
        }, file
        assert not names_used(file) & {"print", "open"}, file


def test_checkpoints_decompose_nothing() -> None:
    for file in (PACKAGE / "checkpoints").rglob("*.py"):
        names = set(imported(file, ast.parse(file.read_text())))
        assert not any(
            name.startswith(("torch.linalg", "numpy.linalg", "intruders.system")) for name in names
        ), file
        assert not names_used(file) & {"svd", "svdvals", "svd_lowrank", "eigh", "eigvalsh", "qr"}, file


def test_the_command_line_computes_nothing() -> None:
    for file in (PACKAGE / "cli").glob("*.py"):
        names = {name.split(".")[0] for name in imported(file, ast.parse(file.read_text()))}
        assert not names & {"torch", "numpy", "pandas", "safetensors", "transformers", "peft"}, file
        assert not any(
            name.startswith("intruders.system") for name in imported(file, ast.parse(file.read_text()))
        )


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not modules_after("import intruders; intruders.__version__; dir(intruders)") & HEAVY


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import contextlib, io\nfrom intruders.cli.main import app\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "    app(['--help'], standalone_mode=False)\n"
        "assert 'audit' in out.getvalue()"
    )
    assert not modules_after(code) & HEAVY


def test_every_public_name_is_there() -> None:
    for name in intruders.__all__:
        assert getattr(intruders, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        intruders.no_such_name  # noqa: B018
