"""How large the house is, counted from its files: ``python -m tests.house.size`` writes ``sizes.toml`` anew.

The script only lowers a number; what grew is raised by hand, with its reason beside it.
"""

import ast
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

from tests.house.test_layers import FILES, PACKAGE, arrows_of_files, room_of

ROOT = PACKAGE.parent
SIZES = Path(__file__).with_name("sizes.toml")
# Beside the package: lines of Python of each folder.
_BESIDE = ("tests", "research", "benchmarks", "examples")


def lines_of(folder: Path) -> int:
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in folder.rglob("*.py"))


@cache
def counted() -> dict[str, dict[str, int]]:
    lines: Counter[str] = Counter()
    for file in FILES:
        lines[room_of(file)] += len(file.read_text(encoding="utf-8").splitlines())
    modules = Counter(room_of(file) for file in FILES if file.name != "__init__.py")
    folders = [folder for folder in (ROOT / name for name in _BESIDE) if folder.is_dir()]
    return {
        "lines": {"all": sum(lines.values()), **dict(sorted(lines.items()))},
        "modules": {"all": sum(modules.values()), **dict(sorted(modules.items()))},
        "beside": {folder.name: lines_of(folder) for folder in folders},
        "ties": {
            "pairs of folders that are tied": len(_tied()),
            "functions with one caller": _called_once(),
            "options of commands": _options(),
        },
    }


def _tied() -> set[frozenset[Path]]:
    return {
        frozenset((file.parent, other.parent))
        for file, others in arrows_of_files().items()
        for other in others
        if file.parent != other.parent
    }


def _called_once() -> int:
    """Count the functions of modules whose name is used in one place, beside its definition and imports."""
    defined: set[str] = set()
    used: Counter[str] = Counter()
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        defined |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                used[node.id] += 1
            elif isinstance(node, ast.Attribute):
                used[node.attr] += 1
    return sum(used[name] == 1 for name in defined)


def _options() -> int:
    import typer

    from intruders.cli.main import app

    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    return sum(len(command.params) for command in commands)


def written() -> dict[str, dict[str, int]]:
    return tomllib.loads(SIZES.read_text(encoding="utf-8"))


def slack(bound: int) -> int:
    """How far a number may be below its bound before the bound is lowered: a twentieth of it, and 30 at most."""
    return min(30, bound // 20)


def main() -> None:
    """Write the sizes that fell, and keep the others and every comment."""
    now = counted()
    lines, table = [], ""
    for line in SIZES.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        name, equals, rest = line.partition(" = ")
        key = name.strip('"')
        if equals and not line.startswith("#"):
            if key not in now[table]:
                continue
            bound, hash_sign, reason = rest.partition("  #")
            line = f"{name} = {min(int(bound), now[table][key])}{hash_sign}{reason}"
        lines.append(line)
    SIZES.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
