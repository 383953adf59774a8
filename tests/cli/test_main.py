"""How an error reaches a person: one line, and exit status 2."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import intruders
from intruders.cli import main as cli
from intruders.cli.main import app
from tests.commands import in_this_process, refusal, without_loading


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (
            ModuleNotFoundError(name="peft.tuners"),
            2,
            "'peft', which is not installed; run pip install '.[train]'",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "error: memory ran out (DefaultCPUA"),
        # A fault of ours: not 1, which a gate of CI would take for the audit's answer.
        (ModuleNotFoundError(name="no_module_of_any_extra"), 70, "Traceback"),
    ],
)
def test_a_package_of_an_extra_and_memory_are_missed_in_one_line(
    error: Exception,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.modules["intruders.cli.main"], "app", Mock(side_effect=error))
    with pytest.raises(SystemExit) as stopped:
        cli()
    assert stopped.value.code == status
    told = capsys.readouterr().err
    assert said in told
    assert (len(told.splitlines()) == 1) == (status == 2)


COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_option_is_one_line_of_every_command(command: str) -> None:
    line = refusal(command, "--no-such-option")
    assert line.startswith("error: No such option: --no-such-option")
    assert line.endswith(f"; see 'intruders {command} --help'")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["audit", "a", "b", "--k", "1e3"], "'1e3' is not a value of '--k'"),
        (["audit", "a", "b", "--k=x"], "'x' is not a value of '--k'"),
        (["fleet", "a"], "Missing argument 'ADAPTER...'"),
        (["audti"], "Did you mean 'audit'?"),
        (["audit", "--k"], "--k"),
    ],
)
def test_what_was_typed_wrong_is_quoted_in_one_line(typed: list[str], said: str) -> None:
    assert said in refusal(*typed)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["audit", "base", ""], "TUNED is empty"),
        (["fleet", "base", "adapter", " ", "--out", "out"], "ADAPTER... is empty"),
        (["fleet", "base", "adapter", "--out", ""], "--out is empty"),
        (["report", ""], "RUN_OR_AUDIT... is empty"),
        (["mitigate", "base", "tuned", "--out", "out", "--audit", ""], "--audit is empty"),
        (["evaluate", "base", "--task="], "--task is empty"),
        (["cache", "--cache", ""], "--cache is empty"),
        *[
            (["audit", "base", "tuned", name, "-"], f"{name} is '-', and only --json prints to")
            for name in ("--html", "--sarif", "--parquet")
        ],
    ],
)
def test_an_empty_path_and_a_dash_are_refused(typed: list[str], said: str, tmp_path: Path) -> None:
    assert refusal(*typed, cwd=tmp_path).startswith(f"error: {said}")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_looked_at_is_not_made(tmp_path: Path) -> None:
    for more in ([], ["--clear"]):
        done = in_this_process("cache", "--cache", "missing", *more, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "missing: this folder does not exist, so it has no cache\n"
        assert list(tmp_path.iterdir()) == []


def test_a_cache_is_looked_at_and_cleared_without_torch(tmp_path: Path) -> None:
    """It takes seconds to load, and the sizes of files are asked for."""
    intruders.prepare({"up.weight": torch.eye(4)}, out=tmp_path)
    done = without_loading(["torch"], ["cache", "--cache", tmp_path, "--clear"])
    assert done.returncode == 0, done.stderr
    assert "1 matrices" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[-1] == "removed 1 matrices"


def test_a_cache_with_entries_of_another_user_says_how_many_are_left() -> None:
    weights = {f"layers.{layer}.weight": torch.eye(4 + layer) for layer in range(2)}
    am_root = os.geteuid() == 0
    # Which every user can enter, unlike those of pytest and that of the project.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        intruders.prepare(weights, out=folder)
        folders = [Path(folder), *(entry.parent for entry in Path(folder).glob("*/*.safetensors"))]
        for entered in folders:
            entered.chmod(0o555)
        if am_root:
            os.seteuid(65534)  # the superuser may remove everything
        try:
            done = in_this_process("cache", "--cache", folder, "--clear")
        finally:
            if am_root:
                os.seteuid(0)
        for entered in folders:
            entered.chmod(0o755)
        assert done.returncode == 2
        assert done.stdout.splitlines()[-1] == "removed 0 matrices"
        assert done.stderr.startswith(f"error: 2 matrices in '{folder}' cannot be removed; expected entries")
        assert len(done.stderr.splitlines()) == 1
