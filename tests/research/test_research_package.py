"""The distribution: what is in its wheel, and that its commands are found where it is installed."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.commands import environment
from tests.research_commands import COMMANDS
from tests.test_pyproject import build

ROOT = Path(__file__).parents[2]
# What is read at run time besides Python.
DATA = {"published/paper.json", "pages/study.html.j2", "pages/study.js", "py.typed"}


def test_the_wheel_has_its_data_and_its_commands_are_found(tmp_path: Path) -> None:
    wheel = tmp_path / build("wheel", ROOT / "research", tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {f"intruders_research/{name}" for name in DATA} <= names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"intruders_research"}
    variables = {**environment(), "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "INTRUDERS_PLUGINS": "1"}
    for words, said in [
        (["plugins"], "commands: "),
        (["study", "--help"], "--from"),
        (["forest"], "FOLDER"),
    ]:
        done = subprocess.run(
            [sys.executable, "-m", "intruders", *words],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert said in done.stdout + done.stderr, done.stderr
    assert set(COMMANDS) == {"advise", "forest", "publish", "report", "study", "verdicts"}


def test_nothing_of_intruders_imports_research() -> None:
    files = (ROOT / "intruders").rglob("*.py")
    assert [file for file in files if re.search("(import|from) intruders_research", file.read_text())] == []
