"""The house: each room knows only the rooms beneath it, no files go round in circles, and looking in costs nothing."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import intruders
from tests.commands import without_loading

PACKAGE = Path(intruders.__file__).parent
# From the ground up. Rooms of one storey do not know each other.
STOREYS = [
    {"errors", "version"},
    {"settings"},
    {"system"},
    {"linalg", "charts"},
    {"engine", "checkpoints"},
    {"audits"},
    {"mitigation", "data"},
    {"models"},
    {"measures"},
    {"training"},
    {"experiments", "integrations"},
    {"studies"},
    {"reports"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
# Within a room, from the ground up: folders and files that come late know those that come early, never the reverse.
STUDIES = [
    {"study", "runs"},
    {"study_folder", "inputs"},
    {"stage", "train_stages", "audit_stages", "measure_stages", "experiment_stages", "stages"},
    {"work", "tables", "results"},
    {"run_study", "compare_settings"},
]
CHECKPOINTS = [
    {"stored"},
    {"formats", "quantized"},
    {"adapters"},
    {"opening"},
    {"pairing", "runtimes"},
    {"writing", "merges"},
]
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {
    *("torch", "transformers", "peft", "datasets", "gguf"),
    *("numpy", "pandas", "pyarrow", "plotly", "matplotlib"),
}


def parts_of(file: Path) -> tuple[str, ...]:
    return file.relative_to(PACKAGE).with_suffix("").parts


def room_of(file: Path) -> str:
    return parts_of(file)[0]


def module_of(file: Path) -> str:
    parts = parts_of(file)
    return ".".join(["intruders", *(parts[:-1] if parts[-1] == "__init__" else parts)])


FILE_OF = {module_of(file): file for file in FILES}


def imported(file: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, anywhere in it, also inside functions and for types alone."""
    here = ["intruders", *file.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*start, *([node.module] if node.module else [])])
            modules = [f"{module}.{alias.name}" for alias in node.names]
            inside = [name for name in modules if name in FILE_OF]
            yield from inside
            if len(inside) < len(modules):
                yield module


@cache
def arrows_of_files() -> dict[Path, set[Path]]:
    """Every file with those that it imports. Read when a test asks: every process collects this file."""
    return {
        file: {FILE_OF[name] for name in imported(file) if name in FILE_OF and FILE_OF[name] != file}
        for file in FILES
    }


def storey_of(file: Path) -> int:
    return next(number for number, rooms in enumerate(STOREYS) if room_of(file) in rooms)


def test_every_folder_is_a_room() -> None:
    assert {room_of(file) for file in FILES} <= set.union(*STOREYS)


@pytest.mark.parametrize("room", sorted(set.union(*STOREYS)))
def test_a_room_knows_only_the_rooms_beneath_it(room: str) -> None:
    up = [
        f"{module_of(file)} -> {module_of(other)}"
        for file in FILES
        if room_of(file) == room
        for other in arrows_of_files()[file]
        if room_of(other) != room and storey_of(other) >= storey_of(file)
    ]
    assert not up


@pytest.mark.parametrize(("room", "floors"), [("studies", STUDIES), ("checkpoints", CHECKPOINTS)])
def test_within_a_room_early_files_know_no_late_ones(room: str, floors: list[set[str]]) -> None:
    def level(file: Path) -> int:
        return next(number for number, names in enumerate(floors) if parts_of(file)[1] in names)

    inside = [file for file in FILES if room_of(file) == room and parts_of(file)[1] != "__init__"]
    up = [
        f"{module_of(file)} -> {module_of(other)}"
        for file in inside
        for other in arrows_of_files()[file]
        if other in inside and level(other) > level(file)
    ]
    assert not up


def test_no_two_folders_import_each_other() -> None:
    arrows = {
        (file.parent, other.parent)
        for file, others in arrows_of_files().items()
        for other in others
        # The package's own face knows every room.
        if other.parent != file.parent and PACKAGE not in (file.parent, other.parent)
    }
    assert not {(here, there) for here, there in arrows if (there, here) in arrows}


def test_no_files_import_each_other_in_a_circle() -> None:
    # Take away files that import nothing which is left, until none can be taken: what stays goes round.
    left = {file: set(others) for file, others in arrows_of_files().items()}
    while free := {file for file, others in left.items() if not others & left.keys()}:
        left = {file: others for file, others in left.items() if file not in free}
    assert not [module_of(file) for file in left]


def test_every_folder_says_what_lives_in_it() -> None:
    for file in FILES:
        if file.name == "__init__.py":
            assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), file


def names_used(file: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.id for node in nodes if isinstance(node, ast.Name)}


def imports_in(room: str) -> Iterator[tuple[Path, set[str]]]:
    return ((file, set(imported(file))) for file in FILES if room_of(file) == room)


@pytest.mark.parametrize("room", ["linalg", "engine"])
def test_numbers_know_no_model_no_file_and_no_console(room: str) -> None:
    for file, names in imports_in(room):
        own = {name for name in names if name.startswith("intruders")}
        allowed = ("intruders.linalg", "intruders.errors", f"intruders.{room}")
        assert all(name.startswith(allowed) for name in own), file
        outside = {name.split(".")[0] for name in names}
        assert not outside & {"pathlib", "os", "rich", "typer", "transformers"}, file
        assert not names_used(file) & {"print", "open"}, file


def test_checkpoints_decompose_nothing() -> None:
    # What a tensor is, and no decomposition.
    values = {f"intruders.linalg.{name}" for name in ("products", "operators", "low_rank", "pair")}
    for file, names in imports_in("checkpoints"):
        assert not any(name.startswith(("torch.linalg", "numpy.linalg")) for name in names), file
        assert {name for name in names if name.startswith("intruders.linalg")} <= values, file
        assert not names_used(file) & {"svd", "svdvals", "svd_lowrank", "eigh", "eigvalsh", "qr"}, file


def test_the_command_line_computes_nothing() -> None:
    heavy = {"torch", "numpy", "pandas", "safetensors", "transformers", "peft"}
    for file, names in imports_in("cli"):
        assert not {name.split(".")[0] for name in names} & heavy, file
        assert not any(name.startswith("intruders.linalg") for name in names), file


def test_importing_the_package_and_its_help_import_nothing_heavy() -> None:
    # A tenth of the time that the help takes would be rich, which shows the progress bar of a command that computes.
    imported_first = "import intruders\nintruders.__version__\ndir(intruders)\n"
    done = without_loading([*HEAVY, "rich"], ["--help"], before=imported_first)
    assert done.returncode == 0, done.stderr
    assert "audit" in done.stdout


def test_a_name_that_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        intruders.no_such_name  # noqa: B018
