"""Terminals, pipes and encodings as people have them: narrow, closed early, not UTF-8; and completion in a shell."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from intruders.cli.main import app
from intruders.cli.output import put_json
from intruders.cli.standard_streams import forgiving
from tests.commands import environment


def test_a_reader_who_leaves_changes_nothing_else() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"to nobody")
    with open(writer, "w", encoding="utf-8") as pipe:
        stream = forgiving(pipe)
        written = [stream.write("more than a reader wanted\n") for _ in range(3)]
        stream.flush()
        assert written == [len("more than a reader wanted\n")] * 3
        stream.close()
        os.fstat(writer)  # is still open for whoever owns it


def test_a_pipe_that_closes_early_leaves_the_status_as_it_was() -> None:
    """The command starts only when nobody reads any more."""
    command = [sys.executable, "-m", "intruders", "--version"]
    shell = ["bash", "-c", 'read -r; "$@"; echo "status $?" >&2', "-", *command]
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(shell, text=True, env=environment(), **pipes) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        assert process.communicate("\n", timeout=60)[1] == "status 0\n"


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "a... +- 0.1 m?del\n"), ("latin-1", "a... \xb1 0.1 m\xf6del\n")]
)
def test_what_an_encoding_lacks_is_replaced(tmp_path: Path, encoding: str, shown: str) -> None:
    file = tmp_path / "out"
    with file.open("w", encoding=encoding) as out:
        print("a\N{HORIZONTAL ELLIPSIS} \xb1 0.1 m\xf6del", file=forgiving(out))
    assert file.read_text(encoding=encoding) == shown


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_json_on_standard_output_keeps_every_name(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding, errors="intruders.readable")
    monkeypatch.setattr(sys, "stdout", stream)
    assert put_json({"base": "m\xf6del \u03b5"}, "-")
    sys.stdout.flush()
    assert json.loads(written.getvalue().decode(encoding)) == {"base": "m\xf6del \u03b5"}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("intruders mit", ["mitigate"]),
        ("intruders finetune --method lora-", ["lora-fa"]),
        ("intruders mitigate base tuned --remedy d", ["directions", "dg-hard", "drop"]),
        ("intruders mitigate base tuned --control re", ["resized"]),
        ("intruders audit minilm", ["minilm-l6", "minilm-l6-lora"]),
    ],
)
def test_a_shell_completes_commands_choices_and_models(typed: str, offered: list[str]) -> None:
    asked = {"_INTRUDERS_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    assert set(CliRunner().invoke(app, [], prog_name="intruders", env=asked).output.split()) >= set(offered)
