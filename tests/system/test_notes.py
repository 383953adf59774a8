"""What a person sees of a warning: one plain line on standard error, from the command and its workers; and of a log."""

import logging
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from intruders.system.notes import errors_only, show_warnings_as_notes
from intruders.system.processes import map_in_processes
from tests.commands import in_a_process, in_this_process


def warn_in_a_worker(item: str) -> None:
    warnings.warn(f"{item} is left\nout", stacklevel=1)
    warnings.warn(f"{item} is old", FutureWarning, stacklevel=1)


def test_a_warning_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is in the place of the folder of the base cache."""
    torch.manual_seed(0)
    files = [tmp_path / f"{name}.safetensors" for name in ("base", "tuned")]
    for file in files:
        save_file({"model.layers.0.self_attn.q_proj.weight": torch.randn(8, 8)}, file)
    (tmp_path / "cache").write_text("a file")
    command = ["audit", *map(str, files)]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = in_a_process(*command)
    assert done.returncode == 0
    [line] = done.stderr.splitlines()
    assert line.startswith("note: ")
    assert line.endswith("; nothing is kept")
    assert ".py" not in line
    assert in_this_process(*command).stderr == done.stderr


def test_a_warning_of_a_worker(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(map_in_processes(["row 3"], warn_in_a_worker, 1)) == ["row 3"]
    told = capfd.readouterr().err.splitlines()
    assert told == ["note: row 3 is left out", "note: row 3 is old (FutureWarning)"]


def test_a_note_is_given_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where libraries change the filters in between, after which Python shows a warning again."""
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    # As in a process of its own: pytest collects the warnings of a test in place of this.
    monkeypatch.setattr(
        warnings, "showwarning", lambda *warning: sys.stderr.write(warnings.formatwarning(*warning[:4]))
    )
    show_warnings_as_notes()
    for row in (1, 2, 1, 1):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn(f"row {row} is left out", stacklevel=1)
    assert capsys.readouterr().err == "note: row 1 is left out\nnote: row 2 is left out\n"


def test_attempts_are_not_told_and_errors_are() -> None:
    logger = logging.getLogger("huggingface_hub.utils._http")
    above = logging.getLogger("huggingface_hub")
    before = above.level
    with suppress(ConnectionError), errors_only("huggingface_hub"):
        assert not logger.isEnabledFor(logging.WARNING)
        assert logger.isEnabledFor(logging.ERROR)
        raise ConnectionError
    assert above.level == before
