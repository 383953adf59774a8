"""Every Python and console block of the README and the docs runs, or says why not; what is shown is what is printed.

The blocks of a page run in order, in one folder, and the Python ones share their names. Times and sizes of files are
not compared, and a line of dots stands for any number of lines.
"""

import contextlib
import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

import make_reference
from intruders.cli.main import app
from tests.commands import in_this_process
from tests.docs.pages import READ, ROOT, Block, blocks
from tests.research_commands import with_research

RUN = ("python", "console")
BLOCKS = {page: list(blocks(page)) for page in READ}
RUNNABLE = [
    page
    for page, found in BLOCKS.items()
    if any(block.language in RUN and block.reason is None for block in found)
]
_VARIES = re.compile(r"\b\d+(?:\.\d+)? (?:s|ms)\b")


@pytest.mark.models
@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with_research(monkeypatch)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "research").symlink_to(ROOT / "research")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCKS[page]:
        if block.reason is None and block.language == "python":
            run_python(block, names)
        elif block.reason is None and block.language == "console":
            run_console(block, tmp_path)


def run_python(block: Block, names: dict[str, object]) -> None:
    code = compile("\n" * block.line + block.text, str(block.page), "exec")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        exec(code, names)


def run_console(block: Block, folder: Path) -> None:
    for command, shown in sessions(block.text):
        program, *arguments = shlex.split(command)
        assert program == "intruders", f"{block}: only intruders is run here; say why {program} is not"
        done = once(tuple(arguments), folder)
        printed = done.stdout + done.stderr
        assert is_shown(shown, printed), f"{block}: {command}\n{printed}"
        assert done.returncode == 0 or done.stderr.strip().splitlines()[-1] in shown, f"{block}: {printed}"


# What pages have in common, an audit above all, is computed for one of them: by command and content of the folder.
_DONE: dict[object, tuple[subprocess.CompletedProcess[str], dict[Path, bytes]]] = {}


def once(arguments: tuple[str, ...], folder: Path) -> subprocess.CompletedProcess[str]:
    """The command's result and its files, computed or as an equal command in an equal folder left them."""
    before = content_of(folder)
    key = arguments, frozenset(before.items())
    if key not in _DONE:
        done = in_this_process(*arguments, cwd=folder)
        done.stdout, done.stderr = (text.replace(f"{folder}/", "") for text in (done.stdout, done.stderr))
        _DONE[key] = done, {path: raw for path, raw in content_of(folder).items() if before.get(path) != raw}
    done, made = _DONE[key]
    for path, raw in made.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(raw)
    return done


def content_of(folder: Path) -> dict[Path, bytes]:
    """The content of every file but those of examples, which is a link."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sessions(text: str) -> list[tuple[str, str]]:
    """The commands of a block, each with the lines below it. A backslash continues a command."""
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text.replace("\\\n", ""), re.MULTILINE)


def is_shown(shown: str, printed: str) -> bool:
    """Whether the lines shown are those printed, with "..." for any lines between."""
    parts = [r"(?:.*\n)*" if line == "..." else f"{re.escape(line)}\n" for line in lines_of(shown)]
    return re.fullmatch("".join(parts), "".join(f"{line}\n" for line in lines_of(printed))) is not None


def lines_of(text: str) -> list[str]:
    lines = [_VARIES.sub("TIME", line.rstrip()) for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def test_reasons_are_given_in_words() -> None:
    for block in (block for blocks_of_page in BLOCKS.values() for block in blocks_of_page):
        if block.reason is not None:
            assert block.language in RUN, f"{block}: a block that is not run anyway needs no reason"
            assert len(block.reason.split()) >= 2, block


def test_only_these_lines_differ() -> None:
    assert is_shown("a\n...\nd\n", "a\nb\nc\nd\n")
    assert is_shown("a\n...\n", "a\n")
    assert is_shown("...\nb\n", "a\nb\n")
    assert is_shown("a 0.5 s\n", "a 1.7 s\n\n")
    assert not is_shown("a\nd\n", "a\nb\nd\n")
    assert not is_shown("a\n...\nd\n", "a\nb\n")


GROUP = typer.main.get_command(app)
RESEARCH = make_reference.research_commands()


def test_commands_that_are_shown_can_be_typed() -> None:
    """Commands and options of the other blocks, too: they are read as the command line reads them."""
    for block in (block for page in READ for block in BLOCKS[page]):
        starts = {"bash": r"(?:\$ )?", "console": r"\$ "}.get(block.language, "no line")
        lines = re.findall(rf"^{starts}(intruders [a-z].*)$", block.text.replace("\\\n", " "), re.MULTILINE)
        for line in lines:
            name, *arguments = shlex.split(line.partition(" | ")[0], comments=True)[1:]
            if "COMMAND" in line or "--help" in arguments:
                continue
            if name == "finetune" and "--config" not in arguments:
                assert {"--steps", "--epochs"} & set(arguments), f"{block}: neither of them, which is refused"
            command = RESEARCH.get(name) or GROUP.commands[name]  # type: ignore[attr-defined]
            with command.make_context(name, arguments) as context:
                assert context.params, f"{block}: {line}"
